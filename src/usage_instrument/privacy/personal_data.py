"""The rows of one user: read for export, counted, deleted."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Table, delete, func, literal, or_, select

from usage_instrument.audit.query import metadata_of
from usage_instrument.typing import UserId

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables


_PERSONS = ("user", "actor")
_KEY_OF_DIMENSIONS = ("bucket_start", "feature_name", "dimension", "dimension_value")
_OF_DIMENSIONS = (
    "feature_name", "dimension", "dimension_value", "bucket_start", "usage_count", "value_count", "value_sum",
    "value_squares", "value_minimum", "value_maximum",
)  # fmt: skip
_ORDER_OF_EXPOSURES = ("experiment", "first_exposed_at", "unit", "variant")
_OF_EXPOSURES = ("experiment", "unit", "variant", "first_exposed_at", "last_exposed_at", "exposures")
_OF_USAGE = ("feature_name", "usage_count", "last_used", "metadata")


def has_rows(connection: Connection, table: Table, user: UserId) -> bool:
    """Whether the table has a row of the user."""
    return connection.scalar(select(literal(1)).select_from(table).where(_of(table, user)).limit(1)) is not None


def count_rows(connection: Connection, table: Table, user: UserId) -> int:
    """How many rows of the table belong to the user."""
    return int(connection.scalar(select(func.count()).select_from(table).where(_of(table, user))) or 0)


def delete_rows(connection: Connection, table: Table, user: UserId) -> int:
    """Delete the user's rows and return their number; the caller commits."""
    return connection.execute(delete(table).where(_of(table, user))).rowcount


def personal_data(
    connection: Connection,
    tables: Tables,
    user: UserId,
    *,
    accesses: bool,
    exposures: bool,
    dimensions: bool,
    waiting: bool,
) -> dict[str, Any]:
    """The rows of a user as JSON values: `usage`, `history`, `dimensions`, `exposures`, `waiting`, those of the outbox,
    and `accesses`, those of the audit trail. Without one of the last four, the database lacks the table."""
    # Read first: a row that a writer moves meanwhile is in both, rather than in neither.
    uncounted = _rows(connection, tables.outbox, user, "used_at", "feature_name") if waiting else []
    sliced = _rows(connection, tables.dimensions, user, *_KEY_OF_DIMENSIONS) if dimensions else []
    exposed = _rows(connection, tables.exposures, user, *_ORDER_OF_EXPOSURES) if exposures else []
    accessed = _rows(connection, tables.access, user, "occurred_at", "number") if accesses else []
    return {
        "usage": [_part(row, *_OF_USAGE) for row in _rows(connection, tables.usage, user, "feature_name")],
        "history": [
            _part(row, "feature_name", "bucket_start", "usage_count")
            for row in _rows(connection, tables.history, user, "bucket_start", "feature_name")
        ],
        "dimensions": [_part(row, *_OF_DIMENSIONS) for row in sliced],
        "exposures": [_part(row, *_OF_EXPOSURES) for row in exposed],
        "waiting": [
            {
                **_part(row, "feature_name", "uses", "used_at"),
                "metadata": None if row["metadata"] is None else json.loads(row["metadata"]),
                **dict(zip(("dimensions", "value"), json.loads(row["dimensions"] or "[null,null]"), strict=True)),
            }
            for row in uncounted
        ],
        "accesses": [
            {
                **_part(row, "occurred_at", "feature_name", "outcome"),
                # The id of the other person is that person's data.
                "acted_as": "themselves" if row["is_user"] else "another user",
                "acted_by": "themselves" if row["actor_id"] is None or row["is_actor"] else "another user",
                **_part(row, "request_id", "service"),
                "metadata": metadata_of(row),
            }
            for row in accessed
        ],
    }


def _part(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Some columns of a row as JSON values."""
    return {name: row[name].isoformat() if isinstance(row[name], dt.datetime) else row[name] for name in names}


def _rows(connection: Connection, table: Table, user: UserId, *order: str) -> list[dict[str, Any]]:
    columns = [column for column in table.c if column is not table.autoincrement_column]  # not in the schema before
    # The database decides who is the user: its equality may differ from Python's.
    is_ = [(table.c[f"{part}_id"] == user).label(f"is_{part}") for part in _PERSONS if f"{part}_id" in table.c]
    query = select(*columns, *is_).where(_of(table, user)).order_by(*(table.c[name] for name in order))
    return [dict(row) for row in connection.execute(query).mappings()]


def _of(table: Table, user: UserId) -> ColumnElement[bool]:
    if "actor_id" in table.c:
        return or_(table.c.user_id == user, table.c.actor_id == user)
    return table.c.user_id == user
