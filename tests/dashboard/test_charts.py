"""Charts: what is drawn is what was counted."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.dashboard.charts import HEIGHT, Bar, Point, chart

START = dt.date(2026, 1, 30)


def height(bar: Bar) -> float:
    return sum(segment.height for segment in bar.segments)


def points(*values: int) -> list[Point]:
    return [Point(START + dt.timedelta(days=n), (value,)) for n, value in enumerate(values)]


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=500))
def test_bars_lie_within_and_stand_as_high_as_their_values(values: list[int]) -> None:
    drawn = chart("uses", "Uses", "uses", points(*values))
    assert len(drawn.bars) == len(values)
    for bar, value in zip(drawn.bars, values, strict=True):
        assert 0 <= bar.x <= bar.x + bar.width <= 100.01
        assert (height(bar) > 0) == (value > 0)
        assert all(-2 <= segment.y <= HEIGHT for segment in bar.segments)
    tallest = max(range(len(values)), key=values.__getitem__)
    assert height(drawn.bars[tallest]) == max(map(height, drawn.bars))


@given(st.integers(0, 2**50))
def test_the_scale_reaches_over_the_largest_value(value: int) -> None:
    drawn = chart("uses", "Uses", "uses", points(value))
    assert height(drawn.bars[0]) <= HEIGHT
    if value > 4:
        assert height(drawn.bars[0]) >= HEIGHT / 2 - 1, "and not far over"


def test_says_in_words_what_it_shows() -> None:
    assert chart("uses", "Uses", "uses", points(3, 9, 1)).about == (
        "13 uses from 30 Jan 2026 to 1 Feb 2026; the most, 9, on 31 Jan 2026."
    )
    assert chart("uses", "Uses", "uses", points(0, 0)).about == "No uses in this period."
    assert chart("uses", "Uses", "uses", []).about == "No uses in this period."


def test_a_bar_says_its_day_and_its_parts() -> None:
    both = ("signed in", "anonymous")
    (bar,) = chart("uses", "Uses", "uses", [Point(START, (900, 300))], series=both).bars
    assert bar.title == "30 Jan 2026: 1,200 uses, 900 signed in, 300 anonymous"
    lower, upper = bar.segments
    assert upper.height == pytest.approx(lower.height / 3, abs=0.2)
    assert upper.y + upper.height == pytest.approx(lower.y, abs=0.2)


def test_values_below_the_ground_hang_from_it() -> None:
    drawn = chart("users", "Users", "users", [Point(START, (6,), (2,))], series=("here", "gone"), adds_up=False)
    above, below = drawn.bars[0].segments
    assert above.y + above.height == below.y == drawn.ground == HEIGHT * 6 / 8
    assert below.y + below.height == HEIGHT
    assert drawn.bars[0].title == "30 Jan 2026: 6 users, 6 here, 2 gone"
    assert drawn.about == "Users from 30 Jan 2026 to 30 Jan 2026; the most, 6, on 30 Jan 2026."


@pytest.mark.parametrize("number", [1, 2, 3, 7, 28, 90, 400])
def test_the_axis_names_the_first_and_the_last_day(number: int) -> None:
    axis = chart("uses", "Uses", "uses", points(*range(number))).axis
    assert axis[0].label.startswith("30 Jan")
    assert len(axis) <= 5
    if number > 1:
        last = START + dt.timedelta(days=number - 1)
        assert axis[-1].label.startswith(f"{last.day} ")
        assert axis[-1].anchor == "end"
