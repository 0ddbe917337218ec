"""Handles a batch that the database refused: takes out, defers or rejects the rows that it does not accept."""

from __future__ import annotations

from collections.abc import Collection

from usage_instrument.database.driver_errors import Fault
from usage_instrument.events import Batch, Count, uses_text
from usage_instrument.runtime import log
from usage_instrument.typing import UserId

from . import losses
from .batcher import Batcher
from .known_users import KnownUsers
from .retry import RetryPolicy
from .store import Store, WriteError

_APPEARED = 5
"""Batches in a row that are refused for users who exist when one looks."""
_ATTEMPTS = 3
"""Statement timeouts in a row after which a single row is rejected."""
_LOCKED_ATTEMPTS = 2
"""Lock timeouts in a row after which a batch is halved: most locks are short."""
_LOCKED_CYCLE = 10
"""Lock timeouts in a row after which a cycle ends: the whole table may be locked."""


class Rejection:
    """Changes the batch after a confirmed rollback, and counts what is rejected."""

    def __init__(self, batcher: Batcher, retry: RetryPolicy, known_users: KnownUsers) -> None:
        self._batcher = batcher
        self._retry = retry
        self._known_users = known_users
        self._has_met_users = False
        """Whether something was written for a user with a row in the users table."""
        self._appeared = 0
        self._locked = self._locked_now = self._timeouts = 0
        self.lock_error: str | None = None
        """The error because of which users were deferred in this cycle: another transaction holds locks on them."""
        self.rejected = 0
        self.metadata_lost = 0
        self.audit_lost = 0

    def begin(self) -> None:
        """A cycle of the writer begins."""
        self._locked_now, self.lock_error = 0, None

    def applied(self, batch: Batch, *, quickly: bool = True, has_users: bool = False) -> None:
        """A batch was applied, `quickly` if one of twice the size would not be too slow. `has_users` if a foreign key
        asks for its users."""
        if has_users:
            users = {count.user for count in batch.counts} - {None}
            self._known_users.add(users)
            self._has_met_users |= bool(users)
        self._appeared = self._locked = self._locked_now = self._timeouts = 0
        if quickly:
            self._batcher.grow(_rows(batch))

    def isolate(self, error: WriteError, batch: Batch) -> bool:
        """Send fewer rows at a time after a statement timeout, and after a lock that lasts: in the end, a locked user
        waits alone, and a row that is too slow alone is rejected. False if the batch is to be repeated as it is."""
        is_single = _rows(batch) <= 1
        if error.fault is Fault.TIMEOUT:
            self._timeouts += is_single
            if is_single and self._timeouts < _ATTEMPTS:
                return False
        elif error.fault is Fault.LOCKED:
            self._locked += 1
            self._locked_now += 1
            if self._locked < _LOCKED_ATTEMPTS or self._locked_now > _LOCKED_CYCLE:
                return False
            if is_single and not batch.counts:
                return False
        else:
            return False
        self._retry.retries += 1
        if not is_single and error.fault is Fault.TIMEOUT:
            self._batcher.shrink()
        elif not is_single:
            self._batcher.halve()
        elif error.fault is Fault.LOCKED:
            self._batcher.defer({count.user for count in batch.counts})
            self.lock_error = str(error)
        else:
            self._timeouts = 0
            self._give_up(error, batch)
        return True

    def handle(self, error: WriteError, batch: Batch, store: Store) -> None:
        """Change the batch so that the refused row is out of the way of the others. Raises WriteError."""
        if error.fault is Fault.UNKNOWN_USER:
            unknown = store.unknown_users({count.user for count in batch.counts})
            if self._known_users.wait_for(unknown):  # the app may have committed them meanwhile
                unknown = store.unknown_users(unknown)
            deleted = self._known_users.among(unknown)
            if unknown:
                self._report_deleted(batch, deleted)
                self._reject(self._batcher.anonymize(deleted), losses.UNKNOWN_USER)
                if self._batcher.batch is not None:
                    self._batcher.defer(unknown - deleted)
                return
            # They have appeared since: the host committed in between.
            self._appeared += 1
            if self._appeared <= _APPEARED:
                return
        self._retry.retries += 1
        if _rows(batch) > 1:
            self._batcher.halve()
        elif batch.counts and batch.counts[0].metadata is not None:
            self.metadata_lost += 1
            log.warning("metadata refused", "metadata lost, as the database refused it: %s", error)
            self._batcher.replace((batch.counts[0]._replace(metadata=None),))
        else:
            self._give_up(error, batch)

    def _report_deleted(self, batch: Batch, deleted: Collection[UserId]) -> None:
        """Log users who are taken for deleted, unless others are in the users table."""
        uses = sum(count.uses for count in batch.counts if count.user in deleted)
        if uses and not self._has_met_users:
            log.warning(
                "deleted users",
                "%s counted for the anonymous user, since the users of requests that have ended have no row in the "
                "users table: they were deleted, or `users=` names another table than that of the app's users",
                uses_text(uses),
            )

    def _give_up(self, error: WriteError, batch: Batch) -> None:
        self._batcher.give_up()
        self.reject(batch.counts, losses.REFUSED, str(error))
        if batch.accesses:
            log.warning("access refused", "1 access is not in the audit trail, as the database refused it: %s", error)
            self.lose_accesses(1)

    def reject(self, counts: Collection[Count], reason: str, detail: str) -> None:
        """Count these as rejected, and log it."""
        uses = sum(count.uses for count in counts)
        if uses:
            log.warning(("rejected", reason), "%s rejected, %s: %s", uses_text(uses), reason, detail)
        self._reject(uses, reason)

    def suppress(self, uses: int) -> None:
        """Count the uses of suppressed users as rejected, without a log line."""
        self._reject(uses, losses.SUPPRESSED)

    def _reject(self, uses: int, reason: str) -> None:
        if uses:
            self.rejected += uses
            self._batcher.lose(reason, uses)

    def lose_dimensions(self, batch: Batch, detail: str) -> None:
        """Count and log the counts of a batch whose dimensions and numbers are not written."""
        self.metadata_lost += sum(bool(count.slices) for count in batch.counts)
        log.warning("dimensions refused", "dimensions and values lost, and the uses are counted: %s", detail)

    def lose_accesses(self, number: int) -> None:
        """Count accesses that are not in the audit trail."""
        if number:
            self.audit_lost += number
            self._batcher.lose(losses.ACCESS, number)


def _rows(batch: Batch) -> int:
    return max(len(batch.counts), len(batch.accesses))
