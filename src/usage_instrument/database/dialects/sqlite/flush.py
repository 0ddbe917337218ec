"""The flush: executemany of upserts under one write lock."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, Text, bindparam, func, literal_column
from sqlalchemy.dialects.sqlite import Insert, insert

from usage_instrument.events import Batch, Count

from ...dimensions import DimensionRow
from ...exposures import ExposureRow
from ...ledger import Ledger, utcnow
from ...tables import Tables
from ..base import MAX_COUNT_SQL, Flush, unique_key
from ..batch_json import has_metadata
from ..batch_rows import (
    DIMENSIONS,
    EXPOSURES,
    HISTORY,
    USAGE,
    Values,
    dimension_values,
    exposure_values,
    history_values,
    usage_values,
)

# Merges key by key: json_patch would delete keys whose new value is null, and merge nested objects.
# Reals are printed with 17 digits, which is enough to read the same number again. Integers beyond 64 bits are reals for
# json_each, so their text is taken from the document: json_extract with two paths returns it as `[…,null]`.
_NUMBER = """
CASE WHEN type = 'integer' AND typeof(value) = 'real' AND instr(key, '"') = 0 AND instr(key, char(92)) = 0
THEN substr(json_extract({document}, fullkey, '$[0]'), 2, length(json_extract({document}, fullkey, '$[0]')) - 7)
WHEN type = 'real' THEN printf('%!.17g', value) ELSE json_quote(value) END
"""
_MERGED = """
CASE WHEN excluded.metadata IS NULL THEN {old}
WHEN {old} IS NULL OR NOT json_valid({old}) OR json_type({old}) <> 'object' THEN excluded.metadata
ELSE (
  SELECT CASE WHEN length(CAST(m AS BLOB)) <= {limit} THEN m
    WHEN excluded.last_used >= {table}.last_used THEN excluded.metadata ELSE {old} END
  FROM (SELECT json_group_object(k, json(v)) AS m FROM (
    SELECT key AS k, CASE type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' WHEN 'null' THEN 'null'
      WHEN 'object' THEN value WHEN 'array' THEN value WHEN 'text' THEN json_quote(value)
      ELSE number END AS v,
      row_number() OVER (PARTITION BY key ORDER BY side DESC) AS rank
    FROM (
      SELECT key, type, value, {new_number} AS number, excluded.last_used >= {table}.last_used AS side
      FROM json_each(excluded.metadata)
      UNION ALL
      SELECT key, type, value, {old_number}, 0.5 FROM json_each({old})
    )
  ) WHERE rank = 1)
) END
"""


def merged_metadata(table: str, limit: int) -> str:
    """The expression of the merged metadata, for a quoted table."""
    old = f"{table}.metadata"
    numbers = {
        "old_number": _NUMBER.format(document=old),
        "new_number": _NUMBER.format(document="excluded.metadata"),
    }
    return _MERGED.format(old=old, table=table, limit=limit, **numbers)


class SQLiteFlush(Flush):
    """Executes one upsert per row: as fast as any other shape, and the simplest."""

    def __init__(self, tables: Tables, merged: str) -> None:
        self._tables = tables
        self._merged = merged
        self._plain_usage, self._history = self._by_key(tables.usage), self._by_key(tables.history)

    # Built when a batch first has such rows, of which most processes have none.

    @functools.cached_property
    def _usage(self) -> Insert:
        usage = self._tables.usage
        with_metadata = insert(usage).values(metadata=bindparam("extra", type_=Text()))
        key = unique_key(usage, self._tables.user_id_type)
        return _upsert(usage, key, {"metadata": literal_column(self._merged)}, with_metadata)

    @functools.cached_property
    def _exposures(self) -> Insert:
        exposures = self._tables.exposures
        user = func.coalesce(exposures.c.user_id, insert(exposures).excluded.user_id)
        return _upsert(exposures, exposures.primary_key.columns, {"user_id": user})

    @functools.cached_property
    def _dimensions(self) -> Insert:
        return self._by_key(self._tables.dimensions)

    def _by_key(self, table: Table) -> Insert:
        return _upsert(table, unique_key(table, self._tables.user_id_type))

    def apply(self, connection: Connection, ledger: Ledger, batch: Batch) -> bool:
        if not ledger.advance(connection, batch.number):
            return False
        if batch.counts:
            now = utcnow()
            rows = _named(USAGE, (usage_values(count, now) for count in batch.counts))
            if has_metadata(batch.counts):
                extra = [{"extra": count.metadata} for count in batch.counts]
                connection.execute(self._usage, [row | more for row, more in zip(rows, extra, strict=True)])
            else:
                connection.execute(self._plain_usage, rows)
        self.add_history(connection, batch.counts)
        return True

    def add_history(self, connection: Connection, counts: Sequence[Count]) -> None:
        rows = _named(HISTORY, history_values(counts))
        if rows:
            connection.execute(self._history, rows)

    def add_exposures(self, connection: Connection, rows: Sequence[ExposureRow]) -> None:
        now = utcnow()
        connection.execute(self._exposures, _named(EXPOSURES, (exposure_values(row, now) for row in rows)))

    def add_dimensions(self, connection: Connection, rows: Sequence[DimensionRow]) -> None:
        connection.execute(self._dimensions, _named(DIMENSIONS, map(dimension_values, rows)))


def _named(columns: Sequence[str], rows: Iterable[Values]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _upsert(
    table: Table, key: Iterable[Any], more: Mapping[str, Any] | None = None, statement: Insert | None = None
) -> Insert:
    """Adds rows of parameters, which are named as the columns, to the rows with their key."""
    statement = insert(table) if statement is None else statement
    new = statement.excluded
    changes = {name: change(table.c[name], new[name]) for name, change in _CHANGES.items() if name in table.c}
    return statement.on_conflict_do_update(index_elements=key, set_={**changes, **(more or {})})


def _saturated(old: Any, new: Any) -> ColumnElement[Any]:
    return func.min(func.coalesce(old, literal_column("0")) + new, MAX_COUNT_SQL)


def _least(old: Any, new: Any) -> ColumnElement[Any]:
    return func.min(func.coalesce(old, new), func.coalesce(new, old))  # without a NULL, of which it would be one


def _greatest(old: Any, new: Any) -> ColumnElement[Any]:
    return func.max(func.coalesce(old, new), func.coalesce(new, old))


_CHANGES: dict[str, Callable[[Any, Any], ColumnElement[Any]]] = {
    "usage_count": _saturated,
    "last_used": func.max,
    "value_count": _saturated,
    "value_sum": operator.add,
    "value_squares": operator.add,
    "value_minimum": _least,
    "value_maximum": _greatest,
    "first_exposed_at": func.min,
    "last_exposed_at": func.max,
    "exposures": _saturated,
}
"""What a column of an existing row becomes, of its value and the new one."""
