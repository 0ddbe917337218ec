"""Folded counts: the same sums as a plain Counter's, whatever the order, the buckets and the size of a batch."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.events import MAX_COUNT, Count, Exposure
from usage_instrument.pipeline.pending_counts import Aggregates, PendingCounts, size_of

STAMP = 1_700_000_000_000_000
EPOCH = dt.datetime(1970, 1, 1)
ROOM = 10**6
DAYS = [dt.datetime(2024, 5, day) for day in (1, 2, 3)]

EXPOSED = Exposure("page", "new").key

FOLD = st.tuples(
    st.sampled_from([None, *DAYS]),
    st.sampled_from(["a", "b", "c", EXPOSED]),
    st.lists(st.tuples(st.sampled_from([None, 1, 2, "x"]), st.integers(1, 5)), max_size=4),
    st.integers(STAMP, STAMP + 10**9),
)
Fold = tuple[dt.datetime | None, str, list[tuple[Any, int]], int]


def moment(stamp: int) -> dt.datetime:
    return EPOCH + dt.timedelta(microseconds=stamp)


def filled(folds: list[Fold]) -> Aggregates:
    counts = Aggregates()
    for bucket, feature, uses, stamp in folds:
        assert counts.add(bucket, feature, uses, stamp, ROOM) == 0
    return counts


def check(taken: list[Count], folds: list[Fold]) -> None:
    """That what was taken is what was folded."""
    uses: Counter[Any] = Counter()
    history: Counter[Any] = Counter()
    first: dict[Any, int] = {}
    last: dict[Any, int] = {}
    for bucket, feature, users, stamp in folds:
        for user, number in users:
            uses[feature, user] += number
            if feature == EXPOSED:
                first[feature, user] = min(stamp, first.get((feature, user), stamp))
            elif bucket is not None:
                history[feature, user, bucket] += number
            last[feature, user] = max(stamp, last.get((feature, user), 0))
    history.update({(*key, moment(stamp)): uses[key] for key, stamp in first.items()})
    assert len({(count.feature, count.user) for count in taken}) == len(taken), "a key stands twice"
    assert {(count.feature, count.user): count.uses for count in taken} == uses
    assert {(count.feature, count.user): count.last_used for count in taken} == {k: moment(s) for k, s in last.items()}
    assert {(c.feature, c.user, start): number for c in taken for start, number in c.history} == history
    for count in taken:
        assert len({start for start, _ in count.history}) == len(count.history)


def taken_from(counts: Aggregates, rows: int) -> list[Count]:
    taken: list[Count] = []
    while part := counts.take(rows):
        assert len(part) <= rows
        taken += part
    return taken


@given(st.lists(FOLD, max_size=30), st.integers(1, 5))
def test_folding_is_counting(folds: list[Fold], rows: int) -> None:
    counts = filled(folds)
    total = sum(number for _, _, uses, _ in folds for _, number in uses)
    assert counts.uses == total
    assert bool(counts) == (total > 0)
    check(taken_from(counts, rows), folds)
    assert (counts.keys, counts.uses, bool(counts)) == (0, 0, False)


@given(st.lists(st.lists(FOLD, max_size=10), max_size=4), st.integers(1, 5))
def test_absorbing_is_folding(parts: list[list[Fold]], rows: int) -> None:
    counts = Aggregates()
    for part in parts:
        counts.absorb(filled(part), 4096)
    folds = [fold for part in parts for fold in part]
    directly = filled(folds)
    assert (counts.keys, counts.uses) == (directly.keys, directly.uses)
    check(taken_from(counts, rows), folds)
    assert (counts.keys, counts.uses) == (0, 0)


@given(st.lists(FOLD, min_size=1, max_size=20), st.lists(FOLD, max_size=20), st.integers(1, 3))
def test_taking_between_two_folds(before: list[Fold], after: list[Fold], rows: int) -> None:
    counts = filled(before)
    taken = counts.take(rows)
    for bucket, feature, uses, stamp in after:
        counts.add(bucket, feature, uses, stamp, ROOM)
    taken += taken_from(counts, rows)
    uses_: Counter[Any] = Counter()
    for count in taken:
        uses_[count.feature, count.user] += count.uses
        if any(start for start, _ in count.history) and all(fold[0] is not None for fold in [*before, *after]):
            assert sum(number for _, number in count.history) == count.uses
    expected: Counter[Any] = Counter()
    for _, feature, users, _ in [*before, *after]:
        for user, number in users:
            expected[feature, user] += number
    assert uses_ == expected
    assert (counts.keys, counts.uses) == (0, 0)


@given(st.lists(FOLD, max_size=30), st.integers(0, 8))
def test_no_key_beyond_the_room(folds: list[Fold], most: int) -> None:
    counts = Aggregates()
    dropped = 0
    for bucket, feature, uses, stamp in folds:
        dropped += counts.add(bucket, feature, uses, stamp, most - counts.keys)
        assert counts.keys <= most
    total = sum(number for _, _, uses, _ in folds for _, number in uses)
    assert counts.uses + dropped == total
    assert sum(count.uses for count in taken_from(counts, 3)) == total - dropped


def test_a_known_key_needs_no_room() -> None:
    counts = Aggregates()
    assert counts.add(None, "a", [(1, 1)], STAMP, 1) == 0
    assert counts.add(None, "a", [(1, 4), (2, 3), (1, 1)], STAMP, 0) == 3
    assert counts.take(10) == [Count("a", 1, 6, moment(STAMP))]


def test_a_last_use_never_goes_back() -> None:
    counts = Aggregates()
    counts.add(None, "a", [(1, 1)], STAMP + 5, ROOM)
    counts.add(None, "a", [(1, 1)], STAMP, ROOM)
    older = Aggregates()
    older.add(None, "a", [(1, 1)], STAMP - 5, ROOM)
    counts.absorb(older, 4096)
    assert counts.take(1) == [Count("a", 1, 3, moment(STAMP + 5))]


def test_large_numbers_never_reach_the_time() -> None:
    """Far more uses than any table holds, of one key, folded and absorbed."""
    newer, counts = Aggregates(), Aggregates()
    for _ in range(2_000):
        assert newer.add(None, "a", [(1, MAX_COUNT)], STAMP, ROOM) == 0
        assert counts.add(None, "a", [(1, MAX_COUNT)], STAMP, ROOM) == 0
    counts.absorb(newer, 4096)
    assert counts.uses == 4_000 * MAX_COUNT
    assert counts.take(1) == [Count("a", 1, 4_000 * MAX_COUNT, moment(STAMP))]
    assert counts.uses == 0


def test_a_number_beyond_all_bounds_is_dropped_whole() -> None:
    counts = Aggregates()
    assert counts.add(None, "a", [(1, 2**70)], STAMP, ROOM) == 2**70
    assert counts.add(None, "a", [(1, 5)], STAMP, ROOM) == 0
    assert counts.add(None, "a", [(1, 2**70)], STAMP, ROOM) == 2**70
    assert counts.take(1) == [Count("a", 1, 5, moment(STAMP))]


# ---- metadata


def test_newer_metadata_lies_over_older() -> None:
    counts = Aggregates()
    counts.add(None, "a", [(1, 2)], STAMP, ROOM)
    counts.merge_metadata(("a", 1), '{"x":1,"y":1}', 4096)
    counts.merge_metadata(("a", 1), '{"y":2}', 4096)
    newer = Aggregates()
    newer.add(None, "a", [(1, 1)], STAMP, ROOM)
    newer.merge_metadata(("a", 1), '{"z":[3]}', 4096)
    counts.absorb(newer, 4096)
    [count] = counts.take(1)
    assert count.metadata is not None
    assert json.loads(count.metadata) == {"x": 1, "y": 2, "z": [3]}


def test_the_bytes_of_metadata_are_known() -> None:
    counts = Aggregates()
    counts.add(None, "a", [(user, 1) for user in range(4)], STAMP, ROOM)
    for user in range(4):
        counts.merge_metadata(("a", user), '{"x":1}', 4096)
        counts.merge_metadata(("a", user), '{"y":22}', 4096)
    assert counts.detail_bytes == 4 * size_of('{"x":1,"y":22}')
    counts.discard(lambda user: user == 3)
    newer = Aggregates()
    newer.absorb(counts, 4096)
    assert newer.detail_bytes == 3 * size_of('{"x":1,"y":22}')
    newer.take(2)
    assert newer.detail_bytes == size_of('{"x":1,"y":22}')
    newer.take(2)
    assert newer.detail_bytes == 0


def test_metadata_goes_once_and_with_its_key() -> None:
    counts = Aggregates()
    for bucket in DAYS:
        counts.add(bucket, "a", [(1, 1), (2, 1)], STAMP, ROOM)
    counts.merge_metadata(("a", 1), '{"x":1}', 10)
    counts.merge_metadata(("a", 1), '{"y":1}', 10)  # too large together: the newer alone
    assert sorted((count.user, count.metadata) for count in counts.take(5)) == [(1, '{"y":1}'), (2, None)]
    counts.add(DAYS[0], "a", [(1, 1)], STAMP, ROOM)
    assert [count.metadata for count in counts.take(5)] == [None]


# ---- PendingCounts


def test_taking_all_that_waits() -> None:
    pending = PendingCounts(10)
    pending.counts.add(None, "a", [(1, 2), (2, 1)], STAMP, pending.room)
    pending.losses[dt.date(2024, 5, 1), "why"] += 3
    assert (pending.room, pending.uses) == (8, 3)
    counts, losses, _, _ = pending.take()
    assert (counts.keys, counts.uses) == (2, 3)
    assert losses == {(dt.date(2024, 5, 1), "why"): 3}
    assert (pending.room, pending.uses) == (8, 3), "what the writer holds counts against the bound"
    assert not pending.counts
    assert not pending.losses
    pending.with_writer_keys = pending.with_writer_uses = 0
    assert (pending.room, pending.uses) == (10, 0)


@pytest.mark.parametrize("max_keys", [1, 3])
def test_the_bound_covers_both_sides(max_keys: int) -> None:
    pending = PendingCounts(max_keys)
    assert pending.counts.add(None, "a", [(n, 1) for n in range(5)], STAMP, pending.room) == 5 - max_keys
    pending.take()
    assert pending.room == 0
    assert pending.counts.add(None, "a", [(9, 1)], STAMP, pending.room) == 1
