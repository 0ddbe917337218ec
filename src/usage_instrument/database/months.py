"""The first day of the history: rows of earlier days are summed up, one row for each user, feature and month.

It is a row of the ledger beside those of imports, with the month as its number. It is committed before the first row of
a month is summed up, and never moves back: no question takes a month that is summed up for its first day.
"""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from sqlalchemy import Connection, ScalarSelect, exc, insert, select, update

from .dialects.base import ConcurrentInsertError
from .ledger import IMPORT, utcnow
from .tables import Tables

MONTHS, MONTHS_ID = f"{IMPORT}months", UUID(int=1)
"""The row. Its `service` begins as that of an import does, so that nothing takes it for a process."""


def first_day_number(tables: Tables) -> ScalarSelect[int]:
    """The number of the first day, as a part of a statement; NULL if all of the history has days."""
    row = tables.writers.alias("months")  # also within a statement about the other rows
    return select(row.c.last_batch).where(row.c.writer_id == MONTHS_ID).scalar_subquery()


def moment_of(number: int | None) -> dt.datetime | None:
    """The day that a number such as 202503 stands for, the first of its month."""
    return None if number is None else dt.datetime.combine(dt.date(number // 100, number % 100, 1), dt.time())


def first_day(connection: Connection, tables: Tables) -> dt.datetime | None:
    """The first day of the history, UTC; None if all of it has days."""
    return moment_of(connection.scalar(select(first_day_number(tables))))


def move_first_day(connection: Connection, tables: Tables, month: dt.datetime) -> None:
    """Let the history have days from a month on, unless it begins later. The caller commits.

    Raises ConcurrentInsertError if another process adds the row: the caller rolls back and retries.
    """
    writers, number, now = tables.writers, month.year * 100 + month.month, utcnow()
    its = writers.c.writer_id == MONTHS_ID
    moved = update(writers).where(its, writers.c.last_batch < number).values(last_batch=number, heartbeat_at=now)
    if connection.execute(moved).rowcount or connection.scalar(select(writers.c.last_batch).where(its)) is not None:
        return
    row = {"writer_id": MONTHS_ID, "service": MONTHS, "last_batch": number, "started_at": now, "heartbeat_at": now}
    try:
        connection.execute(insert(writers).values(row))
    except exc.IntegrityError:
        raise ConcurrentInsertError from None
