"""The foreign key of a live table: its difference from the definition, and how to change it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, column, func, inspect, select, table

from . import dialects
from .live_tables import LiveTables
from .tables import Tables
from .users_column import UsersColumn
from .users_table import live_column

CASCADES = "ON DELETE CASCADE ON UPDATE CASCADE"


@dataclass(frozen=True)
class ForeignKeyChange:
    """What to do about the foreign key of one table."""

    sentence: str | None = None
    """The change in words; None if there is none to make."""
    make: Callable[[Connection], object] = lambda connection: None
    note: str | None = None
    """Why a missing foreign key stays missing."""


def foreign_key_change(
    connection: Connection, tables: Tables, of: Table, reflected: LiveTables | None = None
) -> ForeignKeyChange:
    """How to make `user_id` of a live table refer to the users table, and follow its changes."""
    live = [
        key
        for key in (reflected or inspect(connection)).get_foreign_keys(of.name, schema=of.schema)
        if key["constrained_columns"] == ["user_id"]
    ]
    wrong = [key for key in live if key_actions(key) != CASCADES]
    dialect = dialects.get(connection.dialect.name)
    if wrong:
        key = wrong[0]
        users = UsersColumn(key["referred_schema"], key["referred_table"], key["referred_columns"][0])
        return ForeignKeyChange(
            f"Make the foreign key of {of.fullname}.user_id {CASCADES}; now it is {key_actions(key)}.",
            lambda connection: dialect.add_foreign_key(connection, of, users, [str(each["name"]) for each in wrong]),
        )
    if live or tables.users is None:
        return ForeignKeyChange()
    users = UsersColumn.parse(tables.users)
    obstacle = _obstacle(connection, of, users)
    if obstacle is not None:
        return ForeignKeyChange(note=f"{of.fullname}.user_id gets no foreign key: {obstacle}.")
    return ForeignKeyChange(
        f"Add a foreign key from {of.fullname}.user_id to {users}, {CASCADES}.",
        lambda connection: dialect.add_foreign_key(connection, of, users, []),
    )


def key_actions(key: Any) -> str:
    """The actions of a reflected foreign key, as in SQL."""
    options = key.get("options", {})
    on_delete, on_update = (str(options.get(name) or "NO ACTION").upper() for name in ("ondelete", "onupdate"))
    return f"ON DELETE {on_delete} ON UPDATE {on_update}"


def _obstacle(connection: Connection, of: Table, users: UsersColumn) -> str | None:
    mine = _type(connection, UsersColumn(of.schema, of.name, "user_id"))
    theirs = _type(connection, users)
    if mine != theirs and not _will_fit(connection, mine, theirs):
        return f"it is {mine}, and {users} is {theirs}"
    rows = table(of.name, column("user_id"), schema=of.schema)
    known_users = table(users.table, column(users.column), schema=users.schema)
    known = select(known_users.c[users.column]).where(known_users.c[users.column] == rows.c.user_id).exists()
    unknown = connection.scalar(select(func.count()).select_from(rows).where(rows.c.user_id.is_not(None), ~known))
    if unknown:
        return f"{unknown:,} of its rows are of users that {users} does not hold; delete them and run this again"
    return None


def _will_fit(connection: Connection, mine: str | None, theirs: str | None) -> bool:
    """Whether a foreign key can join two types, after `db upgrade` has made an INTEGER as wide as the users' ids."""
    mine, theirs = (re.sub(r"(INTEGER|BIGINT)\(\d+\)", r"\1", each or "") for each in (mine, theirs))  # display widths
    if connection.dialect.name == "postgresql":
        return {mine, theirs} <= {"INTEGER", "BIGINT"}
    return mine.replace("INTEGER", "BIGINT") == theirs


def _type(connection: Connection, of: UsersColumn) -> str | None:
    found = live_column(connection, inspect(connection), of.schema, of.table, of.column)
    return None if found is None else str(found.type.compile(connection.dialect))
