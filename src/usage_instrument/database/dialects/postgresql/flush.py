"""The flush: ledger, counts and history in one statement, one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnClause,
    ColumnElement,
    Connection,
    DateTime,
    Double,
    FromClause,
    Select,
    String,
    Table,
    TableValuedAlias,
    Text,
    bindparam,
    case,
    cast,
    collate,
    column,
    exists,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, Insert, insert

from usage_instrument.events import Batch, Count

from ...dimensions import DimensionRow
from ...exposures import ExposureRow
from ...ledger import Ledger
from ...tables import Tables
from ..base import MAX_COUNT_SQL, Flush, anonymous_key, unique_key
from ..batch_json import dimensions_json, exposures_json, has_metadata, history_json, usage_json

UTC_NOW: ColumnElement[Any] = literal_column("timezone('utc', clock_timestamp())", DateTime())
_ZERO: ColumnElement[Any] = literal_column("0")
_NUMBER, _TIME = column("n", BigInteger), column("t", DateTime)
_BUCKET, _METADATA = column("b", DateTime), column("m", JSONB)
_FIRST = column("s", DateTime)


class PostgreSQLFlush(Flush):
    """One statement per batch, over rows in one JSON parameter.

    For an existing key the statement inserts the row's own id, so the conflict consumes no number of the sequence.
    All processes sort rows in the same order, so two writers never deadlock. The UPDATE of the ledger is a CTE on which
    the INSERTs depend, so it needs no round trip. The INSERT into the history is another CTE over the same rows. A
    batch with several buckets per count has more rows of history than of counts: those are sent separately.
    """

    def __init__(self, connection: Connection, tables: Tables, metadata_max_bytes: int) -> None:
        self._tables = tables
        self._metadata_max_bytes = metadata_max_bytes
        self._user_type = tables.usage.c.user_id.type
        self._sequence = _sequence(connection, tables.usage)
        self._statements: dict[tuple[bool, bool], Insert] = {}
        self._exposures = self._add_exposures()
        self._dimensions = self._add_dimensions()
        rows = self._rows(_NUMBER, _BUCKET)
        self._history = self._add_history(self._ordered(self._history_of(rows), rows, rows.c.b))

    def apply(self, connection: Connection, ledger: Ledger, batch: Batch) -> bool:
        counts = batch.counts
        if not counts:
            return ledger.advance(connection, batch.number)
        with_history = all(len(count.history) == 1 for count in counts)
        added = connection.execute(
            self._statement(with_metadata=has_metadata(counts), with_history=with_history),
            {
                "rows": usage_json(counts),
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

    def _statement(self, *, with_metadata: bool, with_history: bool) -> Insert:
        which = with_metadata, with_history
        if which not in self._statements:
            self._statements[which] = self._make(*which)
        return self._statements[which]

    def _make(self, with_metadata: bool, with_history: bool) -> Insert:
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
        more: list[ColumnClause[Any]] = [_METADATA] * with_metadata + [_BUCKET] * with_history
        rows: FromClause = self._rows(_NUMBER, _TIME, *more)
        if with_history:
            rows = select(rows).cte("d")  # two INSERTs read it, and it is unpacked once
        values: dict[str, ColumnElement[Any]] = {
            "user_id": rows.c.u,
            "feature_name": rows.c.f,
            "usage_count": func.least(rows.c.n, MAX_COUNT_SQL),
            "last_used": func.least(rows.c.t, UTC_NOW),
            **({"metadata": rows.c.m} if with_metadata else {}),
        }
        if self._sequence is not None:
            mine = usage.alias("mine")
            theirs = [func.coalesce(rows.c.u, anonymous_key(self._tables.user_id_type)), rows.c.f]
            same = [
                left == right for left, right in zip(unique_key(mine, self._tables.user_id_type), theirs, strict=True)
            ]
            existing = select(mine.c.id).where(*same).scalar_subquery()
            values["id"] = func.coalesce(existing, func.nextval(text(self._sequence)))
        source = self._ordered(select(*values.values()).where(moved), rows)
        statement = insert(usage).from_select(list(values), source)
        new = statement.excluded
        changes: dict[str, ColumnElement[Any]] = {
            "usage_count": _saturated(usage.c.usage_count, new.usage_count),
            "last_used": func.greatest(usage.c.last_used, new.last_used),
        }
        if with_metadata:
            changes["metadata"] = _merged(usage, new, self._metadata_max_bytes)
        if with_history:
            past = self._ordered(self._history_of(rows).where(moved), rows)
            statement = statement.add_cte(self._add_history(past).cte("history"))
        return statement.on_conflict_do_update(
            index_elements=unique_key(usage, self._tables.user_id_type), set_=changes
        )

    @staticmethod
    def _history_of(rows: FromClause) -> Select[Any]:
        return select(rows.c.u, rows.c.f, rows.c.b, func.least(rows.c.n, MAX_COUNT_SQL))

    def _add_history(self, source: Select[Any]) -> Insert:
        history = self._tables.history
        statement = insert(history).from_select(["user_id", "feature_name", "bucket_start", "usage_count"], source)
        return statement.on_conflict_do_update(
            index_elements=unique_key(history, self._tables.user_id_type),
            set_={"usage_count": _saturated(history.c.usage_count, statement.excluded.usage_count)},
        )

    def add_exposures(self, connection: Connection, rows: Sequence[ExposureRow]) -> None:
        connection.execute(self._exposures, {"rows": exposures_json(rows)})

    def _add_exposures(self) -> Insert:
        exposures, names = self._tables.exposures, [column(name, Text) for name in "exv"]
        rows = _unpacked(column("u", self._user_type), *names, _FIRST, _TIME, _NUMBER)
        key = (rows.c.e, rows.c.x, rows.c.v)
        times = (func.least(rows.c.s, UTC_NOW), func.least(rows.c.t, UTC_NOW))
        source = select(*key, rows.c.u, *times, func.least(rows.c.n, MAX_COUNT_SQL))
        into = ["experiment", "unit", "variant", "user_id", "first_exposed_at", "last_exposed_at", "exposures"]
        ordered = source.order_by(*(collate(part, "C") for part in key))
        statement = insert(exposures).from_select(into, ordered)
        old, new = exposures.c, statement.excluded
        changes = {
            "user_id": func.coalesce(old.user_id, new.user_id),
            "first_exposed_at": func.least(old.first_exposed_at, new.first_exposed_at),
            "last_exposed_at": func.greatest(old.last_exposed_at, new.last_exposed_at),
            "exposures": _saturated(old.exposures, new.exposures),
        }
        return statement.on_conflict_do_update(index_elements=exposures.primary_key.columns, set_=changes)

    def add_dimensions(self, connection: Connection, rows: Sequence[DimensionRow]) -> None:
        connection.execute(self._dimensions, {"rows": dimensions_json(rows)})

    def _add_dimensions(self) -> Insert:
        dimensions, reals = self._tables.dimensions, [column(name, Double) for name in "sqlg"]
        counts = [column(name, BigInteger) for name in "nc"]
        rows = self._rows(column("d", Text), column("v", Text), _BUCKET, *counts, *reals)
        keys = (rows.c.u, rows.c.f, rows.c.d, rows.c.v, rows.c.b)
        numbers = (*(func.least(rows.c[name], MAX_COUNT_SQL) for name in "nc"), *(rows.c[name] for name in "sqlg"))
        into = [each.name for each in dimensions.c if not each.primary_key]
        source = self._ordered(select(*keys, *numbers), rows, *self.by_bytes(rows.c.d, rows.c.v), rows.c.b)
        statement = insert(dimensions).from_select(into, source)
        old, new = dimensions.c, statement.excluded
        return statement.on_conflict_do_update(
            index_elements=unique_key(dimensions, self._tables.user_id_type),
            set_={
                "usage_count": _saturated(old.usage_count, new.usage_count),
                "value_count": _saturated(old.value_count, new.value_count),
                "value_sum": old.value_sum + new.value_sum,
                "value_squares": old.value_squares + new.value_squares,
                "value_minimum": func.least(old.value_minimum, new.value_minimum),  # which ignores NULL
                "value_maximum": func.greatest(old.value_maximum, new.value_maximum),
            },
        )

    def _rows(self, *columns: ColumnClause[Any]) -> TableValuedAlias:
        return _unpacked(column("u", self._user_type), column("f", Text), *columns)

    def _ordered(self, rows_of: Select[Any], rows: FromClause, *more: ColumnElement[Any]) -> Select[Any]:
        """Sorts by the bytes of user and feature, the anonymous user last, as the batcher does."""
        return rows_of.order_by(rows.c.u.is_(None), *self.by_bytes(rows.c.u, rows.c.f), *more)

    def by_bytes(self, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        return [collate(each, "C") if isinstance(each.type, String) else each for each in columns]


def _unpacked(*columns: ColumnClause[Any]) -> TableValuedAlias:
    """The rows of the parameter `rows`."""
    unpacked = func.json_to_recordset(cast(bindparam("rows", type_=Text()), JSON))
    return unpacked.table_valued(*columns).render_derived("d", with_types=True)


def _saturated(old: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.least(cast(func.coalesce(old, _ZERO), BigInteger) + new, MAX_COUNT_SQL)


def _merged(usage: Table, new: Any, max_bytes: int) -> ColumnElement[Any]:
    """Newer keys win. The newer metadata replaces a value that is no object, and one that would become too large."""
    old, fresh = usage.c.metadata, new.metadata
    is_newer = new.last_used >= usage.c.last_used
    both = case((is_newer, old.op("||")(fresh)), else_=fresh.op("||")(old))
    limit: ColumnElement[Any] = literal_column(str(max_bytes))
    both = case((func.octet_length(cast(both, Text)) <= limit, both), (is_newer, fresh), else_=old)
    is_object = func.jsonb_typeof(old) == literal_column("'object'")
    return case((fresh.is_(None), old), (is_object, both), else_=fresh)


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
