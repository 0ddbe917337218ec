"""The id of the audit trail, at random. It is in the first link of each chain, so that a copied chain does not fit."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, insert, inspect, select

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

Run = Callable[[Callable[[Connection], Any]], Any]
"""Runs work in a transaction of its own."""


def trail_id(connection: Connection, tables: Tables) -> UUID | None:
    """The id; None in the schema of the release before, and before the first row."""
    table = tables.trail
    return _read(connection, tables) if inspect(connection).has_table(table.name, schema=table.schema) else None


def _read(connection: Connection, tables: Tables) -> UUID | None:
    table = tables.trail
    found = connection.scalar(select(table.c.trail_id).where(table.c.id == 1))  # the role of an app may add others
    return None if found is None else UUID(int=found.int)


def ensure(run: Run, tables: Tables) -> UUID | None:
    """The id, made if there is none; None if this role may not read it, or the table is missing.

    A chain that begins without it verifies like those of the release before.
    """

    look = partial(_read, tables=tables)  # one query: a call waits for it

    def make(connection: Connection) -> None:
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        connection.execute(insert(tables.trail).values(id=1, trail_id=uuid4(), created_at=now))

    found: UUID | None = None
    with contextlib.suppress(Exception):
        found = run(look)
        if found is None:
            with contextlib.suppress(Exception):  # another process was faster
                run(make)
            found = run(look)
    return found
