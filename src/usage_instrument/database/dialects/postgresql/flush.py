"""The flush: ledger, counts and history in one statement, one round trip."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Table,
    bindparam,
    exists,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import Insert

from usage_instrument.events import Batch, Count

from ...dimensions import DimensionRow
from ...exposures import ExposureRow
from ...ledger import Ledger
from ...tables import Tables
from ..base import Flush, unique_key
from ..batch_json import dimensions_json, exposures_json, has_metadata, history_json, usage_json
from .additions import (
    UTC_NOW,
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
from .arrays import UsageArrays


class PostgreSQLFlush(Flush):
    """One statement per batch, over rows in arrays or, for drivers that send none, in one JSON parameter.

    For an existing key the statement inserts the row's own id, so the conflict consumes no number of the sequence.
    All processes sort rows in the same order, so two writers never deadlock. The UPDATE of the ledger is a CTE on which
    the INSERTs depend, so it needs no round trip. The INSERT into the history is another CTE over the same rows. A
    batch with several buckets per count has more rows of history than of counts: those are sent separately.
    """

    def __init__(self, connection: Connection, tables: Tables, metadata_max_bytes: int) -> None:
        self._tables = tables
        self._metadata_max_bytes = metadata_max_bytes
        self._sequence = _sequence(connection, tables.usage)
        self._arrays = UsageArrays(tables)
        self._statements: dict[tuple[bool, bool, bool], Insert] = {}

    # Built when a batch first has such rows, of which most processes have none.

    @functools.cached_property
    def _exposures(self) -> Insert:
        return exposure_addition(self._tables).upsert([*self._tables.exposures.primary_key.columns])

    @functools.cached_property
    def _dimensions(self) -> Insert:
        return dimension_addition(self._tables).upsert(self._key(self._tables.dimensions))

    @functools.cached_property
    def _history(self) -> Insert:
        history = history_addition(self._tables, user_rows(self._tables, *history_columns()))
        return history.upsert(self._key(self._tables.history))

    def apply(self, connection: Connection, ledger: Ledger, batch: Batch) -> bool:
        counts = batch.counts
        if not counts:
            return ledger.advance(connection, batch.number)
        with_metadata, with_history = has_metadata(counts), all(len(count.history) == 1 for count in counts)
        rows: dict[str, Any] = {}
        if as_arrays := self._arrays.fit(connection):
            rows.update(self._arrays.parameters(connection, counts, with_metadata, with_history))
        else:
            rows["rows"] = usage_json(counts)
        added = connection.execute(
            self._statement(with_metadata, with_history, as_arrays),
            {
                **rows,
                "writer": ledger.writer_id,
                "before": ledger.number,
                "number": batch.number,
                "known": ledger.suppression,
            },
            execution_options={"preserve_rowcount": True},
        )
        if added.rowcount == 0:
            return False
        if counts[0].history and not with_history:
            self.add_history(connection, counts)
        return True

    def add_history(self, connection: Connection, counts: Sequence[Count]) -> None:
        connection.execute(self._history, {"rows": history_json(counts)})

    def _statement(self, with_metadata: bool, with_history: bool, as_arrays: bool) -> Insert:
        which = with_metadata, with_history, as_arrays
        if which not in self._statements:
            self._statements[which] = self._make(*which)
        return self._statements[which]

    def _make(self, with_metadata: bool, with_history: bool, as_arrays: bool) -> Insert:
        usage, writers = self._tables.usage, self._tables.writers
        ledger = (
            update(writers)
            .where(
                writers.c.writer_id == bindparam("writer"),
                writers.c.last_batch == bindparam("before"),
                writers.c.last_batch < bindparam("number"),
                writers.c.suppression == bindparam("known"),
            )
            .values(last_batch=bindparam("number"), heartbeat_at=UTC_NOW)
            .returning(literal_column("1").label("moved"))
            .cte("ledger")
        )
        moved = exists(select(ledger.c.moved))
        columns = usage_columns(with_metadata=with_metadata, with_history=with_history)
        given = self._arrays.rows(columns) if as_arrays else select(user_rows(self._tables, *columns))
        # Two INSERTs read a CTE, and it is unpacked once.
        rows: FromClause = given.cte("d") if with_history else given.subquery("d")
        addition = usage_addition(self._tables, rows, self._metadata_max_bytes, with_metadata=with_metadata)
        if self._sequence is not None:
            mine = usage.alias("mine")
            theirs = key_of_rows(addition, self._tables)
            same = [
                left == right for left, right in zip(unique_key(mine, self._tables.user_id_type), theirs, strict=True)
            ]
            existing = select(mine.c.id).where(*same).scalar_subquery()
            number = func.coalesce(existing, func.nextval(text(self._sequence)))
            addition = replace(addition, values={**addition.values, "id": number})
        statement = addition.upsert(self._key(usage), addition.source.where(moved))
        if with_history:
            history = history_addition(self._tables, rows)
            past = history.upsert(self._key(self._tables.history), history.source.where(moved))
            statement = statement.add_cte(past.cte("history"))
        return statement

    def _key(self, table: Table) -> list[ColumnElement[Any]]:
        return unique_key(table, self._tables.user_id_type)

    def add_exposures(self, connection: Connection, rows: Sequence[ExposureRow]) -> None:
        connection.execute(self._exposures, {"rows": exposures_json(rows)})

    def add_dimensions(self, connection: Connection, rows: Sequence[DimensionRow]) -> None:
        connection.execute(self._dimensions, {"rows": dimensions_json(rows)})

    def by_bytes(self, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        return by_bytes(*columns)


def _sequence(connection: Connection, usage: Table) -> str | None:
    """The sequence of the id, as an expression; None if an INSERT cannot set the id."""
    name = connection.dialect.identifier_preparer.format_table(usage)
    found = connection.execute(
        text(
            "SELECT pg_get_serial_sequence(:name, 'id'), (SELECT a.attidentity FROM pg_attribute a "
            "WHERE a.attrelid = CAST(:name AS regclass) AND a.attname = 'id')"
        ),
        {"name": name},
    ).one()
    if found[0] is None or found[1] in {"a", b"a"}:  # GENERATED ALWAYS
        return None
    quoted = str(found[0]).replace("'", "''").replace(":", "\\:")
    return f"'{quoted}'::regclass".replace("::", "\\:\\:")
