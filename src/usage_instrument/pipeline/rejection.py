"""What becomes of a batch that the database refused: what it refuses is taken out, deferred or given up, and said."""

from __future__ import annotations

import time
from collections.abc import Collection

from usage_instrument.database.dialects import Fault
from usage_instrument.events import Batch, Count, in_words

from . import losses
from .batcher import Batcher
from .retry import RetryPolicy
from .store import Store, WriteError

_APPEARANCES = 5  # batches in a row that are refused for users who are there when one looks


class Rejection:
    """Works on what the batcher holds, after a definite rollback; every batch that it leaves is framed anew."""

    def __init__(self, batcher: Batcher, retry: RetryPolicy) -> None:
        self._batcher = batcher
        self._retry = retry
        self._appeared = 0  # in a row
        self.rejected = 0
        self.metadata_lost = 0
        self.audit_lost = 0

    def needless(self) -> None:
        """A batch was applied."""
        self._appeared = 0

    def mend(self, error: WriteError, batch: Batch, store: Store) -> None:
        """Take out what the database refused. Raises WriteError."""
        if error.fault is Fault.UNKNOWN_USER:
            unknown = store.unknown_users({count.user for count in batch.counts})
            if unknown:
                self._batcher.defer(batch.number, unknown, time.monotonic())
                return
            # They have appeared since: the host committed between the two looks.
            self._appeared += 1
            if self._appeared <= _APPEARANCES:
                self._batcher.change(batch.number, batch.counts)
                return
        self._retry.retries += 1
        if batch.accesses:
            self._mend_accesses(error, batch)
        elif len(batch.counts) > 1:
            self._batcher.split(batch.number)
        elif batch.counts and batch.counts[0].metadata is not None:
            self.metadata_lost += 1
            self._retry.say(f"metadata lost, as the database refused it: {error}")
            self._batcher.change(batch.number, [batch.counts[0]._replace(metadata=None)])
        else:
            self._batcher.change(batch.number, (), losses=bool(batch.counts))
            self.reject(batch.counts, losses.REFUSED, str(error))

    def _mend_accesses(self, error: WriteError, batch: Batch) -> None:
        if len(batch.accesses) > 1:
            self._batcher.narrow(batch.number)
        else:
            self._batcher.drop(batch.number)
            self.lose_accesses(1)
            self._retry.say(f"1 access is not in the audit trail, which the database refused: {error}")

    def reject(self, counts: Collection[Count], reason: str, detail: str) -> None:
        """Give up counts that cannot be written."""
        uses = sum(count.uses for count in counts)
        if uses:
            self.rejected += uses
            self._batcher.lose(reason, uses)
            self._retry.say(f"{in_words(uses)} rejected, {reason}: {detail}")

    def silence(self, uses: int) -> None:
        """Give up uses of who is suppressed, which is nothing to warn of."""
        if uses:
            self.rejected += uses
            self._batcher.lose(losses.SUPPRESSED, uses)

    def lose_accesses(self, number: int) -> None:
        """Give up accesses that cannot be written."""
        if number:
            self.audit_lost += number
            self._batcher.lose(losses.ACCESS, number)
