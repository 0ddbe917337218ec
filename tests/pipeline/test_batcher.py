"""Batches: sorted, frozen until they are applied or definitely rolled back, and nothing is lost on the way."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from usage_instrument.events import Batch, Loss
from usage_instrument.pipeline.batcher import Batcher
from usage_instrument.pipeline.losses import today
from usage_instrument.pipeline.pending_counts import PendingCounts
from usage_instrument.settings import Settings

STAMP = 1_700_000_000_000_000
ROOM = 10**6


def filled(uses: list[tuple[str, Any, int]], **settings: Any) -> tuple[Batcher, PendingCounts]:
    pending = PendingCounts(ROOM)
    for feature, user, number in uses:
        pending.counts.add(None, feature, [(user, number)], STAMP, ROOM)
    batcher = Batcher(pending, Settings(**settings))
    batcher.take()
    return batcher, pending


def at(number: int) -> Any:
    """A ledger whose next batch has this number."""
    return SimpleNamespace(number=number - 1)


def keys(batch: Batch | None) -> list[tuple[str, Any]]:
    assert batch is not None
    return [(count.feature, count.user) for count in batch.counts]


def sent(batcher: Batcher, number: int = 0) -> list[Batch]:
    batches = []
    while (batch := batcher.next(at(number := number + 1))) is not None:
        batches.append(batch)
        batcher.applied()
    return batches


def test_nothing_to_send() -> None:
    batcher, _ = filled([])
    assert batcher.is_idle
    assert batcher.next(at(1)) is None
    batcher.report()
    assert batcher.is_idle


def test_rows_are_sorted_and_the_anonymous_come_last() -> None:
    uses = [(feature, user, 1) for feature in ("b", "a", "é") for user in (2, 10, None, -5, 0)]
    random.shuffle(uses)
    batcher, _ = filled(uses)
    assert keys(batcher.next(at(1))) == [
        (feature, user) for user in (-5, 0, 2, 10, None) for feature in ("a", "b", "é")
    ]  # fmt: skip


def test_texts_are_sorted_in_byte_order() -> None:
    batcher, _ = filled([("f", user, 1) for user in ("b", "a", "Z", "\uffff", "😀", "é")])
    users = [user for _, user in keys(batcher.next(at(1)))]
    assert users == sorted(users, key=str.encode)


def test_a_batch_is_frozen_until_it_is_applied() -> None:
    batcher, pending = filled([("a", 1, 1)])
    batch = batcher.next(at(7))
    assert batch is not None
    assert batch.number == 7
    pending.counts.add(None, "a", [(1, 1)], STAMP, ROOM)
    batcher.take()
    assert batcher.next(at(8)) is batch
    batcher.applied()
    following = batcher.next(at(8))
    assert following is not None
    assert (following.number, following.uses) == (8, 1)


def test_batches_hold_at_most_flush_rows() -> None:
    batcher, _ = filled([(f"f{n}", n % 3, 1) for n in range(25)], flush_rows=10)
    batches = sent(batcher)
    assert [batch.number for batch in batches] == [1, 2, 3]
    assert [len(batch.counts) for batch in batches] == [10, 10, 5]
    assert len({key for batch in batches for key in keys(batch)}) == 25
    assert batcher.is_idle


def test_losses_go_with_the_next_batch_once() -> None:
    batcher, pending = filled([("a", 1, 1)])
    pending.losses[dt.date(2024, 5, 1), "why"] = 3
    batcher.take()
    batcher.lose("other", 2)
    batcher.lose("other", 1)
    batch = batcher.next(at(1))
    assert batch is not None
    assert batch.losses == (Loss(dt.date(2024, 5, 1), "why", 3), Loss(today(), "other", 3))
    batcher.applied()
    assert batcher.next(at(2)) is None


def test_losses_alone_are_a_batch() -> None:
    batcher, _ = filled([])
    batcher.lose("why", 2)
    assert not batcher.is_idle
    assert batcher.next(at(1)) == Batch(1, (), (Loss(today(), "why", 2),))
    batcher.applied()
    assert batcher.is_idle


def test_the_losses_of_a_batch_that_is_given_up_go_with_the_next() -> None:
    batcher, _ = filled([("a", 1, 1)])
    batcher.lose("why", 2)
    given_up = (batcher.next(at(1)), batcher.give_up())
    assert given_up[0] == given_up[1]
    following = batcher.next(at(1))
    assert following == Batch(1, (), (Loss(today(), "why", 2),))
    batcher.give_up()  # the losses themselves are refused
    assert batcher.is_idle


def test_the_losses_of_a_batch_in_doubt_may_be_counted() -> None:
    batcher, _ = filled([("a", 1, 1)])
    batcher.lose("why", 2)
    batcher.next(at(1))
    batcher.doubt()
    batcher.give_up()
    assert batcher.is_idle


def test_a_batch_in_doubt_does_not_change() -> None:
    batcher, _ = filled([("a", 1, 1), ("a", 2, 1)])
    batch = batcher.next(at(1))
    assert batch is not None
    batcher.doubt()
    changes: list[Callable[[], object]] = [
        batcher.halve,
        partial(batcher.renumber, 1),
        partial(batcher.replace, batch.counts[:1]),
        partial(batcher.defer, {1}),
    ]
    for change in changes:
        with pytest.raises(RuntimeError, match="in doubt"):
            change()
    assert batcher.next(at(2)) is batch
    batcher.roll_back()
    batcher.replace(batch.counts[:1])
    batcher.renumber(7)
    assert batcher.batch == batch._replace(number=7, counts=batch.counts[:1])


def test_without_a_batch_nothing_can_happen_to_it() -> None:
    batcher, _ = filled([])
    events: list[Callable[[], object]] = [batcher.doubt, batcher.roll_back, batcher.applied, batcher.give_up]
    for event in events:
        with pytest.raises(RuntimeError, match="none"):
            event()


@pytest.mark.parametrize("number", [2, 3, 9])
def test_a_split_sends_both_halves(number: int) -> None:
    batcher, _ = filled([("a", user, 1) for user in range(number)])
    whole = batcher.next(at(1))
    batcher.lose("later", 1)
    batcher.halve()
    first = batcher.batch
    batcher.applied()
    second = batcher.next(at(2))
    assert keys(first) + keys(second) == keys(whole)
    assert second is not None
    assert second.losses == (Loss(today(), "later", 1),)
    batcher.applied()
    assert batcher.is_idle


def test_unknown_users_wait_and_the_others_go() -> None:
    batcher, _ = filled([("a", 1, 1), ("b", 1, 2), ("a", 2, 4), ("a", None, 8)], user_retry=60)
    batcher.next(at(1))
    batcher.defer({1})
    assert keys(batcher.batch) == [("a", 2), ("a", None)]
    batcher.applied()
    assert batcher.next(at(2)) is None
    assert not batcher.is_idle
    assert batcher.deferred.uses == 3
    assert batcher.release({1}, time.monotonic() + 59) == []
    assert batcher.next(at(2)) is None
    assert batcher.release(set(), time.monotonic()) == []
    assert keys(batcher.next(at(2))) == [("a", 1), ("b", 1)]
    batcher.applied()
    assert batcher.is_idle


def test_a_batch_of_unknown_users_only_is_gone() -> None:
    batcher, _ = filled([("a", 1, 5)], user_retry=60)
    batcher.next(at(1))
    batcher.defer({1})
    assert batcher.batch is None
    late = batcher.release({1}, time.monotonic() + 60)
    assert [count.uses for count in late] == [5]
    assert batcher.is_idle


def test_a_key_that_waited_twice_goes_in_two_batches() -> None:
    batcher, pending = filled([("a", 1, 5)])
    batcher.next(at(1))
    batcher.defer({1})
    pending.counts.add(None, "a", [(1, 2)], STAMP + 1, ROOM)
    batcher.take()
    batcher.next(at(1))
    batcher.defer({1})
    batcher.release(set(), time.monotonic())
    assert [[count.uses for count in batch.counts] for batch in sent(batcher)] == [[5], [2]]


def test_the_report_counts_all_that_is_held() -> None:
    batcher, pending = filled([("a", user, 2) for user in range(10)], flush_rows=4)
    batcher.next(at(1))
    batcher.halve()
    batcher.defer({count.user for count in batcher.batch.counts[:1]} if batcher.batch else set())
    batcher.report()
    assert (pending.with_writer_keys, pending.with_writer_uses) == (10, 20)
    assert (pending.room, pending.uses) == (ROOM - 10, 20)
    batcher.applied()
    sent(batcher)
    batcher.report()
    assert (pending.with_writer_keys, pending.with_writer_uses) == (1, 2)


def test_losses_that_a_later_batch_takes_are_saved_in_it() -> None:
    saved: list[Any] = []
    journal: Any = SimpleNamespace(save=lambda each, anew: saved.append(each))
    pending = PendingCounts(ROOM)
    for user in (1, 2):
        pending.counts.add(None, "f", [(user, 1)], STAMP, ROOM)
    batcher = Batcher(pending, Settings(flush_rows=2), journal)
    ledger: Any = SimpleNamespace(number=0, writer_id=None, registered=True)
    batcher.take()
    batcher.next(ledger)
    batcher.shrink()  # the second half waits
    batcher.lose("why", 3)
    batcher.next(ledger)
    batcher.applied()
    ledger.number = 1
    batch = batcher.next(ledger)
    assert batch is not None
    assert [loss.uses for loss in batch.losses] == [3]
    held = saved[-1].held
    assert (held.batches, held.losses) == ((batch,), ()), "a kill after its commit counted its losses again"


def test_a_batch_in_doubt_that_is_emptied_keeps_its_number() -> None:
    batcher, pending = filled([("f", 1, 1)])
    batcher.next(at(1))
    batcher.doubt()
    suppressed: Any = SimpleNamespace(suppresses=lambda user: user == 1, erases=lambda user: False, pseudonym=None)
    assert batcher.discard(suppressed, batch=True).uses == 1
    with pending.lock:
        pending.counts.add(None, "f", [(2, 1)], STAMP, ROOM)
    batcher.take()
    assert batcher.next(at(1)) == Batch(1, ()), "the first attempt may have been committed"
    batcher.applied()
    batch = batcher.next(at(2))
    assert batch is not None
    assert (batch.number, keys(batch)) == (2, [("f", 2)])
