"""Batches: sorted, frozen until they are applied or definitely rolled back, and nothing is lost on the way."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import pytest

from usage_instrument.events import Batch, Loss
from usage_instrument.pipeline.batcher import Framer
from usage_instrument.pipeline.losses import today
from usage_instrument.pipeline.pending_counts import Pending
from usage_instrument.settings import Settings

STAMP = 1_700_000_000_000_000
ROOM = 10**6


def framed(uses: list[tuple[str, Any, int]], **settings: Any) -> tuple[Framer, Pending]:
    pending = Pending(ROOM)
    for feature, user, number in uses:
        pending.counts.add(None, feature, [(user, number)], STAMP, ROOM)
    framer = Framer(pending, Settings(**settings))
    framer.take()
    return framer, pending


def keys(batch: Batch | None) -> list[tuple[str, Any]]:
    assert batch is not None
    return [(count.feature, count.user) for count in batch.counts]


def sent(framer: Framer, number: int = 0) -> list[Batch]:
    batches = []
    while (batch := framer.next(number := number + 1)) is not None:
        batches.append(batch)
        framer.applied()
    return batches


def test_nothing_to_send() -> None:
    framer, _ = framed([])
    assert framer.idle
    assert framer.next(1) is None
    framer.report()
    framer.split(1)
    framer.defer(1, {1}, 0.0)
    assert framer.idle


def test_rows_are_sorted_and_the_anonymous_come_last() -> None:
    uses = [(feature, user, 1) for feature in ("b", "a", "é") for user in (2, 10, None, -5, 0)]
    random.shuffle(uses)
    framer, _ = framed(uses)
    assert keys(framer.next(1)) == [
        (feature, user) for user in (-5, 0, 2, 10, None) for feature in ("a", "b", "é")
    ]  # fmt: skip


def test_texts_are_sorted_in_byte_order() -> None:
    framer, _ = framed([("f", user, 1) for user in ("b", "a", "Z", "\uffff", "😀", "é")])
    users = [user for _, user in keys(framer.next(1))]
    assert users == sorted(users, key=str.encode)


def test_a_batch_is_frozen_until_it_is_applied() -> None:
    framer, pending = framed([("a", 1, 1)])
    batch = framer.next(7)
    assert batch is not None
    assert batch.number == 7
    pending.counts.add(None, "a", [(1, 1)], STAMP, ROOM)
    framer.take()
    assert framer.next(8) is batch
    framer.applied()
    following = framer.next(8)
    assert following is not None
    assert (following.number, following.uses) == (8, 1)


def test_batches_hold_at_most_flush_rows() -> None:
    framer, _ = framed([(f"f{n}", n % 3, 1) for n in range(25)], flush_rows=10)
    batches = sent(framer)
    assert [batch.number for batch in batches] == [1, 2, 3]
    assert [len(batch.counts) for batch in batches] == [10, 10, 5]
    assert len({key for batch in batches for key in keys(batch)}) == 25
    assert framer.idle


def test_losses_go_with_the_next_batch_once() -> None:
    framer, pending = framed([("a", 1, 1)])
    pending.losses[dt.date(2024, 5, 1), "why"] = 3
    framer.take()
    framer.lose("other", 2)
    framer.lose("other", 1)
    batch = framer.next(1)
    assert batch is not None
    assert batch.losses == (Loss(dt.date(2024, 5, 1), "why", 3), Loss(today(), "other", 3))
    framer.applied()
    assert framer.next(2) is None


def test_losses_alone_are_a_batch() -> None:
    framer, _ = framed([])
    framer.lose("why", 2)
    assert not framer.idle
    assert framer.next(1) == Batch(1, (), (Loss(today(), "why", 2),))
    framer.applied()
    assert framer.idle


def test_a_change_keeps_the_losses_unless_told_otherwise() -> None:
    framer, _ = framed([("a", 1, 1), ("a", 2, 1)])
    framer.lose("why", 2)
    batch = framer.next(1)
    assert batch is not None
    framer.change(1, batch.counts[:1])
    assert framer.batch == batch._replace(counts=batch.counts[:1])
    framer.change(1, ())
    assert framer.batch == Batch(1, (), batch.losses)
    framer.change(1, (), losses=False)
    assert framer.batch is None


def test_a_change_is_no_longer_in_doubt() -> None:
    framer, _ = framed([("a", 1, 1)])
    batch = framer.next(1)
    assert batch is not None
    framer.in_doubt = True
    framer.change(2, batch.counts)
    assert not framer.in_doubt
    framer.in_doubt = True
    framer.applied()
    assert not framer.in_doubt


@pytest.mark.parametrize("number", [2, 3, 9])
def test_a_split_sends_both_halves(number: int) -> None:
    framer, _ = framed([("a", user, 1) for user in range(number)])
    whole = framer.next(1)
    framer.lose("later", 1)
    framer.split(1)
    first = framer.batch
    framer.applied()
    second = framer.next(2)
    assert keys(first) + keys(second) == keys(whole)
    assert second is not None
    assert second.losses == (Loss(today(), "later", 1),)
    framer.applied()
    assert framer.idle


def test_unknown_users_wait_and_the_others_go() -> None:
    framer, _ = framed([("a", 1, 1), ("b", 1, 2), ("a", 2, 4), ("a", None, 8)], user_retry=60)
    framer.next(1)
    framer.defer(1, {1}, 0.0)
    assert keys(framer.batch) == [("a", 2), ("a", None)]
    framer.applied()
    assert framer.next(2) is None
    assert not framer.idle
    assert framer.waiting.uses == 3
    assert framer.release({1}, 59.0) == []
    assert framer.next(2) is None
    assert framer.release(set(), 59.0) == []
    assert keys(framer.next(2)) == [("a", 1), ("b", 1)]
    framer.applied()
    assert framer.idle


def test_a_batch_of_unknown_users_only_is_gone() -> None:
    framer, _ = framed([("a", 1, 5)], user_retry=60)
    framer.next(1)
    framer.defer(1, {1}, 0.0)
    assert framer.batch is None
    late = framer.release({1}, 60.0)
    assert [count.uses for count in late] == [5]
    assert framer.idle


def test_a_key_that_waited_twice_goes_in_two_batches() -> None:
    framer, pending = framed([("a", 1, 5)])
    framer.next(1)
    framer.defer(1, {1}, 0.0)
    pending.counts.add(None, "a", [(1, 2)], STAMP + 1, ROOM)
    framer.take()
    framer.next(1)
    framer.defer(1, {1}, 0.0)
    framer.release(set(), 1.0)
    assert [[count.uses for count in batch.counts] for batch in sent(framer)] == [[5], [2]]


def test_the_report_counts_all_that_is_held() -> None:
    framer, pending = framed([("a", user, 2) for user in range(10)], flush_rows=4)
    framer.next(1)
    framer.split(1)
    framer.defer(1, {count.user for count in framer.batch.counts[:1]} if framer.batch else set(), 0.0)
    framer.report()
    assert (pending.with_writer_keys, pending.with_writer_uses) == (10, 20)
    assert (pending.room, pending.uses) == (ROOM - 10, 20)
    framer.applied()
    sent(framer)
    framer.report()
    assert (pending.with_writer_keys, pending.with_writer_uses) == (1, 2)
