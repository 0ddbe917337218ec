"""The flush: executemany of upserts under one write lock."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, DateTime, Table, Text, bindparam, func, literal_column
from sqlalchemy.dialects.sqlite import Insert, insert

from usage_instrument.events import MAX_COUNT, Batch, Count

from ...dimensions import DimensionRow
from ...exposures import ExposureRow
from ...ledger import Ledger, utcnow
from ...tables import Tables
from ..base import MAX_COUNT_SQL, Flush, unique_key
from ..batch_json import has_metadata

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
        self._usage = self._usage_statement(tables, merged)
        self._plain_usage = self._usage_statement(tables, None)
        self._history = self._history_statement(tables)
        self._exposures = self._exposures_statement(tables.exposures)
        self._dimensions = self._dimensions_statement(tables)

    def apply(self, connection: Connection, ledger: Ledger, batch: Batch) -> bool:
        if not ledger.advance(connection, batch.number):
            return False
        if batch.counts:
            now = utcnow()
            rows = [self._row(count, now) for count in batch.counts]
            if has_metadata(batch.counts):
                for row, count in zip(rows, batch.counts, strict=True):
                    row["extra"] = count.metadata
                connection.execute(self._usage, rows)
            else:
                connection.execute(self._plain_usage, rows)
        self.add_history(connection, batch.counts)
        return True

    def add_history(self, connection: Connection, counts: Sequence[Count]) -> None:
        history = [
            {"user": count.user, "feature": count.feature, "bucket": start, "uses": min(uses, MAX_COUNT)}
            for count in counts
            for start, uses in count.history
        ]
        if history:
            connection.execute(self._history, history)

    def add_exposures(self, connection: Connection, rows: Sequence[ExposureRow]) -> None:
        now = utcnow()
        values = [
            {
                **row._asdict(),
                "first": min(row.first, now),
                "last": min(row.last, now),
                "exposed": min(row.exposed, MAX_COUNT),
            }
            for row in rows
        ]
        connection.execute(self._exposures, values)

    def add_dimensions(self, connection: Connection, rows: Sequence[DimensionRow]) -> None:
        values = [
            {
                **each._asdict(),
                "user": user,
                "feature": feature,
                "uses": min(each.uses, MAX_COUNT),
                "numbers": min(each.numbers, MAX_COUNT),
            }
            for user, feature, each in rows
        ]
        connection.execute(self._dimensions, values)

    @staticmethod
    def _row(count: Any, now: dt.datetime) -> dict[str, Any]:
        return {
            "user": count.user,
            "feature": count.feature,
            "uses": min(count.uses, MAX_COUNT),
            "used": min(count.last_used, now),
        }

    @staticmethod
    def _usage_statement(tables: Tables, merged: str | None) -> Insert:
        usage = tables.usage
        statement = insert(usage).values(
            user_id=bindparam("user"),
            feature_name=bindparam("feature"),
            usage_count=bindparam("uses"),
            last_used=bindparam("used", type_=DateTime()),
        )
        changes: dict[str, ColumnElement[Any]] = {
            "usage_count": _saturated(usage.c.usage_count, statement.excluded.usage_count),
            "last_used": func.max(usage.c.last_used, statement.excluded.last_used),
        }
        if merged is not None:
            statement = statement.values(metadata=bindparam("extra", type_=Text()))
            changes["metadata"] = literal_column(merged)
        return statement.on_conflict_do_update(index_elements=unique_key(usage, tables.user_id_type), set_=changes)

    @staticmethod
    def _history_statement(tables: Tables) -> Insert:
        history = tables.history
        statement = insert(history).values(
            user_id=bindparam("user"),
            feature_name=bindparam("feature"),
            bucket_start=bindparam("bucket"),
            usage_count=bindparam("uses"),
        )
        return statement.on_conflict_do_update(
            index_elements=unique_key(history, tables.user_id_type),
            set_={"usage_count": _saturated(history.c.usage_count, statement.excluded.usage_count)},
        )

    @staticmethod
    def _dimensions_statement(tables: Tables) -> Insert:
        dimensions = tables.dimensions
        statement = insert(dimensions).values(
            user_id=bindparam("user"),
            feature_name=bindparam("feature"),
            dimension=bindparam("dimension"),
            dimension_value=bindparam("value"),
            bucket_start=bindparam("start"),
            usage_count=bindparam("uses"),
            value_count=bindparam("numbers"),
            value_sum=bindparam("total"),
            value_squares=bindparam("squares"),
            value_minimum=bindparam("least"),
            value_maximum=bindparam("greatest"),
        )
        old, new = dimensions.c, statement.excluded
        changes = {
            "usage_count": _saturated(old.usage_count, new.usage_count),
            "value_count": _saturated(old.value_count, new.value_count),
            "value_sum": old.value_sum + new.value_sum,
            "value_squares": old.value_squares + new.value_squares,
            "value_minimum": func.min(*_either(old.value_minimum, new.value_minimum)),
            "value_maximum": func.max(*_either(old.value_maximum, new.value_maximum)),
        }
        return statement.on_conflict_do_update(index_elements=unique_key(dimensions, tables.user_id_type), set_=changes)

    @staticmethod
    def _exposures_statement(exposures: Table) -> Insert:
        statement = insert(exposures).values(
            experiment=bindparam("experiment"),
            unit=bindparam("unit"),
            variant=bindparam("variant"),
            user_id=bindparam("user"),
            first_exposed_at=bindparam("first"),
            last_exposed_at=bindparam("last"),
            exposures=bindparam("exposed"),
        )
        old, new = exposures.c, statement.excluded
        changes = {
            "user_id": func.coalesce(old.user_id, new.user_id),
            "first_exposed_at": func.min(old.first_exposed_at, new.first_exposed_at),
            "last_exposed_at": func.max(old.last_exposed_at, new.last_exposed_at),
            "exposures": _saturated(old.exposures, new.exposures),
        }
        return statement.on_conflict_do_update(index_elements=exposures.primary_key.columns, set_=changes)


def _saturated(old: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.min(func.coalesce(old, literal_column("0")) + new, MAX_COUNT_SQL)


def _either(old: ColumnElement[Any], new: ColumnElement[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Both, or twice the one that is not NULL."""
    return func.coalesce(old, new), func.coalesce(new, old)
