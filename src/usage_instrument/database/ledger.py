"""Exactly once: this writer's row in `feature_usage_writers`, whose `last_batch` moves in a batch's own transaction."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, insert, select, update

from usage_instrument.typing import UNSET, Unset

if TYPE_CHECKING:
    from .tables import Tables


class Ledger:
    """One writer's row. Batch n applies iff `last_batch < n`; the row is inserted in a transaction of its own, before
    the first batch, and never by a batch: a delayed retry that finds no row must not start anew."""

    def __init__(self, tables: Tables, service: str, writer_id: UUID | None = None) -> None:
        self._table = tables.writers
        self.service = service
        self.writer_id: UUID = writer_id if writer_id is not None else uuid4()
        self.number = 0
        """The last batch that is known to be applied."""
        self.registered = False
        self.suppression: int | None = None
        """What the row says when this process knows who is suppressed; None as long as it does not."""

    def register(self, connection: Connection) -> None:
        """Insert the row, unless an earlier attempt, whose answer was lost, did. The caller commits."""
        now = utcnow()
        if self.position(connection) is UNSET:
            connection.execute(
                insert(self._table).values(
                    writer_id=self.writer_id,
                    service=self.service,
                    last_batch=0,
                    started_at=now,
                    heartbeat_at=now,
                )
            )

    def advance(self, connection: Connection, number: int) -> bool:
        """Move to a batch, within its transaction; False if it is applied already, the row is gone, or somebody has
        been suppressed meanwhile."""
        table = self._table
        moved = connection.execute(
            update(table)
            .where(
                table.c.writer_id == self.writer_id,
                table.c.last_batch < number,
                table.c.suppression == self.suppression,
            )
            .values(last_batch=number, heartbeat_at=utcnow())
        )
        return moved.rowcount == 1

    def position(self, connection: Connection) -> int | Unset:
        """The last batch the database knows of; UNSET when the row is gone."""
        found = connection.execute(
            select(self._table.c.last_batch).where(self._table.c.writer_id == self.writer_id)
        ).scalar()
        return UNSET if found is None else int(found)

    def asked(self, connection: Connection) -> int | None:
        """How often this writer was asked to look who is suppressed; None when the row is gone."""
        table = self._table
        asked: int | None = connection.scalar(select(table.c.suppression).where(table.c.writer_id == self.writer_id))
        return asked

    def beat(self, connection: Connection) -> None:
        """Say that this writer lives."""
        table = self._table
        connection.execute(update(table).where(table.c.writer_id == self.writer_id).values(heartbeat_at=utcnow()))

    def retire(self, connection: Connection) -> None:
        """Delete the row, after a clean exit has confirmed its last batch."""
        connection.execute(delete(self._table).where(self._table.c.writer_id == self.writer_id))


def utcnow() -> dt.datetime:
    """Now in UTC, naive, as the columns are."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
