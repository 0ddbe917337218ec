"""Which features were suddenly used far less than usual?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from queries.clock import now, today
from queries.filled import Filled
from queries.oracle import DAY, Bucket, Rows
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import drops


def days(feature: str, uses: Callable[[dt.datetime], int], age: int = 80) -> list[Bucket]:
    """A feature's uses by day, from so many days ago until today, which has just begun."""
    found = [(today() - ago * DAY) for ago in range(1, age)]
    return [Bucket(None, feature, uses(day), day) for day in found if uses(day)]


def on(ago: int, uses: int, otherwise: Callable[[dt.datetime], int]) -> Callable[[dt.datetime], int]:
    return lambda day: uses if day == today() - ago * DAY else otherwise(day)


def steady(day: dt.datetime) -> int:
    return 99 + day.toordinal() % 3


def of_a_week(day: dt.datetime) -> int:
    return 3 if day.weekday() >= 5 else 400 + day.toordinal() % 5


def growing(day: dt.datetime) -> int:
    return 1000 - 10 * (today() - day).days


def test_finds_the_days_that_fall_short(filled: Filled) -> None:
    history = days("search", on(3, 0, on(5, 30, steady))) + days("export", steady)
    filled.fill(Rows(now(), history=history))
    found = filled.ask(drops())
    assert [(row[0], row[1], row[2]) for row in found] == [
        ("search", (today() - 3 * DAY).date(), 0),
        ("search", (today() - 5 * DAY).date(), 30),
    ]
    assert [row[4] for row in found] == [pytest.approx(10, abs=0.2), pytest.approx(7, abs=0.2)]
    assert [row[2] for row in filled.ask(drops(threshold=9))] == [0]
    assert filled.ask(drops(feature="export")) == []
    assert filled.ask(drops(3 * DAY)) == []
    assert [row[2] for row in filled.ask(drops(10 * DAY, until=4 * DAY))] == [30]


def test_no_alarm_on_a_rhythm_on_growth_or_on_today(filled: Filled) -> None:
    filled.fill(Rows(now(), history=days("weekly", of_a_week) + days("growing", growing)))
    assert filled.ask(drops(28 * DAY, threshold=3)) == []


def test_a_rare_or_a_young_feature_cannot_fall(small: Filled) -> None:
    rare, young = days("rare", on(2, 0, lambda day: 19)), days("young", on(2, 0, steady), age=30)
    small.fill(Rows(now(), history=rare + young))
    assert small.ask(drops()) == []
    small.fill(Rows(now(), history=days("older", on(2, 0, steady), age=31)))
    assert [row[0] for row in small.ask(drops())] == ["older"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"since": None}, "28 days at most, not of all time"),
        ({"since": "90d"}, "28 days at most, not of 90 days"),
        ({"threshold": -1}, "threshold is a number above 0"),
        ({"feature": ""}, "feature is the name of a feature"),
    ],
)
def test_refuses_wrong_arguments(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        drops(**options)
