"""Suppressed users leave everything the writer holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from usage_instrument.events import canonical_user
from usage_instrument.pipeline.batcher import Batcher, BatchState
from usage_instrument.pipeline.known_users import KnownUsers
from usage_instrument.pipeline.pending_counts import PendingCounts
from usage_instrument.pipeline.rejection import Rejection
from usage_instrument.pipeline.retry import RetryPolicy
from usage_instrument.pipeline.suppression_filter import SuppressionFilter
from usage_instrument.settings import Settings

SETTINGS = Settings(user_id_type="integer", privacy_key="k" * 32)


class Suppressed:
    """Opted-out users, and erased ones among them."""

    def __init__(self, *users: int, erased: bool = False) -> None:
        self._users, self._erased = users, erased

    def __bool__(self) -> bool:
        return bool(self._users)

    def suppresses(self, user: Any) -> bool:
        return user in self._users

    def erases(self, user: Any) -> bool:
        return self._erased and user in self._users

    def pseudonym(self, user: Any) -> str | None:
        return "x" if self.erases(user) else None


class Bench:
    """A filter between a store, a batcher and a journal."""

    def __init__(self, *users: int, journal: Any = None, settings: Settings = SETTINGS) -> None:
        self.pending = PendingCounts(100)
        self.pending.counts.add(None, "f", [(user, 1) for user in users], 0, 100)
        self.batcher = Batcher(self.pending, SETTINGS, journal)
        self.batcher.take()
        self.rejection = Rejection(self.batcher, RetryPolicy(), KnownUsers(canonical_user("integer")))
        self.filter = SuppressionFilter(self.batcher, self.rejection, settings, journal)
        self.store: Any = SimpleNamespace(suppressions=Suppressed(), is_outdated=lambda ledger: True)
        self.ledger: Any = SimpleNamespace(number=0, writer_id=None, registered=True)

    def sent(self) -> list[Any]:
        batch = self.batcher.next(self.ledger)
        return [] if batch is None else [count.user for count in batch.counts]


class Journal:
    """Records what it is asked for."""

    def __init__(self) -> None:
        self.saved: list[Any] = []
        self.is_rotated = False
        self.rotations = 0

    def save(self, saved: Any, *, anew: bool) -> None:
        self.saved.append(saved.held)

    def rotate_soon(self) -> None:
        self.rotations += 1


def test_nobody_suppressed_changes_nothing() -> None:
    bench = Bench(1, 2)
    bench.filter.before_sending(bench.store, bench.ledger)
    assert bench.sent() == [1, 2]
    assert bench.rejection.rejected == 0


def test_known_suppressed_users_are_removed_before_anything_is_sent() -> None:
    bench = Bench(1, 2)
    bench.store.suppressions = Suppressed(1)
    bench.filter.before_sending(bench.store, bench.ledger)
    assert bench.sent() == [2]
    assert bench.rejection.rejected == 1


def test_a_batch_that_the_database_refused_because_of_them_loses_them_too() -> None:
    bench = Bench(1, 2)
    assert bench.sent() == [1, 2]
    bench.batcher.doubt()
    bench.store.suppressions = Suppressed(1)
    bench.filter.rolled_back(bench.store)
    assert bench.sent() == [2]
    assert bench.batcher.state is BatchState.IN_DOUBT, "an earlier attempt may still be committed"


def test_without_batches_deferred_users_are_looked_for() -> None:
    bench = Bench(1)
    bench.sent()
    bench.batcher.defer({1})
    bench.store.suppressions = Suppressed(1)
    assert bench.filter.without_sending(bench.store, bench.ledger)
    assert not bench.batcher.deferred


def test_without_a_key_or_a_name_nobody_looks() -> None:
    assert not Bench().filter.without_sending(Bench().store, Bench().ledger)
    no_key = Bench(journal=Journal(), settings=Settings(user_id_type="integer"))
    assert not no_key.filter.without_sending(no_key.store, no_key.ledger)


def test_the_journal_names_an_erased_user_no_more() -> None:
    journal: Any = Journal()
    bench = Bench(1, 2, journal=journal)
    bench.store.suppressions = Suppressed(1, erased=True)
    bench.filter.before_sending(bench.store, bench.ledger)
    assert journal.rotations == 1
    assert journal.is_erased(1)
    assert not journal.is_erased(2)
    bench.filter.tidy(bench.ledger)
    assert journal.saved == [], "counts wait"
    assert bench.sent() == [2]
    bench.batcher.applied()
    bench.filter.tidy(bench.ledger)
    assert journal.saved[-1].batches == ()
    bench.filter.tidy(bench.ledger)
    assert len(journal.saved) == 3, "until the old segment is gone"
    journal.is_rotated = True
    bench.filter.tidy(bench.ledger)
    bench.filter.tidy(bench.ledger)
    assert len(journal.saved) == 4
