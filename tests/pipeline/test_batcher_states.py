"""The batcher's state machine, driven through every transition with faults in between: no use is lost or doubled."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from usage_instrument.events import Batch, in_row_order
from usage_instrument.pipeline.batcher import Batcher, BatchState
from usage_instrument.pipeline.journal import SavedSnapshot
from usage_instrument.pipeline.journal.archive import sent as sent_before
from usage_instrument.pipeline.pending_counts import PendingCounts
from usage_instrument.settings import Settings

ROOM = 10**6
USERS = st.sampled_from([1, 2, 3, 4, None])


class Ledger:
    """A writer's row, as the batcher knows it."""

    def __init__(self, writer_id: UUID | None = None, number: int = 0) -> None:
        self.writer_id, self.number, self.registered = writer_id or uuid4(), number, True


class Journal:
    """Keeps the snapshots; the disk may refuse one."""

    def __init__(self) -> None:
        self.saved: SavedSnapshot | None = None
        self.kept: list[tuple[int, SavedSnapshot]] = []
        self.is_full = False

    def save(self, saved: SavedSnapshot, *, anew: bool) -> None:
        if self.is_full:
            raise OSError("full")
        if anew:
            self.kept.clear()
        elif self.saved is not None and saved.held.batches:
            number = saved.held.batches[0].number
            if number > max((kept for kept, _ in self.kept), default=0):
                self.kept.append((number, self.saved))
        self.saved = saved


class Suppressions:
    """Suppressed users; all of them are to be forgotten."""

    def __init__(self) -> None:
        self.users: set[Any] = set()

    def suppresses(self, user: Any) -> bool:
        return user in self.users

    erases = suppresses

    def pseudonym(self, user: Any) -> str | None:
        return "x" if user in self.users else None


class Machine(RuleBasedStateMachine):
    """A batcher between an aggregator and a database, all of which may fail."""

    with_journal = False

    def __init__(self) -> None:
        super().__init__()
        self.journal: Any = None
        if self.with_journal:
            self.journal = Journal()
        self.settings = Settings(flush_rows=3, user_retry=60, resend_max_bytes=3000)
        self.pending = PendingCounts(ROOM)
        self.ledger: Any = Ledger()
        self.suppressions: Any = Suppressions()
        self.batcher = Batcher(self.pending, self.settings, self.journal)
        self.unread: list[tuple[int, Any, int]] = []
        """In the journal: position, user and uses."""
        self.clock = 0
        self.captured = 0
        self.rejected = 0
        self.dropped = 0
        self.rows: Counter[Any] = Counter()
        """In the database."""
        self.last_batch: dict[UUID, int] = {self.ledger.writer_id: 0}
        self.past: list[tuple[int, Counter[Any]]] = []
        """What a server may come back with: the position of the present writer, and the rows."""
        self.acknowledged: dict[int, int] = {}
        """The uses of acknowledged batches, by their numbers."""
        self.erased: Counter[int] = Counter()
        """Those of suppressed users in batches that were kept at that time, by the batches' numbers."""

    # ---- the aggregator

    @rule(user=USERS, uses=st.integers(1, 5))
    def capture(self, user: Any, uses: int) -> None:
        self.captured += uses
        self.clock += 1
        self.unread.append((self.clock, user, uses))
        with self.pending.lock:
            self.pending.counts.add(None, "f", [(user, uses)], self.clock, ROOM)
            if self.journal is not None:
                self.pending.positions = (self.clock,)  # type: ignore[assignment]

    @rule()
    def take(self) -> None:
        self.batcher.take()

    @rule()
    def give_back(self) -> None:
        self.batcher.give_back()

    # ---- the database

    def next(self) -> Batch | None:
        before, doubt = self.batcher.batch, self.batcher.state is BatchState.IN_DOUBT
        try:
            batch = self.batcher.next(self.ledger)
        except OSError:
            return None
        if doubt:
            assert batch is before, "a batch in doubt changed"
        if batch is not None and self.journal is not None:
            assert self.journal.saved is not None, "sent before it was saved"
            saved = [(each.number, in_row_order(each.counts)) for each in self.journal.saved.held.batches]
            assert (batch.number, batch.counts) in saved
        return batch

    @property
    def position(self) -> int:
        return self.last_batch[self.ledger.writer_id]

    def commit(self, batch: Batch) -> None:
        """As the database does: a batch applies iff last_batch is the known number, and less than its own."""
        if self.position == self.ledger.number < batch.number:
            self.past.append((self.position, self.rows.copy()))
            self.last_batch[self.ledger.writer_id] = batch.number
            for count in batch.counts:
                self.rows[count.user] += count.uses

    def has_fallen_back(self) -> bool:
        if self.position >= self.ledger.number:
            return False
        self.ledger.number = self.position
        lacking = self.lacking()
        missing = self.batcher.fall_back(self.position)
        self.dropped += missing.uses
        erased = sum(uses for number, uses in self.erased.items() if number > self.position)
        assert lacking == missing.uses + sum(batch.uses for batch in missing.kept) + erased
        self.rejected += erased
        self.acknowledged = {number: uses for number, uses in self.acknowledged.items() if number <= self.position}
        return True

    @rule()
    def send(self) -> None:
        batch = self.next()
        if batch is not None and not self.has_fallen_back():
            self.commit(batch)
            self.acknowledge(batch)

    def acknowledge(self, batch: Batch) -> None:
        assert self.position >= batch.number
        self.batcher.applied()
        self.ledger.number = batch.number
        self.acknowledged[batch.number] = batch.uses
        self.erased[batch.number] = 0

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def fail_over(self, data: st.DataObject) -> None:
        """A server takes over that has not everything of the one before."""
        number = data.draw(st.integers(0, len(self.past) - 1))
        self.last_batch[self.ledger.writer_id], self.rows = self.past[number]
        del self.past[number:]

    def lacking(self) -> int:
        """The acknowledged uses that the database lacks."""
        return sum(uses for number, uses in self.acknowledged.items() if number > self.position)

    @rule(is_committed=st.booleans())
    def lose_the_answer(self, is_committed: bool) -> None:
        batch = self.next()
        if batch is not None:
            if is_committed:
                self.commit(batch)
            self.batcher.doubt()

    def refused(self) -> Batch | None:
        """The database refuses the batch, unless an earlier attempt was committed: then it answers that."""
        batch = self.next()
        if batch is None or self.position >= batch.number or self.has_fallen_back():
            return None
        self.batcher.roll_back()
        return batch

    @rule()
    def refuse_a_row(self) -> None:
        batch = self.refused()
        if batch is None:
            return
        if len(batch.counts) > 1:
            self.batcher.halve()
        else:
            self.batcher.give_up()
            self.rejected += batch.uses

    @rule()
    def be_slow(self) -> None:
        batch = self.refused()
        if batch is not None and len(batch.counts) > 1:
            self.batcher.shrink()

    @rule(rows=st.integers(0, 3))
    def be_quick(self, rows: int) -> None:
        self.batcher.grow(rows)

    @rule()
    def refuse_metadata(self) -> None:
        batch = self.refused()
        if batch is not None:
            self.batcher.replace(tuple(count._replace(metadata=None) for count in batch.counts))

    @rule(user=USERS)
    def miss_a_user(self, user: Any) -> None:
        if self.refused() is not None:
            self.batcher.defer({user})

    @rule(user=USERS)
    def delete_a_user(self, user: Any) -> None:
        if self.refused() is not None:
            self.batcher.anonymize({user})

    @rule(user=USERS, is_late=st.booleans())
    def find_users(self, user: Any, is_late: bool) -> None:
        late = self.batcher.release({user}, time.monotonic() + (60 if is_late else 0))
        self.rejected += sum(count.uses for count in late)

    @rule()
    def lose_the_ledger_row(self) -> None:
        if self.next() is None or self.has_fallen_back():
            return
        before = self.position
        self.ledger = Ledger()
        self.last_batch[self.ledger.writer_id] = 0
        self.past.clear()
        self.acknowledged.clear()
        self.erased.clear()
        # A writer drops them either way, and may be wrong.
        self.dropped += sum(batch.uses for batch in self.batcher.abandon() if batch.number > before)
        if self.batcher.state is BatchState.READY:
            self.batcher.renumber(1)

    @rule()
    def lose_uses(self) -> None:
        self.batcher.lose("why", 0)

    # ---- suppression

    @precondition(lambda self: self.batcher.state is not BatchState.IN_DOUBT)
    @rule(user=st.sampled_from([1, 2]), whole=st.booleans())
    def suppress(self, user: Any, whole: bool) -> None:
        self.suppressions.users = {user}
        state = self.batcher.state
        self.erase(user)
        self.rejected += self.batcher.discard(self.suppressions, batch=whole).uses
        assert not self.batcher.names(self.suppressions)
        if self.batcher.batch is not None:
            assert self.batcher.state is state

    @precondition(lambda self: self.batcher.state is BatchState.IN_DOUBT)
    @rule(user=st.sampled_from([1, 2]))
    def suppress_beside_a_doubt(self, user: Any) -> None:
        self.suppressions.users = {user}
        batch = self.batcher.batch
        self.erase(user)
        self.rejected += self.batcher.discard(self.suppressions).uses
        assert self.batcher.batch is batch

    def erase(self, user: Any) -> None:
        for batch, _ in self.batcher._acknowledged._batches:
            self.erased[batch.number] += sum(count.uses for count in batch.counts if count.user == user)

    # ---- the process

    @precondition(lambda self: self.journal is not None)
    @rule(is_full=st.booleans())
    def fill_the_disk(self, is_full: bool) -> None:
        self.journal.is_full = is_full

    @rule()
    def report(self) -> None:
        self.batcher.report()
        assert self.pending.uses == self.held()

    def held(self) -> int:
        batcher = self.batcher
        parts = sum(count.uses for part in batcher._parts for count in part)
        batch = sum(each.uses for each in (*([] if batcher.batch is None else [batcher.batch]), *batcher._resent))
        return self.pending.counts.uses + batcher._uncut.counts.uses + parts + batch + batcher.deferred.uses

    def written_or_held(self) -> int:
        batch = self.batcher.batch
        applied = batch is not None and self.position >= batch.number
        unconfirmed = batch.uses if batch is not None and applied else 0
        return sum(self.rows.values()) + self.lacking() + self.held() - unconfirmed

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert self.captured == self.written_or_held() + self.rejected + self.dropped

    @invariant()
    def states_and_batches_agree(self) -> None:
        assert (self.batcher.state is BatchState.NONE) == (self.batcher.batch is None)

    def teardown(self) -> None:
        """Whatever happened, a database that works gets all of it."""
        if self.journal is not None:
            self.journal.is_full = False
        self.batcher.take()
        self.rejected += sum(count.uses for count in self.batcher.release(set(), time.monotonic()))
        self.has_fallen_back()  # as the writer asks at its end
        while (batch := self.next()) is not None:
            self.commit(batch)
            self.acknowledge(batch)
        assert self.batcher.is_idle
        assert self.captured == sum(self.rows.values()) + self.rejected + self.dropped


class JournaledMachine(Machine):
    """With a journal: the process may also be killed, and another one continues from the snapshot."""

    with_journal = True

    @precondition(lambda self: self.journal.saved and self.journal.saved.writer_id == self.ledger.writer_id)
    @rule()
    def kill(self) -> None:
        saved: SavedSnapshot = self.journal.saved
        held = saved.held
        self.ledger = Ledger(saved.writer_id, self.last_batch[saved.writer_id])
        self.past.clear()
        self.acknowledged.clear()
        self.erased.clear()
        self.pending = PendingCounts(ROOM)
        self.batcher = Batcher(self.pending, self.settings, self.journal)
        sent = sent_before(self.journal.kept, saved, self.ledger.number)
        self.batcher.resume(held, self.ledger.number, sent)
        read = held.positions[0] if held.positions else 0
        for position, user, uses in self.unread:
            if position > read:  # type: ignore[operator]
                self.pending.counts.add(None, "f", [(user, uses)], position, ROOM)
        self.pending.positions = (self.clock,)  # type: ignore[assignment]
        # Uses that were rejected after the snapshot are back, and nothing else: they are rejected again.
        given_up = self.captured - self.written_or_held()
        assert 0 <= given_up <= self.rejected + self.dropped
        self.rejected, self.dropped = given_up, 0


TestBatcher = Machine.TestCase
TestBatcher.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestJournaledBatcher = JournaledMachine.TestCase
TestJournaledBatcher.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
