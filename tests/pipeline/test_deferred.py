"""Aggregates that wait for their user, and parts that one statement takes."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.events import Count
from usage_instrument.pipeline.deferred import DeferredCounts, unique_parts

MOMENT = dt.datetime(2024, 5, 1)


def count(feature: str, user: object, uses: int = 1) -> Count:
    return Count(feature, user, uses, MOMENT)  # type: ignore[arg-type]


def test_nothing_waits() -> None:
    waiting = DeferredCounts(60.0)
    assert (len(waiting), waiting.uses, list(waiting.users)) == (0, 0, [])
    assert waiting.release(set(), 0.0) == ([], [])


def test_a_user_appears() -> None:
    waiting = DeferredCounts(60.0)
    waiting.defer([count("a", 1, 2), count("b", 1), count("a", 2, 5)], 0.0)
    assert (len(waiting), waiting.uses, set(waiting.users)) == (3, 8, {1, 2})
    known, late = waiting.release({2}, 1.0)
    assert known == [count("a", 1, 2), count("b", 1)]
    assert late == []
    assert (len(waiting), waiting.uses, set(waiting.users)) == (1, 5, {2})


def test_patience_runs_out_since_the_first_use() -> None:
    waiting = DeferredCounts(60.0)
    waiting.defer([count("a", 1)], 100.0)
    waiting.defer([count("b", 1), count("a", 2)], 150.0)
    assert waiting.release({1, 2}, 159.9) == ([], [])
    assert waiting.release({1, 2}, 160.0) == ([], [count("a", 1), count("b", 1)])
    assert set(waiting.users) == {2}
    assert waiting.release({1, 2}, float("inf")) == ([], [count("a", 2)])
    assert len(waiting) == 0


def test_a_user_who_was_given_up_is_waited_for_anew() -> None:
    waiting = DeferredCounts(60.0)
    waiting.defer([count("a", 1)], 0.0)
    waiting.release({1}, 60.0)
    waiting.defer([count("a", 1)], 100.0)
    assert waiting.release({1}, 159.0) == ([], [])


def test_without_patience_nothing_waits_past_one_look() -> None:
    waiting = DeferredCounts(0.0)
    waiting.defer([count("a", 1)], 5.0)
    assert waiting.release({1}, 5.0) == ([], [count("a", 1)])


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_no_parts_of_nothing(rows: int) -> None:
    assert unique_parts([], rows) == []


@given(
    st.lists(st.builds(count, st.sampled_from("ab"), st.sampled_from([1, 2, None]), st.integers(1, 9)), max_size=30),
    st.integers(1, 5),
)
def test_parts_are_small_hold_no_key_twice_and_lose_nothing(counts: list[Count], rows: int) -> None:
    parts = unique_parts(counts, rows)
    assert sorted(map(repr, counts)) == sorted(repr(count) for part in parts for count in part)
    for part in parts:
        assert 1 <= len(part) <= rows
        assert len({(count.feature, count.user) for count in part}) == len(part)
    for key in {(count.feature, count.user) for count in counts}:
        in_order = [count for part in parts for count in part if (count.feature, count.user) == key]
        assert in_order == [count for count in counts if (count.feature, count.user) == key], "older counts go first"
