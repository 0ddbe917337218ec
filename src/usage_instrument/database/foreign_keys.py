"""The foreign key of live tables: what it is, what it should be, and how to get there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, column, func, inspect, select, table

from . import dialects
from .dialects.base import Target
from .tables import Tables


@dataclass(frozen=True)
class Reference:
    """What is to be done about one table's foreign key."""

    sentence: str | None
    make: Callable[[Connection], object]
    note: str | None = None
    """Why it stays as it is."""


_NOTHING = Reference(None, lambda connection: None)


def find_reference(connection: Connection, tables: Tables, of: Table) -> Reference:
    """What it takes for `user_id` of a live table to refer to the users, and to go with them."""
    live = [
        key
        for key in inspect(connection).get_foreign_keys(of.name, schema=of.schema)
        if key["constrained_columns"] == ["user_id"]
    ]
    wrong = [key for key in live if _action(key) != "CASCADE"]
    dialect = dialects.get(connection.dialect.name)
    if wrong:
        key = wrong[0]
        target = Target(key["referred_schema"], key["referred_table"], key["referred_columns"][0])
        return Reference(
            f"Make the foreign key of {of.fullname}.user_id ON DELETE CASCADE; now it is {_action(key)}.",
            lambda connection: dialect.refer(connection, of, target, [str(each["name"]) for each in wrong]),
        )
    if live or tables.users is None:
        return _NOTHING
    place, _, name = tables.users.rpartition(".")
    schema, _, users = place.rpartition(".")
    target = Target(schema or None, users, name)
    reason = _obstacle(connection, of, target)
    if reason is not None:
        return Reference(None, lambda connection: None, f"{of.fullname}.user_id gets no foreign key: {reason}.")
    return Reference(
        f"Add a foreign key from {of.fullname}.user_id to {target}, ON DELETE CASCADE.",
        lambda connection: dialect.refer(connection, of, target, []),
    )


def _action(key: Any) -> str:
    return str(key.get("options", {}).get("ondelete") or "NO ACTION").upper()


def _obstacle(connection: Connection, of: Table, target: Target) -> str | None:
    mine, theirs = (
        _type(connection, of.name, of.schema, "user_id"),
        _type(connection, target.table, target.schema, target.column),
    )
    if mine != theirs:
        return f"it is {mine}, and {target} is {theirs}"
    rows, users = (
        table(of.name, column("user_id"), schema=of.schema),
        table(target.table, column(target.column), schema=target.schema),
    )
    known = select(users.c[target.column]).where(users.c[target.column] == rows.c.user_id).exists()
    strangers = connection.scalar(select(func.count()).select_from(rows).where(rows.c.user_id.is_not(None), ~known))
    if strangers:
        return f"{strangers:,} of its rows are of users that {target} does not hold; delete them and run this again"
    return None


def _type(connection: Connection, name: str, schema: str | None, of: str) -> str | None:
    inspector = inspect(connection)
    if not inspector.has_table(name, schema=schema):
        return None
    for found in inspector.get_columns(name, schema=schema):
        if found["name"] == of:
            type_ = dialects.get(connection.dialect.name).column_type(connection, name, schema, found)
            return str(type_.compile(connection.dialect))
    return None
