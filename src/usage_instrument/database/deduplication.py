"""Rows that share a key, folded into one: what must happen before the key can be unique."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    MetaData,
    Table,
    bindparam,
    delete,
    func,
    insert,
    inspect,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy import types as sqltypes

from usage_instrument.errors import SchemaError
from usage_instrument.events import MAX_COUNT, NIL
from usage_instrument.typing import UserIdType

from . import dialects
from .schema import define_tables
from .tables import Tables

ROWS_A_PASS = 20_000
_LONG_AGO = dt.datetime(1, 1, 1)  # noqa: DTZ001 - the columns are naive


def merge_duplicates(connection: Connection, tables: Tables | None = None) -> int:
    """Fold the rows of `feature_usage` that share a user and a feature into one; the number of rows that went.

    The row with the lowest id stays. It gets the sum of the counts (at most 2,147,483,647; a NULL adds nothing, as in
    `SUM`), the newest `last_used`, and the metadata of all laid over each other, newer keys on top. It all happens in
    the transaction of the caller, such as an Alembic revision. Raises SchemaError when there is no such table.
    """
    tables = live_tables(connection) if tables is None else tables
    if not inspect(connection).has_table(tables.usage.name, schema=tables.usage.schema):
        raise SchemaError(f"table {tables.usage.fullname} does not exist: run `usage-instrument db create`")
    removed = 0
    while found := _duplicates(connection, tables):
        removed += _merge(connection, tables.usage, found)
    return removed


def count_duplicates(connection: Connection, table: Table, user_id_type: UserIdType) -> int:
    """How many rows of a table would go."""
    groups = (
        select(func.count().label("n")).select_from(table).group_by(*_key(connection, table, user_id_type)).subquery()
    )
    return int(connection.scalar(select(func.coalesce(func.sum(groups.c.n - 1), 0))) or 0)


def merge_history(connection: Connection, tables: Tables) -> int:
    """The same for `feature_usage_history`, by bucket."""
    history, removed = tables.history, 0
    key = _key(connection, history, tables.user_id_type)
    total, number = func.sum(history.c.usage_count), func.count()
    for row in connection.execute(select(*key, total, number).group_by(*key).having(number > 1)).all():
        user, feature, start, uses, rows = tuple(row)
        nobody = NIL[tables.user_id_type]
        theirs: ColumnElement[bool] = key[0] == user
        if user == nobody:
            theirs = or_(history.c.user_id.is_(None), history.c.user_id == nobody)
        connection.execute(delete(history).where(theirs, key[1] == feature, key[2] == start))
        connection.execute(
            insert(history).values(
                user_id=None if user == nobody else user,
                feature_name=feature or None,
                bucket_start=start,
                usage_count=None if uses is None else min(int(uses), MAX_COUNT),
            )
        )
        removed += rows - 1
    return removed


def live_tables(connection: Connection) -> Tables:
    """The tables of the default schema, for the type of user id that the live `feature_usage` has."""
    inspector = inspect(connection)
    kind: UserIdType = "uuid"
    if inspector.has_table("feature_usage"):
        for column in inspector.get_columns("feature_usage"):
            if column["name"] == "user_id":
                type_ = dialects.get(connection.dialect.name).column_type(connection, "feature_usage", None, column)
                if isinstance(type_, sqltypes.Integer):
                    kind = "integer"
                elif isinstance(type_, sqltypes.String):
                    kind = "string"
    return define_tables(MetaData(), users=None, user_id_type=kind)


def _key(connection: Connection, table: Table, user_id_type: UserIdType) -> list[Any]:
    return dialects.get(connection.dialect.name).key(table, user_id_type)


def _duplicates(connection: Connection, tables: Tables) -> Sequence[Any]:
    """Some of the rows whose key another row has, the rows of a key together and the oldest use first."""
    usage = tables.usage
    key = _key(connection, usage, tables.user_id_type)
    metadata: Any = usage.c.metadata
    if connection.dialect.name != "postgresql":
        metadata = type_coerce(metadata, sqltypes.Text())  # it may hold what is no JSON
    rows = select(
        usage.c.id,
        usage.c.usage_count,
        usage.c.last_used,
        metadata.label("metadata"),
        func.min(usage.c.id).over(partition_by=key).label("kept"),
        func.count().over(partition_by=key).label("number"),
    ).subquery()
    query = select(rows).where(rows.c.number > 1).order_by(rows.c.kept, rows.c.last_used, rows.c.id)
    return connection.execute(query.limit(ROWS_A_PASS)).all()


def _merge(connection: Connection, usage: Table, found: Sequence[Any]) -> int:
    merged: list[dict[str, Any]] = []
    gone: list[int] = []
    for kept, group in itertools.groupby(found, key=lambda row: row.kept):
        rows = sorted(group, key=lambda row: (row.last_used or _LONG_AGO, row.id))
        counts = [row.usage_count for row in rows if row.usage_count is not None]
        used = rows[-1].last_used
        merged.append(
            {
                "kept": kept,
                "uses": min(sum(counts), MAX_COUNT) if counts else None,
                "used": used,
                "extra": _laid_over(row.metadata for row in rows),
            }
        )
        gone += [row.id for row in rows if row.id != kept]
    for start in range(0, len(gone), 500):
        connection.execute(delete(usage).where(usage.c.id.in_(gone[start : start + 500])))
    values = {
        "usage_count": bindparam("uses"),
        "last_used": bindparam("used"),
        "metadata": bindparam("extra", type_=usage.c.metadata.type),
    }
    connection.execute(update(usage).where(usage.c.id == bindparam("kept")).values(values), merged)
    return len(gone)


def _laid_over(values: Iterator[Any]) -> Any:
    """Metadata from the oldest to the newest: newer keys win, and what is no object gives way to what comes after."""
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
