"""Turns pending counts into immutable, sorted, numbered batches. A batch changes only after a confirmed rollback."""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import functools
import time
from _thread import RLock
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

from usage_instrument.audit.record import without_erased_users
from usage_instrument.database.ledger import Ledger
from usage_instrument.database.suppressions import Suppressions
from usage_instrument.events import Batch, Count, Loss, Use, in_row_order
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from .acknowledged import Acknowledged, Missing
from .deferred import DeferredCounts, unique_parts
from .journal import Journal, ReadPosition, SavedSnapshot, Snapshot
from .losses import today
from .pending_counts import Aggregates, PendingCounts, TakenCounts, size_of_access, size_of_details
from .respelling import respelled

M = TypeVar("M", bound=Callable[..., Any])


class BatchState(enum.Enum):
    """The state of the batch that is sent next."""

    NONE = "none"
    """There is no batch."""
    READY = "ready"
    """No attempt of the batch was committed: it may change."""
    IN_DOUBT = "in doubt"
    """An attempt of the batch may have been committed: it must not change."""


class Unwritten(NamedTuple):
    """One user's counts that the writer has not confirmed, at one moment."""

    version: int
    """The batcher's."""
    writer_id: UUID | None
    """The writer whose row in the ledger shows whether the batch is applied."""
    batch: Batch | None
    """Counts that may be applied already, or at any moment."""
    counts: tuple[Count, ...]
    """Counts that are not applied."""


class Discarded(NamedTuple):
    """The result of removing suppressed users."""

    uses: int
    has_erased: bool
    """Whether one of the users is erased, rather than only opted out."""


def _locked(method: M) -> M:
    """Hold the lock during a method: a reader on another thread finds every use in exactly one place."""

    @functools.wraps(method)
    def locked(self: Batcher, *args: Any, **options: Any) -> Any:
        with self._lock:
            return method(self, *args, **options)

    return cast("M", locked)


class Batcher:
    """Holds everything that the writer took and has not written: at most one batch, and what follows it.

    Transitions of `state`; any other one raises RuntimeError:

        NONE             next()                          READY, or NONE without anything to send
        NONE             resume()                        IN_DOUBT, or NONE without a batch to confirm
        READY, IN_DOUBT  doubt()                         IN_DOUBT
        READY, IN_DOUBT  roll_back()                     READY
        READY, IN_DOUBT  applied()                       NONE
        READY, IN_DOUBT  give_up()                       NONE
        all              fall_back()                     IN_DOUBT, or NONE without batches to send again
        all              abandon()                       NONE; unchanged if READY
        READY            renumber(), halve(), shrink()   READY
        READY            replace(), anonymize(), defer() READY, or NONE if nothing is left
        NONE, IN_DOUBT   discard()                       unchanged
        READY            discard()                       READY, or NONE if nothing is left

    Only `discard` changes a batch in doubt: suppressed users must not be written. The batch keeps its number, so the
    database applies either the earlier attempt or this one.

    Acknowledged batches that a database lacks are in doubt again, one after another, before anything else is sent: the
    server that had them may come back.

    With a journal, a snapshot of everything held is on disk before a batch is sent. What was taken is cut into parts
    at that moment; counts that are taken later are not in the snapshot, and the read positions in it are older.
    """

    def __init__(self, pending: PendingCounts, settings: Settings, journal: Journal | None = None) -> None:
        self._pending = pending
        self._journal = journal
        self._rows_max = self._rows = settings.flush_rows
        self._metadata_max_bytes = settings.metadata_max_bytes
        self._lock = RLock()
        self._uncut = TakenCounts(Aggregates(), Counter(), [], ())
        """Taken, and not in the snapshot."""
        self._parts: deque[tuple[Count, ...]] = deque()
        self._losses: Counter[tuple[dt.date, str]] = Counter()
        self._accesses: deque[Use] = deque()
        self._acknowledged = Acknowledged(settings.resend_max_bytes)
        self._resent: deque[Batch] = deque()
        """Batches in doubt that follow the one that is sent next, in the order of their numbers."""
        self._last_number = 0
        """The highest number of an acknowledged batch."""
        self._positions: tuple[ReadPosition, ...] = ()
        self._is_snapshot_stale = False
        self._begins_anew = False
        """Whether the next snapshot has everything that may be sent again: earlier ones must not be used."""
        self.deferred = DeferredCounts(settings.user_retry)
        self.batch: Batch | None = None
        self.state = BatchState.NONE
        self.version = 0
        """Changes whenever a batch begins, changes or ends."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held."""
        losses = self._losses or self._uncut.losses
        return not (
            self.batch
            or self._resent
            or self._parts
            or self._uncut.counts
            or losses
            or self.deferred
            or self.has_accesses
        )

    @property
    def is_sent(self) -> bool:
        """Whether nothing is held but what waits for a user's row, or for the audit trail."""
        return not (self.batch or self._resent or self._parts or self._uncut.counts)

    @property
    def has_accesses(self) -> bool:
        """Whether accesses wait for the audit trail outside of the batch."""
        return bool(self._accesses or self._uncut.accesses)

    @_locked
    def take(self) -> None:
        """Take over the pending counts."""
        taken, uncut = self._pending.take(), self._uncut
        uncut.counts.absorb(taken.counts, self._metadata_max_bytes)
        uncut.losses.update(taken.losses)
        uncut.accesses.extend(taken.accesses)
        self._uncut = uncut._replace(positions=taken.positions)

    @_locked
    def give_back(self) -> None:
        """Return uncut counts to the aggregator: further uses of their keys need no further memory."""
        with self._pending.lock:
            counts = self._uncut.counts
            counts.absorb(self._pending.counts, self._metadata_max_bytes)
            self._pending.counts, self._uncut = counts, self._uncut._replace(counts=Aggregates())

    def lose(self, reason: str, uses: int) -> None:
        """Count uses that are given up."""
        self._losses[today(), reason] += uses

    # ---- the batch

    @_locked
    def next(self, ledger: Ledger, *, audits: bool = True) -> Batch | None:
        """The batch to send, saved in the snapshot; None if there is nothing to send. Without `audits`, accesses wait.

        Raises OSError if the snapshot cannot be saved; the batch must not be sent then.
        """
        if self.state is BatchState.NONE and self._resent:
            self._freeze(*self._resent.popleft(), BatchState.IN_DOUBT)
            self._is_snapshot_stale = True
        if self.state is BatchState.NONE:
            if not self._parts:
                self._cut()
            counts = self._parts.popleft() if self._parts else ()
            if len(counts) > self._rows:  # cut before a batch was too slow
                self._parts.appendleft(counts[self._rows :])
                counts, self._is_snapshot_stale = counts[: self._rows], True
            accesses: list[Use] = []
            if audits and not counts:
                accesses = [self._accesses.popleft() for _ in range(min(len(self._accesses), self._rows))]
                self._is_snapshot_stale |= bool(accesses)
            losses = self._take_losses()
            self._is_snapshot_stale |= bool(losses)  # they are in the batch now
            self._freeze(self._number_after(ledger) + 1, counts, losses, accesses, BatchState.READY)
        if self._is_snapshot_stale and self.batch is not None:
            self._save(ledger)
        return self.batch

    def _number_after(self, ledger: Ledger) -> int:
        """The number that the next one follows: no number is given twice, as a server that lacks some may be replaced
        by the one that has them."""
        return max(ledger.number, self._last_number)

    def _cut(self) -> None:
        """Divide what was taken into parts. Without a journal, cut one part: the other counts stay aggregated."""
        uncut = self._uncut
        while uncut.counts and (self._journal is not None or not self._parts):
            self._parts.append(tuple(uncut.counts.take(self._rows)))
        self._losses.update(uncut.losses)
        self._accesses.extend(uncut.accesses)
        self._positions, self._is_snapshot_stale = uncut.positions, True
        self._uncut = uncut._replace(losses=Counter(), accesses=[])

    def _save(self, ledger: Ledger) -> None:
        if self._journal is not None:
            first = [*([] if self.batch is None else [self.batch]), *self._resent]
            number = (first[-1].number if first else self._number_after(ledger)) + 1
            batches = (*first, *(Batch(number + index, part) for index, part in enumerate(self._parts)))
            held = Snapshot(self._positions, batches, tuple(self.deferred.counts), self._lost(), tuple(self._accesses))
            self._journal.save(SavedSnapshot(ledger.writer_id, ledger.registered, held), anew=self._begins_anew)
        self._is_snapshot_stale = self._begins_anew = False

    def _lost(self) -> tuple[Loss, ...]:
        return tuple(Loss(day, reason, uses) for (day, reason), uses in sorted(self._losses.items()))

    def _take_losses(self) -> tuple[Loss, ...]:
        losses = self._lost()
        self._losses.clear()
        return losses

    def _return_losses(self, losses: Collection[Loss]) -> None:
        for loss in losses:
            self._losses[loss.day, loss.reason] += loss.uses

    @_locked
    def resume(self, snapshot: Snapshot, number: int, sent: Collection[Batch] = ()) -> None:
        """Hold what a dead writer held; `number` is the last batch that is applied, and `sent` are batches after it
        that the database had acknowledged, and lacks."""
        self._require(BatchState.NONE)
        self._positions = snapshot.positions
        self._uncut = self._uncut._replace(positions=snapshot.positions)
        left = deque(batch for batch in snapshot.batches if batch.number > number)
        self._resent.extend(sent)
        if left:
            self._resent.append(left.popleft())  # it may have been sent
        if self._resent:
            self._freeze(*self._resent.popleft(), BatchState.IN_DOUBT)
        for batch in left:
            if batch.counts:
                self._parts.append(batch.counts)
            self._accesses.extend(batch.accesses)
            self._return_losses(batch.losses)
        self._return_losses(snapshot.losses)
        self.deferred.defer(snapshot.waiting, time.monotonic())
        self._accesses.extend(snapshot.accesses)
        self._is_snapshot_stale = self._begins_anew = True

    @_locked
    def doubt(self) -> None:
        """Nobody knows whether the latest attempt was committed."""
        self._require(BatchState.READY, BatchState.IN_DOUBT)
        self.state = BatchState.IN_DOUBT

    @_locked
    def roll_back(self) -> None:
        """The database confirmed that no attempt was committed."""
        self._require(BatchState.READY, BatchState.IN_DOUBT)
        self.state = BatchState.READY

    @_locked
    def applied(self) -> None:
        """The batch is in the tables."""
        batch = self._require(BatchState.READY, BatchState.IN_DOUBT)
        self._acknowledged.add(batch)
        self._last_number = max(self._last_number, batch.number)
        self._freeze(0, (), (), (), BatchState.NONE)

    @_locked
    def give_up(self) -> Batch:
        """Remove the batch. Its losses go with the next one, unless they may be counted or are refused themselves."""
        batch = self._require(BatchState.READY, BatchState.IN_DOUBT)
        if self.state is BatchState.READY and (batch.counts or batch.accesses):
            self._return_losses(batch.losses)
        self._freeze(0, (), (), (), BatchState.NONE)
        self._is_snapshot_stale = True
        return batch

    @_locked
    def fall_back(self, number: int) -> Missing:
        """Send the acknowledged batches after a number again, as far as they are kept: the database lacks them."""
        missing = self._acknowledged.take(number)
        if self.state is BatchState.READY and self.batch is not None:  # no database has it
            if self.batch.counts:
                self._parts.appendleft(self.batch.counts)
            self._return_losses(self.batch.losses)
            self._accesses.extendleft(reversed(self.batch.accesses))
        elif self.batch is not None:
            self._resent.appendleft(self.batch)
        self._resent.extendleft(reversed(missing.kept))
        self._freeze(0, (), (), (), BatchState.NONE)
        if self._resent:
            self._freeze(*self._resent.popleft(), BatchState.IN_DOUBT)
        self._is_snapshot_stale = self._begins_anew = True
        return missing

    @_locked
    def abandon(self) -> list[Batch]:
        """Remove what is in doubt, as the row that numbered the batches is gone; return it."""
        self._acknowledged.clear()
        self._begins_anew = True
        self._last_number = 0
        given_up = [self.give_up()] if self.state is BatchState.IN_DOUBT else []
        given_up += self._resent
        self._resent.clear()
        return given_up

    @_locked
    def renumber(self, number: int) -> None:
        """Send the batch under another number, for a new row in the ledger."""
        self._change(self._require(BatchState.READY)._replace(number=number))

    @_locked
    def replace(self, counts: tuple[Count, ...]) -> None:
        """Send the batch with other counts."""
        self._change(self._require(BatchState.READY)._replace(counts=counts))

    @_locked
    def halve(self) -> None:
        """Send the first half of the batch; the second follows."""
        batch = self._require(BatchState.READY)
        counts, accesses = len(batch.counts) // 2, len(batch.accesses) // 2
        if batch.counts:
            self._parts.appendleft(batch.counts[counts:])
        self._accesses.extendleft(reversed(batch.accesses[accesses:]))
        self._change(batch._replace(counts=batch.counts[:counts], accesses=batch.accesses[:accesses]))

    def shrink(self) -> None:
        """As halve, and make later batches no larger: the database is too slow for this one."""
        batch = self._require(BatchState.READY)
        self._rows = -(-max(len(batch.counts), len(batch.accesses)) // 2)
        self.halve()

    def grow(self, rows: int) -> None:
        """Make later batches twice as large, if one of so many rows was as large as they may be."""
        if rows >= self._rows:
            self._rows = min(2 * self._rows, self._rows_max)

    @_locked
    def defer(self, users: Collection[UserId]) -> None:
        """Take these users' counts out of the batch, until `release`."""
        batch = self._require(BatchState.READY)
        self.deferred.defer((count for count in batch.counts if count.user in users), time.monotonic())
        self._change(batch._replace(counts=tuple(count for count in batch.counts if count.user not in users)))

    @_locked
    def anonymize(self, users: Collection[UserId]) -> int:
        """Count the uses of these users, who have been deleted, for the anonymous user. Their exposures go with them:
        return their number."""
        batch = self._require(BatchState.READY)
        gone = {count for count in batch.exposures if count.user in users}
        batch = batch._replace(counts=tuple(count for count in batch.counts if count not in gone))
        self._change(respelled(batch, lambda user: None if user in users else user, self._metadata_max_bytes))
        return sum(count.uses for count in gone)

    @_locked
    def release(self, unknown: Collection[UserId], now: float) -> list[Count]:
        """Send the deferred counts of users who are no longer unknown; return those that waited too long."""
        known, late = self.deferred.release(unknown, now)
        self._parts.extend(unique_parts(known, self._rows))
        self._is_snapshot_stale |= bool(known or late)
        return late

    def _require(self, *states: BatchState) -> Batch:
        if self.state not in states:
            raise RuntimeError(f"the batch is {self.state.value}, not {' or '.join(state.value for state in states)}")
        return cast("Batch", self.batch)

    def _change(self, batch: Batch) -> None:
        self._freeze(*batch, self.state)
        self._is_snapshot_stale = True

    def _freeze(
        self,
        number: int,
        counts: Collection[Count],
        losses: tuple[Loss, ...],
        accesses: Collection[Use],
        state: BatchState,
    ) -> None:
        """Set the batch, sorted. One in doubt stays if it is empty: its number may be taken."""
        self.version += 1
        if counts or losses or accesses or state is BatchState.IN_DOUBT:
            self.batch, self.state = Batch(number, in_row_order(counts), losses, tuple(accesses)), state
        else:
            self.batch, self.state = None, BatchState.NONE

    # ---- suppressed users

    @_locked
    def names(self, suppressions: Suppressions) -> bool:
        """Whether anything outside of the batch names a suppressed user."""
        parts = (count.user for part in self._parts for count in part)
        resent = (count.user for batch in self._resent for count in batch.counts)
        users = {*self._uncut.counts.users, *self.deferred.users, *parts, *resent}
        accesses = [*self._accesses, *self._uncut.accesses, *(use for batch in self._resent for use in batch.accesses)]
        return any(map(suppressions.suppresses, users)) or any(
            suppressions.pseudonymises(user) for use in accesses for user in use.users
        )

    @_locked
    def discard(self, suppressions: Suppressions, *, batch: bool = False) -> Discarded:
        """Remove the counts of suppressed users, and the names of erased ones; of the batch too, if `batch`."""
        has_erased, uses = False, 0

        def is_suppressed(user: UserId) -> bool:
            nonlocal has_erased
            has_erased = has_erased or suppressions.erases(user)
            return suppressions.suppresses(user)

        def left(counts: Collection[Count]) -> tuple[Count, ...]:
            return tuple(count for count in counts if not is_suppressed(count.user))

        def kept(counts: Collection[Count]) -> tuple[Count, ...]:
            nonlocal uses
            found = left(counts)
            uses += sum(count.uses for count in counts) - sum(count.uses for count in found)
            return found

        def without(batch: Batch, left: Callable[[Collection[Count]], tuple[Count, ...]]) -> Batch:
            accesses = tuple(without_erased_users(use, suppressions.pseudonym) for use in batch.accesses)
            return batch._replace(counts=left(batch.counts), accesses=accesses)

        uses += self._uncut.counts.discard(is_suppressed) + self.deferred.discard(is_suppressed)
        self._parts = deque(filter(None, map(kept, self._parts)))
        self._accesses = deque(without_erased_users(use, suppressions.pseudonym) for use in self._accesses)
        self._resent = deque(without(each, kept) for each in self._resent)
        self._acknowledged.change(lambda each: without(each, left))  # which are written
        self._uncut.accesses[:] = [without_erased_users(use, suppressions.pseudonym) for use in self._uncut.accesses]
        if batch and self.batch is not None:
            self._change(without(self.batch, kept))
        self._is_snapshot_stale = True
        return Discarded(uses, has_erased)

    @_locked
    def tidy(self, ledger: Ledger) -> bool:
        """Save a snapshot that names nobody who is not held; False while a batch or counts wait. Raises OSError."""
        if self.batch is not None or self._resent or self._parts or self._uncut.counts or self._journal is None:
            return False
        self._cut()
        self._begins_anew = True  # earlier snapshots name everybody who was held
        self._save(ledger)
        return True

    # ---- readers on other threads

    @_locked
    def users(self) -> set[UserId]:
        """The users of all counts, here and pending."""
        batches = (*self._resent, *([] if self.batch is None else [self.batch]))
        held = (*self._parts, self.deferred.counts, *(batch.counts for batch in batches))
        with self._pending.lock:
            users = self._pending.counts.users | self._uncut.counts.users
        return users | {count.user for part in held for count in part}

    @_locked
    def unwritten(self, users: Collection[UserId], writer_id: UUID | None) -> Unwritten:
        """The counts of a user, who may have several spellings, here and pending."""
        counts: list[Count] = []
        with self._pending.lock:
            for user in users:
                counts += self._pending.counts.of(user) + self._uncut.counts.of(user)
        parts = (*self._parts, self.deferred.counts, *(batch.counts for batch in self._resent))
        counts += [count for part in parts for count in part if count.user in users]
        batch = self.batch
        if batch is not None:
            batch = Batch(batch.number, tuple(count for count in batch.counts if count.user in users))
        return Unwritten(self.version, writer_id, batch, tuple(counts))

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep everything where it is; the writer waits."""
        with self._lock:
            yield

    def report(self) -> None:
        """Tell the aggregator how much of the bound on memory is in use here."""
        batch = self.batch if self.batch is not None else Batch(0, ())
        batches = [batch, *self._resent]
        held = [count for part in (*self._parts, self.deferred.counts) for count in part]
        held += [count for each in batches for count in each.counts]
        accesses = [*self._accesses, *self._uncut.accesses, *(use for each in batches for use in each.accesses)]
        size = sum(map(size_of_details, held)) + sum(map(size_of_access, accesses))
        with self._pending.lock:
            self._pending.with_writer_accesses = len(accesses)
            self._pending.with_writer_bytes = self._uncut.counts.detail_bytes + size
            self._pending.with_writer_keys = self._uncut.counts.keys + len(held) + len(accesses)
            self._pending.with_writer_uses = self._uncut.counts.uses + sum(count.uses for count in held)
