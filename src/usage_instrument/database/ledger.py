"""Exactly once: the row of a writer in `feature_usage_writers`, whose `last_batch` each batch moves with its counts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Connection, Executable, Table, delete, insert, select, update

from usage_instrument.typing import UNSET, Unset

from .tables import Tables

IMPORT = "import:"
"""The begin of the `service` of an import. Its row stays: it is why the same import adds nothing a second time."""
QUEUE, QUEUE_ID = f"{IMPORT}queue", UUID(int=0)
"""The row for which writers queue, where they do: the first one, by its id. Its `service` begins as that of an import
does, so that other releases, and the views in the database, take it for no process."""


def is_process(writers: Table) -> ColumnElement[bool]:
    """The condition for the row of a process, which has a heartbeat; not for that of an import or of the queue."""
    return writers.c.service.not_like(f"{IMPORT}%")


class Ledger:
    """The row of one writer. Batch n applies iff `last_batch` is the number that is known here, and less than n.

    A higher one shows that an earlier attempt was committed. A lower one shows a server that took over, or was
    restored, without acknowledged batches.

    The row is inserted in a transaction of its own before the first batch, never by a batch: a delayed retry that finds
    no row must not start again.
    """

    def __init__(self, tables: Tables, service: str, writer_id: UUID | None = None) -> None:
        self._table = tables.writers
        self.service = service
        self.writer_id: UUID = writer_id if writer_id is not None else uuid4()
        self.number = 0
        """The last batch that is known to be applied."""
        self.registered = False
        self.suppression: int | None = None
        """The value of the column when this process last read the suppressions; None if it did not."""

    def register(self, connection: Connection) -> None:
        """Insert the row, unless an earlier attempt whose answer was lost did. The caller commits."""
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
        """Move to a batch, in its transaction.

        False if the batch is applied, batches before it are missing, the row is gone, or the suppressions have changed.
        """
        table = self._table
        moved = connection.execute(
            update(table)
            .where(
                table.c.writer_id == self.writer_id,
                table.c.last_batch == self.number,
                table.c.last_batch < number,
                table.c.suppression == self.suppression,
            )
            .values(last_batch=number, heartbeat_at=utcnow())
        )
        return moved.rowcount == 1

    def position(
        self, connection: Connection, causal: Callable[[Connection, Executable], Executable] | None = None
    ) -> int | Unset:
        """The last batch in the database; UNSET if the row is gone.

        A node of a cluster may lack what another one has acknowledged. With the dialect's `causal`, and as the first
        query of a transaction, this waits until the node has it.
        """
        query: Executable = select(self._table.c.last_batch).where(self._table.c.writer_id == self.writer_id)
        if causal is not None:
            query = causal(connection, query)
        found = connection.execute(query).scalar()
        return UNSET if found is None else int(found)

    def live_suppression(self, connection: Connection, *, lock: bool = False) -> int | None:
        """The current value of the column `suppression`; None if the row is gone. With `lock`, it stays so until the
        end of the transaction."""
        table = self._table
        query = select(table.c.suppression).where(table.c.writer_id == self.writer_id)
        found: int | None = connection.scalar(query.with_for_update() if lock else query)
        return found

    def beat(self, connection: Connection) -> None:
        """Update the heartbeat."""
        table = self._table
        connection.execute(update(table).where(table.c.writer_id == self.writer_id).values(heartbeat_at=utcnow()))

    def retire(self, connection: Connection) -> None:
        """Delete the row, after a clean exit has confirmed its last batch."""
        connection.execute(delete(self._table).where(self._table.c.writer_id == self.writer_id))


def utcnow() -> dt.datetime:
    """The current time in UTC, naive like the columns."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)
