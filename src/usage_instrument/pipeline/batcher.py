"""PendingCounts counts on their way into batches: frozen, sorted, numbered, and changed only after a definite rollback.

With a journal, what is held here is on disk before a batch is sent: the frame.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import time
from _thread import RLock
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

from usage_instrument.audit.record import without_erased_users
from usage_instrument.database.suppressions import Suppressions
from usage_instrument.events import Batch, Count, Loss, Use
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from .deferred import DeferredCounts, unique_parts
from .journal import ReadPosition, Snapshot
from .losses import today
from .pending_counts import Aggregates, PendingCounts

M = TypeVar("M", bound=Callable[..., Any])


class Unwritten(NamedTuple):
    """What one user has used, as far as the writer has not confirmed it, at one moment."""

    turn: int
    """The batcher's."""
    writer_id: UUID | None
    """Whose row in the ledger tells whether the batch is applied."""
    batch: Batch | None
    """What may be applied already, or any moment."""
    counts: tuple[Count, ...]
    """What is not."""


class Screened(NamedTuple):
    """What was found of users who are suppressed."""

    uses: int
    """That are gone."""
    met: bool
    """Whether somebody was among them who is to be forgotten."""


def _alone(method: M) -> M:
    """So that whoever looks from another thread sees every use in one place."""

    @functools.wraps(method)
    def alone(self: Batcher, *args: Any, **options: Any) -> Any:
        with self._lock:
            return method(self, *args, **options)

    return cast("M", alone)


class Batcher:
    """What the writer holds: counts, the batch that is being sent, its parts, and counts that wait for their user."""

    def __init__(
        self, pending: PendingCounts, settings: Settings, keep: Callable[[Snapshot], None] | None = None
    ) -> None:
        self._pending = pending
        self._keep = keep
        self._lock = RLock()
        self.turn = 0
        """Another number as soon as another batch begins or ends."""
        self._taken: tuple[ReadPosition, ...] = ()
        self._framed: tuple[ReadPosition, ...] = ()
        self._unframed = False
        self._rows = settings.flush_rows
        self._metadata_max_bytes = settings.metadata_max_bytes
        self._counts = Aggregates()
        self._losses: Counter[tuple[dt.date, str]] = Counter()
        self._parts: deque[tuple[Count, ...]] = deque()
        self._accesses: deque[Use] = deque()
        self.waiting = DeferredCounts(settings.user_retry)
        self.batch: Batch | None = None
        """The batch to send: the same until it is applied, or definitely rolled back and changed."""
        self.in_doubt = False
        """Whether an attempt of this batch may have been committed."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to send and nothing waits."""
        return not (self.batch or self._parts or self._counts or self._losses or len(self.waiting) or self._accesses)

    @property
    def audits(self) -> bool:
        """Whether there is something for the audit trail that is in no batch yet."""
        return bool(self._accesses)

    @_alone
    def take(self) -> None:
        """Take over what the aggregator has folded."""
        taken = self._pending.take()
        self._taken = taken.positions
        self._counts.absorb(taken.counts, self._metadata_max_bytes)
        self._losses.update(taken.losses)
        self._accesses.extend(taken.accesses)
        self._unframed = self._unframed or bool(taken.accesses)

    @_alone
    def give_back(self) -> None:
        """Hand the counts back, so that further uses of their keys find them, however full the memory is."""
        with self._pending.lock:
            self._counts.absorb(self._pending.counts, self._metadata_max_bytes)
            self._pending.counts, self._counts = self._counts, Aggregates()

    def lose(self, reason: str, uses: int) -> None:
        """Book uses that are given up."""
        self._losses[today(), reason] += uses

    @_alone
    def next(self, number: int, *, audits: bool = True) -> Batch | None:
        """The batch to send, framed under this number if it is a new one; None when nothing is left, or only accesses
        where there is no audit trail.

        Raises what `keep` raises; the batch is then not to be sent.
        """
        if self.batch is None:
            if self._keep is not None and not self._parts:
                self._cut()
            counts: Collection[Count] = self._parts.popleft() if self._parts else self._counts.take(self._rows)
            losses = self._lost()
            self._losses.clear()
            accesses: list[Use] = []
            if audits and not counts:
                accesses = [self._accesses.popleft() for _ in range(min(len(self._accesses), self._rows))]
                self._unframed = self._unframed or bool(accesses)  # or a recovery would find them in no batch
            self._freeze(number, counts, losses, accesses)
        if self._keep is not None and self._unframed and self.batch is not None:
            self._keep(self._held(self.batch))
            self._unframed = False
        return self.batch

    def _cut(self) -> None:
        """Make parts of all that was taken, so that one frame holds it all."""
        if self._taken != self._framed or self._counts or self._losses:
            while self._counts:
                self._parts.append(tuple(self._counts.take(self._rows)))
            self._framed, self._unframed = self._taken, True

    def _held(self, batch: Batch) -> Snapshot:
        later = (Batch(number, part) for number, part in enumerate(self._parts, batch.number + 1))
        return Snapshot(self._framed, (batch, *later), tuple(self.waiting.counts), self._lost(), tuple(self._accesses))

    def _lost(self) -> tuple[Loss, ...]:
        return tuple(Loss(day, reason, uses) for (day, reason), uses in sorted(self._losses.items()))

    @_alone
    def resume(self, held: Snapshot, number: int) -> None:
        """Hold again what a dead writer held, of whose batches `number` is the last that was applied."""
        left = [batch for batch in held.batches if batch.number > number]
        self._framed = self._taken = held.positions
        if left:
            # Whether it was ever sent is not known.
            self.batch, self.in_doubt = left[0], True
            self._parts.extend(batch.counts for batch in left[1:])
            for batch in left[1:]:
                self._losses.update({(loss.day, loss.reason): loss.uses for loss in batch.losses})
        self._losses.update({(loss.day, loss.reason): loss.uses for loss in held.losses})
        self.waiting.defer(held.waiting, time.monotonic())
        self._accesses.extend(held.accesses)
        self._unframed = True

    @_alone
    def applied(self) -> None:
        """The batch is in the tables."""
        self.batch, self.in_doubt = None, False
        self.turn += 1

    @_alone
    def change(self, number: int, counts: Collection[Count], *, losses: bool = True) -> None:
        """Make the batch anew with other counts, after a definite rollback; without any, it is gone."""
        kept = self.batch.losses if self.batch is not None and losses else ()
        accesses = self.batch.accesses if self.batch is not None else ()
        self._freeze(number, counts, kept, accesses)
        self._unframed = True

    @_alone
    def meets(self, suppressions: Suppressions) -> bool:
        """Whether anything here is of who is suppressed."""
        users = {*self._counts.users, *self.waiting.users, *(count.user for part in self._parts for count in part)}
        if any(map(suppressions.suppresses, users)):
            return True
        return any(suppressions.erases(user) for use in self._accesses for user in use.users)

    @_alone
    def screen(self, suppressions: Suppressions, number: int | None = None) -> Screened:
        """Let go of the uses of who is suppressed, and of what tells of who is forgotten. With a number, the batch too:
        it is framed anew, after a definite rollback."""
        met = False

        def is_gone(user: UserId) -> bool:
            nonlocal met
            met = met or suppressions.erases(user)
            return suppressions.suppresses(user)

        uses = self._counts.discard(is_gone) + self.waiting.discard(is_gone)
        parts, self._parts = self._parts, deque()
        for part in parts:
            kept = tuple(count for count in part if not is_gone(count.user))
            uses += sum(count.uses for count in part) - sum(count.uses for count in kept)
            if kept:
                self._parts.append(kept)
        accesses = deque(without_erased_users(use, suppressions.pseudonym) for use in self._accesses)
        if uses or len(parts) != len(self._parts) or accesses != self._accesses:
            self._accesses, self._unframed = accesses, True
        batch = self.batch
        if number is not None and batch is not None:
            kept = tuple(count for count in batch.counts if not is_gone(count.user))
            uses += sum(count.uses for count in batch.counts) - sum(count.uses for count in kept)
            self._freeze(
                number,
                kept,
                batch.losses,
                [without_erased_users(use, suppressions.pseudonym) for use in batch.accesses],
            )
            self._unframed = True
        return Screened(uses, met)

    @_alone
    def tidy(self) -> bool:
        """Have the frame tell of nothing that is not held any more; False while a batch is on its way. Raises what
        `keep` raises."""
        if self.batch is not None or self._parts or self._counts or self._keep is None:
            return False
        self._framed = self._taken
        self._keep(Snapshot(self._framed, (), tuple(self.waiting.counts), self._lost(), tuple(self._accesses)))
        return True

    @_alone
    def drop(self, number: int) -> None:
        """Give up all that the batch has; its number is free."""
        self._freeze(number, (), ())
        self._unframed = True

    @_alone
    def narrow(self, number: int) -> None:
        """Make the first half of the batch's accesses anew; the second is sent afterwards."""
        if self.batch is not None:
            accesses = self.batch.accesses
            half = len(accesses) // 2
            self._accesses.extendleft(reversed(accesses[half:]))
            self._freeze(number, (), self.batch.losses, accesses[:half])
            self._unframed = True

    @_alone
    def split(self, number: int) -> None:
        """Make the first half of the batch anew; the second is sent afterwards."""
        if self.batch is not None:
            half = len(self.batch.counts) // 2
            self._parts.appendleft(self.batch.counts[half:])
            self.change(number, self.batch.counts[:half])

    @_alone
    def defer(self, number: int, unknown: Collection[UserId], now: float) -> None:
        """Take the counts of unknown users out of the batch; they wait for their users."""
        if self.batch is not None:
            counts = self.batch.counts
            self.waiting.defer((count for count in counts if count.user in unknown), now)
            self.change(number, [count for count in counts if count.user not in unknown])

    @_alone
    def release(self, unknown: Collection[UserId], now: float) -> list[Count]:
        """Send the counts whose users have appeared; return those whose patience ran out."""
        known, late = self.waiting.release(unknown, now)
        self._parts.extend(unique_parts(known, self._rows))
        self._unframed = self._unframed or bool(known)
        return late

    @_alone
    def unwritten(self, user: UserId, writer_id: UUID | None) -> Unwritten:
        """What one user has used, as far as it is pending here or with the aggregator."""
        with self._pending.lock:
            counts = self._pending.counts.of(user) + self._counts.of(user)
        counts += [count for part in (*self._parts, self.waiting.counts) for count in part if count.user == user]
        batch = self.batch
        if batch is not None:
            batch = Batch(batch.number, tuple(count for count in batch.counts if count.user == user))
        return Unwritten(self.turn, writer_id, batch, tuple(counts))

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Keep all that is here where it is: the writer waits for it."""
        with self._lock:
            yield

    def report(self) -> None:
        """Tell the aggregator how much of the bound on memory is in use here."""
        batch = self.batch.counts if self.batch is not None else ()
        held = [count for part in (batch, *self._parts) for count in part]
        accesses = len(self._accesses) + (len(self.batch.accesses) if self.batch is not None else 0)
        with self._pending.lock:
            self._pending.with_writer_accesses = accesses
            self._pending.with_writer_keys = self._counts.keys + len(held) + len(self.waiting) + accesses
            self._pending.with_writer_uses = self._counts.uses + sum(count.uses for count in held) + self.waiting.uses

    def _freeze(
        self, number: int, counts: Collection[Count], losses: tuple[Loss, ...], accesses: Collection[Use] = ()
    ) -> None:
        """The one place where rows are sorted: two writers must meet their common rows in the same order. The
        anonymous user's, which every process writes, come last, so that they are locked for the shortest time."""
        self.in_doubt = False
        self.turn += 1
        if not counts and not losses and not accesses:
            self.batch = None
            return
        ordered = sorted(counts, key=lambda count: (count.user is None, count.user or 0, count.feature))
        self.batch = Batch(number, tuple(ordered), losses, tuple(accesses))
