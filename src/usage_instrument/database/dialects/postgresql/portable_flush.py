"""The flush in plain statements, for servers that speak PostgreSQL but are not it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    cast,
    column,
    exists,
    func,
    literal_column,
    select,
    table,
    text,
    update,
)

from usage_instrument.events import Batch, Count

from ...dimensions import DimensionRow
from ...exposures import ExposureRow
from ...ledger import Ledger
from ...tables import Tables
from ..base import ConcurrentInsertError, Flush, unique_key
from ..batch_json import dimensions_json, exposures_json, has_metadata, history_json, usage_json
from .additions import (
    Addition,
    by_bytes,
    dimension_addition,
    exposure_addition,
    history_addition,
    history_columns,
    key_of_rows,
    usage_addition,
    usage_columns,
    user_rows,
)

T = TypeVar("T")


class PortableFlush(Flush):
    """Updates the existing keys, looks for the missing ones, and inserts them, in one transaction.

    No statement changes two tables, reads what it changes, or calls the sequence of an id: distributed engines refuse
    these, or run them where the sequence is not.
    """

    def __init__(self, tables: Tables, metadata_max_bytes: int) -> None:
        self._usage = {}
        for with_metadata in (False, True):
            rows = user_rows(tables, *usage_columns(with_metadata=with_metadata))
            addition = usage_addition(tables, rows, metadata_max_bytes, with_metadata=with_metadata)
            self._usage[with_metadata] = _Statements(addition, tables)
        buckets = user_rows(tables, *history_columns())
        self._history = _Statements(history_addition(tables, buckets), tables)
        self._exposures = _Statements(exposure_addition(tables), tables)
        self._dimensions = _Statements(dimension_addition(tables), tables)

    def apply(self, connection: Connection, ledger: Ledger, batch: Batch) -> bool:
        if not ledger.advance(connection, batch.number):
            return False
        counts = batch.counts
        if not counts:
            return True
        rows = usage_json(counts)
        usage = self._usage[has_metadata(counts)]
        usage.run(
            connection,
            rows,
            len(counts),
            lambda: {(count.user, count.feature): count for count in counts},
            usage_json,
        )
        if all(len(count.history) == 1 for count in counts):
            self._history.run(connection, rows, len(counts), lambda: _buckets(counts), history_json)
        elif counts[0].history:
            self.add_history(connection, counts)
        return True

    def add_history(self, connection: Connection, counts: Sequence[Count]) -> None:
        number = sum(len(count.history) for count in counts)
        self._history.run(connection, history_json(counts), number, lambda: _buckets(counts), history_json)

    def add_exposures(self, connection: Connection, rows: Sequence[ExposureRow]) -> None:
        self._exposures.run(
            connection, exposures_json(rows), len(rows), lambda: {row[:3]: row for row in rows}, exposures_json
        )

    def add_dimensions(self, connection: Connection, rows: Sequence[DimensionRow]) -> None:
        self._dimensions.run(
            connection,
            dimensions_json(rows),
            len(rows),
            lambda: {
                (row.user, row.feature, row.slice.dimension, row.slice.value, row.slice.start): row for row in rows
            },
            dimensions_json,
        )

    def by_bytes(self, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        return by_bytes(*columns)


class _Statements:
    """The three statements that add rows to one table."""

    def __init__(self, addition: Addition, tables: Tables) -> None:
        table = addition.table
        key = unique_key(table, tables.user_id_type) if table is not tables.exposures else [*table.primary_key.columns]
        same = [mine == theirs for mine, theirs in zip(key, key_of_rows(addition, tables), strict=True)]
        self._update = update(table).where(*same).values(dict(addition.existing))
        self._missing = select(*addition.row_key).where(~exists(literal_column("1")).where(*same))
        self._insert = addition.upsert(key)

    def run(
        self,
        connection: Connection,
        rows: str,
        number: int,
        by_key: Callable[[], Mapping[tuple[Any, ...], T]],
        json: Callable[[list[T]], str],
    ) -> None:
        """Add a number of rows, and write those as JSON that are missing; `by_key` has them under the values of their
        `row_key`. Raises ConcurrentInsertError."""
        updated = connection.execute(self._update, {"rows": rows}).rowcount
        if updated == number:
            return
        found, missing = by_key(), connection.execute(self._missing, {"rows": rows})
        new = [found[tuple(key)] for key in missing]
        if updated + len(new) != number:  # another writer has inserted one since the UPDATE
            raise ConcurrentInsertError
        connection.execute(self._insert, {"rows": json(new)})


def _buckets(counts: Sequence[Count]) -> dict[tuple[Any, ...], Count]:
    """Each bucket of the history as a count."""
    return {
        (count.user, count.feature, bucket[0]): count._replace(history=(bucket,))
        for count in counts
        for bucket in count.history
    }


def is_distributed(connection: Connection, tables: Tables) -> bool:
    """Whether the server is another one than PostgreSQL, or has distributed one of the tables by Citus."""
    version, has_citus = connection.execute(_SERVER).one()
    if any(name in str(version) for name in _OTHER_SERVERS):
        return True
    names = (connection.dialect.identifier_preparer.format_table(table) for table in tables)
    ours = column("logicalrelid").in_([func.to_regclass(cast(name, Text)) for name in names])
    distributed = table("pg_dist_partition", schema="pg_catalog")
    return bool(has_citus and connection.scalar(select(exists().select_from(distributed).where(ours))))


_SERVER = text("SELECT version(), to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL")
_OTHER_SERVERS = ("CockroachDB", "-YB-")
