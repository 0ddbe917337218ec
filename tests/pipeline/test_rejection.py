"""What the database refuses is found, and rejected alone."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from usage_instrument.database.driver_errors import Fault
from usage_instrument.events import Access, Batch, Use, canonical_user
from usage_instrument.pipeline import known_users, losses
from usage_instrument.pipeline.batcher import Batcher
from usage_instrument.pipeline.known_users import KnownUsers
from usage_instrument.pipeline.pending_counts import PendingCounts
from usage_instrument.pipeline.rejection import Rejection
from usage_instrument.pipeline.retry import RetryPolicy
from usage_instrument.pipeline.store import WriteError
from usage_instrument.settings import Settings

REFUSED = WriteError(Fault.REFUSED, "a check failed")
UNKNOWN = WriteError(Fault.UNKNOWN_USER, "no such user")


class Bench:
    """A rejection, and a database that refuses what `is_refused` says."""

    def __init__(self, *users: int, metadata: str | None = None, journal: Any = None, flush_rows: int = 5_000) -> None:
        self.pending = PendingCounts(100)
        self.capture(*users, metadata=metadata)
        self.batcher = Batcher(self.pending, Settings(user_id_type="integer", flush_rows=flush_rows), journal)
        self.retry = RetryPolicy()
        self.known = KnownUsers(canonical_user("integer"))
        self.rejection = Rejection(self.batcher, self.retry, self.known)
        self.ledger: Any = SimpleNamespace(number=0, writer_id=uuid.UUID(int=1), registered=True)
        self.unknown: set[Any] = set()
        self.written: list[Any] = []
        self.is_quick = True

    def capture(self, *users: int, metadata: str | None = None) -> None:
        for user in users:
            self.pending.counts.add(None, "f", [(user, 1)], 0, 100)
            if metadata is not None:
                self.pending.counts.merge_metadata(("f", user), metadata, 100)

    def unknown_users(self, users: set[Any]) -> set[Any]:
        return users & self.unknown

    def run(self, error_of: Any) -> None:
        """Send everything; `error_of(batch)` is the database's answer, None for a commit."""
        self.batcher.take()
        while (batch := self.batcher.next(self.ledger)) is not None:
            error = error_of(batch)
            if error is not None:
                if not self.rejection.isolate(error, batch) and not error.fault.is_transient:
                    self.rejection.handle(error, batch, self)  # type: ignore[arg-type]
                continue
            self.batcher.applied()
            self.rejection.applied(batch, quickly=self.is_quick, has_users=True)
            self.ledger.number = batch.number
            self.written += [count.user for count in batch.counts]


def test_one_refused_row_among_many_is_rejected_alone(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(*range(20))
    bench.run(lambda batch: REFUSED if any(count.user == 7 for count in batch.counts) else None)
    assert sorted(bench.written) == [user for user in range(20) if user != 7]
    assert bench.rejection.rejected == 1
    assert [record.getMessage() for record in caplog.records] == [
        "1 use rejected, refused by the database: a check failed"
    ]


def test_three_hundred_refused_rows_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(*range(300))
    bench.run(lambda batch: REFUSED if batch.counts else None)
    assert bench.rejection.rejected == 300
    assert len(caplog.records) == 1


def test_metadata_is_lost_before_the_use_is() -> None:
    bench = Bench(1, metadata='{"a":1}')
    bench.run(lambda batch: REFUSED if batch.counts[0].metadata is not None else None)
    assert bench.written == [1]
    assert (bench.rejection.rejected, bench.rejection.metadata_lost) == (0, 1)


def test_unknown_users_wait_and_are_not_rejected() -> None:
    bench = Bench(1, 2, 3)
    bench.unknown = {2}
    bench.run(lambda batch: UNKNOWN if any(count.user == 2 for count in batch.counts) else None)
    assert bench.written == [1, 3]
    assert bench.batcher.deferred.uses == 1
    assert bench.rejection.rejected == 0


def test_users_who_had_a_row_and_have_none_are_deleted_and_count_for_nobody() -> None:
    bench = Bench(1, 2, 3)
    bench.run(lambda batch: None)
    bench.unknown = {2, 4}
    bench.capture(2, 3, 4)
    bench.run(lambda batch: UNKNOWN if bench.unknown & {count.user for count in batch.counts} else None)
    assert sorted(bench.written, key=str) == [1, 2, 3, 3, None]
    assert (bench.batcher.deferred.uses, list(bench.batcher.deferred.users)) == (1, [4])


def test_not_every_user_is_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_users, "MOST", 2)
    bench = Bench(1)
    bench.run(lambda batch: None)
    for user in (2, 3):
        bench.capture(user)
        bench.run(lambda batch: None)
    assert bench.known.among({1, 2, 3}) == {2, 3}


@pytest.mark.parametrize("has_met_users", [True, False])
def test_users_of_ended_requests_without_a_row_are_deleted(
    has_met_users: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(*[1] * has_met_users)
    bench.run(lambda batch: None)
    bench.known.add(["2", "no id"])  # as a session spells it
    bench.unknown = {2, 4}
    bench.capture(2, 4)
    bench.run(lambda batch: UNKNOWN if bench.unknown & {count.user for count in batch.counts} else None)
    assert bench.written == [*[1] * has_met_users, None]
    assert list(bench.batcher.deferred.users) == [4]
    assert ("names another table" in caplog.text) is not has_met_users, "unless others are found in it"


def test_a_user_who_has_appeared_is_tried_again_but_not_for_ever() -> None:
    bench = Bench(1)
    bench.run(lambda batch: UNKNOWN if batch.counts else None)  # the users table has the user, and the key still fails
    assert bench.rejection.rejected == 1


def test_refused_losses_hold_up_nothing() -> None:
    bench = Bench(1)
    bench.batcher.lose("why", 5)
    bench.run(lambda batch: REFUSED if batch.losses else None)
    assert bench.batcher.is_idle


def test_one_refused_access_among_many_is_lost_alone() -> None:
    bench = Bench()
    for number in range(8):
        access = Access(uuid.UUID(int=number + 1), "success", 0)
        bench.pending.accesses.append(Use("vault", number, None, 0, access))
    bench.run(lambda batch: REFUSED if any(use.user == 5 for use in batch.accesses) else None)
    assert bench.rejection.audit_lost == 1
    assert bench.batcher.is_idle


def test_a_batch_that_times_out_is_halved_and_one_slow_row_is_rejected_after_three_attempts() -> None:
    bench = Bench(*range(8))
    slow = WriteError(Fault.TIMEOUT, "statement timeout")
    attempts = 0

    def answer(batch: Batch) -> WriteError | None:
        nonlocal attempts
        if any(count.user == 3 for count in batch.counts):
            attempts += len(batch.counts) == 1
            return slow
        return None

    bench.run(answer)
    assert sorted(bench.written) == [0, 1, 2, 4, 5, 6, 7]
    assert (attempts, bench.rejection.rejected) == (3, 1)


def test_a_size_that_is_too_slow_is_not_tried_again_until_the_database_is_quick() -> None:
    bench = Bench(*range(64))
    bench.is_quick = False
    slow, sizes = WriteError(Fault.TIMEOUT, "statement timeout"), list[int]()

    def answer(batch: Batch) -> WriteError | None:
        sizes.append(len(batch.counts))
        return slow if len(batch.counts) > 10 else None

    bench.run(answer)
    assert sorted(bench.written) == list(range(64))
    assert sizes == [64, 32, 16, *[8] * 8]
    sizes.clear()
    bench.capture(*range(64))
    bench.run(answer)
    assert sizes == [8] * 8, "the next flush remembers it"
    sizes.clear()
    bench.is_quick = True
    bench.capture(*range(64))
    bench.run(lambda batch: sizes.append(len(batch.counts)))
    assert sizes == [8, 16, 32, 8], "which doubles with each batch that is full and quick"


def test_batches_that_a_journal_holds_already_shrink_too() -> None:
    bench = Bench(*range(64), journal=SimpleNamespace(save=lambda saved, **_: None), flush_rows=16)
    slow, sizes = WriteError(Fault.TIMEOUT, "statement timeout"), list[int]()

    def answer(batch: Batch) -> WriteError | None:
        sizes.append(len(batch.counts))
        return slow if len(batch.counts) > 10 else None

    bench.is_quick = False
    bench.run(answer)
    assert sorted(bench.written) == list(range(64))
    assert sizes == [16, *[8] * 8]


def test_a_locked_user_waits_alone() -> None:
    bench = Bench(*range(8))
    locked = WriteError(Fault.LOCKED, "lock timeout")
    bench.run(lambda batch: locked if any(count.user == 3 for count in batch.counts) else None)
    assert sorted(bench.written) == [0, 1, 2, 4, 5, 6, 7]
    assert bench.rejection.lock_error == "lock timeout"
    assert (bench.batcher.deferred.uses, bench.rejection.rejected) == (1, 0)


def test_a_locked_table_ends_the_cycle_after_some_attempts() -> None:
    """Each attempt waits for the lock: a cycle that deferred every user would not end before the lock does."""
    bench = Bench(*range(64))
    locked = WriteError(Fault.LOCKED, "lock timeout")
    bench.batcher.take()
    for attempts in (1, 11, 11, 11):  # the first lock is waited for once more: it may be a short one
        bench.rejection.begin()
        for left in reversed(range(attempts)):
            batch = bench.batcher.next(bench.ledger)
            assert batch is not None
            assert bench.rejection.isolate(locked, batch) == (left > 0)
    deferred = bench.batcher.deferred.uses
    assert 0 < deferred < 64
    bench.run(lambda batch: None)
    assert len(bench.written) == 64 - deferred


def test_suppressed_uses_are_counted_without_a_line(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.rejection.suppress(3)
    bench.rejection.suppress(0)
    sent: list[Batch] = []
    bench.run(lambda batch: sent.append(batch))
    assert bench.rejection.rejected == 3
    assert [(loss.reason, loss.uses) for loss in sent[0].losses] == [(losses.SUPPRESSED, 3)]
    assert caplog.records == []
