"""How does use develop from day to day?"""

from __future__ import annotations

from typing import Any

import pytest

from queries.clock import now, today
from queries.filled import USERS, Filled
from queries.oracle import DAY, HOUR, Bucket, Rows, floor
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import trend


@pytest.fixture
def week(small: Filled) -> Filled:
    history = [
        Bucket(USERS[0], "search", 3, today()),
        Bucket(USERS[0], "export", 2, today()),
        Bucket(USERS[1], "search", 4, today()),
        Bucket(None, "search", 10, today()),
        Bucket(USERS[1], "search", 5, today() - 2 * DAY),
        Bucket(USERS[2], "search", None, today() - 9 * DAY),
    ]
    small.fill(Rows(now(), history=history))
    return small


def test_days_without_use_are_zeros(week: Filled) -> None:
    assert week.ask(trend(since=4 * DAY)) == [
        (today() - 3 * DAY, 0, 0, 0, False),
        (today() - 2 * DAY, 5, 1, 0, False),
        (today() - 1 * DAY, 0, 0, 0, False),
        (today(), 19, 2, 10, True),
    ]


def test_one_feature(week: Filled) -> None:
    assert week.ask(trend("export", since=2 * DAY)) == [
        (today() - DAY, 0, 0, 0, False),
        (today(), 2, 1, 0, True),
    ]
    assert week.ask(trend("unheard of", since=DAY)) == [(today(), 0, 0, 0, True)]


def test_four_weeks_unless_told(week: Filled) -> None:
    days = [row[0] for row in week.ask(trend())]
    assert days == [today() - ago * DAY for ago in range(27, -1, -1)]


def test_all_time_starts_with_the_first_use(week: Filled) -> None:
    answer = week.ask(trend(since=None))
    assert (len(answer), answer[0]) == (10, (today() - 9 * DAY, 0, 1, 0, False))
    assert week.ask(trend("unheard of", since=None)) == []


def test_weeks_begin_on_monday_and_the_first_is_whole(small: Filled) -> None:
    monday = floor("week", now())
    small.fill(Rows(now(), history=[Bucket(None, "search", 1, monday - ago * DAY) for ago in range(1, 15)]))
    assert small.ask(trend(by="week", since=monday - 4 * DAY)) == [
        (monday - 7 * DAY, 7, 0, 7, False),
        (monday, 0, 0, 0, True),
    ]


def test_hours(small: Filled) -> None:
    hour = floor("hour", now())
    small.fill(Rows(now(), history=[Bucket(None, "search", 1, hour), Bucket(None, "search", 2, hour - 3 * HOUR)]))
    assert [row[1] for row in small.ask(trend(by="hour", since=4 * HOUR))] == [2, 0, 0, 1]


def test_thousands_of_hours(filled: Filled) -> None:
    first = today() - 130 * DAY
    filled.fill(Rows(now(), history=[Bucket(None, "search", 7, first)]))
    answer = filled.ask(trend(by="hour", since=None))
    assert len(answer) > 3100
    assert [row[0] for row in answer] == [first + number * HOUR for number in range(len(answer))]
    assert sum(row[1] for row in answer) == 7


@pytest.mark.parametrize("by", ["year", "days", None, 1, ["day"]])
def test_refuses_other_units(by: Any) -> None:
    with pytest.raises(ConfigurationError, match="by is one of 'hour', 'day', 'week', 'month', not"):
        trend(by=by)


@pytest.mark.parametrize("feature", ["", 7, "a\0b", "x" * 101])
def test_refuses_what_is_no_features_name(feature: Any) -> None:
    with pytest.raises(ConfigurationError, match="feature is the name of a feature: a feature name"):
        trend(feature)
