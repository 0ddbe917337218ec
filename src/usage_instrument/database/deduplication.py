"""Merges rows with the same key into one, which a unique index requires."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy import types as sqltypes

from usage_instrument.events import MAX_COUNT, NIL
from usage_instrument.typing import UserIdType

from . import dialects
from .dialects.base import KEY_COLUMNS
from .reflection import find_tables
from .tables import Tables

ROWS_PER_PASS = 20_000
_MERGED: dict[str, Callable[..., ColumnElement[Any]]] = {
    "usage_count": func.sum,
    "value_count": func.sum,
    "value_sum": func.sum,
    "value_squares": func.sum,
    "value_minimum": func.min,
    "value_maximum": func.max,
}
"""How rows of a bucket become one, by column."""
_LONG_AGO = dt.datetime(1, 1, 1)  # noqa: DTZ001 - the columns are naive


def merge_duplicates(connection: Connection, tables: Tables | None = None) -> int:
    """Merge the rows of `feature_usage` that share a user and a feature; the number of rows deleted.

    The row with the lowest id stays. It gets the sum of the counts (at most 2,147,483,647; a NULL adds nothing, as in
    `SUM`), the newest `last_used`, and the merged metadata of all, newer keys winning. All of it happens in the
    transaction of the caller, such as an Alembic revision. Raises SchemaError if there is no such table.
    """
    tables = find_tables(connection) if tables is None else tables
    deleted = 0
    while found := _duplicates(connection, tables):
        deleted += _merge(connection, tables.usage, found)
    return deleted


def count_duplicates(connection: Connection, table: Table, user_id_type: UserIdType) -> int:
    """The number of rows that a merge would delete."""
    groups = (
        select(func.count().label("n")).select_from(table).group_by(*_key(connection, table, user_id_type)).subquery()
    )
    return int(connection.scalar(select(func.coalesce(func.sum(groups.c.n - 1), 0))) or 0)


def merge_history(connection: Connection, tables: Tables) -> int:
    """Merge the rows of `feature_usage_history` that share a user, feature and bucket; the number of rows deleted."""
    return _merge_buckets(connection, tables.history, tables.user_id_type)


def merge_dimensions(connection: Connection, tables: Tables) -> int:
    """Merge the rows of `feature_usage_dimensions` that share a user, feature, value of a dimension and day; the number
    of rows deleted. Uses, numbers, sums and squares are added up; the least and the greatest number stay."""
    return _merge_buckets(connection, tables.dimensions, tables.user_id_type)


def key_names(table: Table) -> list[str]:
    """The columns of the unique index, in its order."""
    return ["user_id", "feature_name", *(name for name in KEY_COLUMNS if name in table.c)]


def _merge_buckets(connection: Connection, table: Table, user_id_type: UserIdType) -> int:
    names, anonymous, deleted = key_names(table), NIL[user_id_type], 0
    key = _key(connection, table, user_id_type)
    merged = [merge(table.c[name]).label(name) for name, merge in _MERGED.items() if name in table.c]
    number = func.count()
    for row in connection.execute(select(*key, *merged, number).group_by(*key).having(number > 1)).all():
        values = dict(zip([*names, *(each.name for each in merged)], row[:-1], strict=True))
        same = [part == value for part, value in zip(key, row[: len(key)], strict=True)]
        if values["user_id"] == anonymous:
            values["user_id"] = None
            same[0] = or_(table.c.user_id.is_(None), table.c.user_id == anonymous)
        if table.c.feature_name.nullable:
            values["feature_name"] = values["feature_name"] or None
        for count in values.keys() & {"usage_count", "value_count"}:
            values[count] = None if values[count] is None else min(int(values[count]), MAX_COUNT)
        connection.execute(delete(table).where(*same))
        connection.execute(insert(table).values(values))
        deleted += row[-1] - 1
    return deleted


def _key(connection: Connection, table: Table, user_id_type: UserIdType) -> list[Any]:
    return dialects.get(connection.dialect.name).unique_key(connection, table, user_id_type)


def _duplicates(connection: Connection, tables: Tables) -> Sequence[Any]:
    """Some rows whose key another row has: those of a key together, by ascending last use."""
    usage = tables.usage
    key = _key(connection, usage, tables.user_id_type)
    metadata: Any = usage.c.metadata
    if connection.dialect.name != "postgresql":
        metadata = type_coerce(metadata, sqltypes.Text())  # it may hold invalid JSON
    rows = select(
        usage.c.id,
        usage.c.usage_count,
        usage.c.last_used,
        metadata.label("metadata"),
        func.min(usage.c.id).over(partition_by=key).label("kept"),
        func.count().over(partition_by=key).label("number"),
    ).subquery()
    query = select(rows).where(rows.c.number > 1).order_by(rows.c.kept, rows.c.last_used, rows.c.id)
    return connection.execute(query.limit(ROWS_PER_PASS)).all()


def _merge(connection: Connection, usage: Table, found: Sequence[Any]) -> int:
    merged: list[dict[str, Any]] = []
    deleted: list[int] = []
    for kept, group in itertools.groupby(found, key=lambda row: row.kept):
        rows = sorted(group, key=lambda row: (row.last_used or _LONG_AGO, row.id))
        counts = [row.usage_count for row in rows if row.usage_count is not None]
        merged.append(
            {
                "kept": kept,
                "uses": min(sum(counts), MAX_COUNT) if counts else None,
                "used": rows[-1].last_used,
                "extra": _merged_metadata(row.metadata for row in rows),
            }
        )
        deleted += [row.id for row in rows if row.id != kept]
    for start in range(0, len(deleted), 500):
        connection.execute(delete(usage).where(usage.c.id.in_(deleted[start : start + 500])))
    values = {
        "usage_count": bindparam("uses"),
        "last_used": bindparam("used"),
        "metadata": bindparam("extra", type_=usage.c.metadata.type),
    }
    connection.execute(update(usage).where(usage.c.id == bindparam("kept")).values(values), merged)
    return len(deleted)


def _merged_metadata(values: Iterable[Any]) -> Any:
    """The values from oldest to newest: newer keys win, and a newer value replaces one that is no object."""
    result: Any = None
    for value in values:
        if isinstance(value, str | bytes):
            try:
                value = json.loads(value)
            except ValueError:
                continue
        if isinstance(value, dict) and isinstance(result, dict):
            result = {**result, **value}
        elif value is not None:
            result = value
    return result
