"""Which features were suddenly used far more than usual?"""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import pytest

from queries.clock import now, today
from queries.filled import USERS, Filled
from queries.oracle import DAY, Bucket, Rows
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import spikes


def days(feature: str, uses: dict[int, int], usual: tuple[int, ...] = (), age: int = 60) -> list[Bucket]:
    """The uses of a feature by how many days ago; the usual ones in turns."""
    by_day = {ago: usual[ago % len(usual)] for ago in range(age)} if usual else {}
    return [Bucket(None, feature, number, today() - ago * DAY) for ago, number in {**by_day, **uses}.items()]


def test_finds_the_day_that_stands_out(small: Filled) -> None:
    small.fill(Rows(now(), history=days("search", {2: 200}, (90, 100, 110)) + days("export", {}, (90, 100, 110))))
    # The median of the deviations is 10, which is as much as a deviation of 14.826.
    assert small.ask(spikes()) == [("search", (today() - 2 * DAY).date(), 200, 100.0, pytest.approx(100 / 14.826), 5.0)]
    assert small.ask(spikes(threshold=7)) == []
    assert small.ask(spikes(2 * DAY)) == []
    assert small.ask(spikes(feature="export")) == []


def test_an_earlier_spike_hides_none(small: Filled) -> None:
    small.fill(Rows(now(), history=days("search", {2: 200, 10: 100_000}, (90, 100, 110))))
    assert [row[2] for row in small.ask(spikes())] == [200]


def test_a_weekly_rhythm_is_no_spike(small: Filled) -> None:
    mondays, weekends = (500, 0, 0, 0, 0, 0, 0), (300, 300, 20, 20, 20, 20, 20)  # from some day of the week on
    uses = days("report", {}, mondays) + days("game", {}, weekends) + days("import", {7: 900}, mondays)
    small.fill(Rows(now(), history=uses))
    found = small.ask(spikes(28 * DAY))
    assert [row[:4] for row in found] == [("import", (today() - 7 * DAY).date(), 900, 500.0)]


def test_growth_is_no_spike(small: Filled) -> None:
    def growing(a_week: float, launched: int) -> dict[int, int]:
        by_day = {ago: 3000 * a_week ** (-ago / 7) for ago in range(launched)}
        return {ago: round(uses * (0.2 if (today() - ago * DAY).weekday() >= 5 else 1)) for ago, uses in by_day.items()}

    uses = days("steady", growing(1.1, 90)) + days("fast", growing(1.4, 90)) + days("launch", growing(1.5, 30))
    high = days("high", {**growing(1.1, 90), 20: 9000})
    small.fill(Rows(now(), history=uses + high))
    assert [row[:3] for row in small.ask(spikes(28 * DAY))] == [("high", (today() - 20 * DAY).date(), 9000)]


def test_a_lot_but_seldom_is_no_spike(small: Filled) -> None:
    seldom = {ago: 80 + ago % 3 for ago in range(2, 90, 15)}
    small.fill(Rows(now(), history=days("close", seldom) + days("import", {**seldom, 3: 800})))
    assert [row[:4] for row in small.ask(spikes(28 * DAY))] == [("import", (today() - 3 * DAY).date(), 800, 0.0)]


def test_a_rare_feature_needs_more_than_a_second_use(small: Filled) -> None:
    small.fill(Rows(now(), history=days("report", {50: 1, 1: 19}) + days("import", {50: 1, 1: 30})))
    assert [row[:5] for row in small.ask(spikes())] == [("import", (today() - DAY).date(), 30, 0.0, 30.0)]


def test_a_new_feature_has_no_usual(small: Filled) -> None:
    new, young = days("new", {1: 900}, (10,), age=8), days("young", {1: 900}, (10,), age=9)
    forgotten = days("forgotten", {70: 10, 1: 900})
    small.fill(Rows(now(), history=new + young + forgotten))
    assert [row[0] for row in small.ask(spikes())] == ["young"]


def test_a_young_feature_is_measured_by_its_own_days(small: Filled) -> None:
    small.fill(Rows(now(), history=days("young", {}, (10,), age=16)))
    assert small.ask(spikes()) == []


def test_a_user_who_suddenly_does_far_more(filled: Filled) -> None:
    def of(user: UUID, usual: int, most: int) -> list[Bucket]:
        return [Bucket(user, "search", most if ago == 2 else usual, today() - ago * DAY) for ago in range(40)]

    script, calm, seldom = USERS[:3]
    anonymous = [Bucket(None, "search", 9000, today() - 2 * DAY)]
    filled.fill(Rows(now(), history=of(script, 3, 300) + of(calm, 300, 310) + of(seldom, 1, 19) + anonymous))
    (found,) = filled.ask(spikes(by="user"))
    assert found[:4] == (script, (today() - 2 * DAY).date(), 300, 3.0)
    assert filled.ask(spikes(by="user", feature="export")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"since": None}, "28 days at most, not of all time"),
        ({"since": 29 * DAY}, "28 days at most, not of 29 days"),
        ({"since": dt.datetime.now(dt.UTC).replace(tzinfo=None) - 40 * DAY}, "28 days at most, not of 41 days"),
        ({"since": 7}, "since is a timedelta, a date, a datetime, a text or None"),
        ({"by": "variant"}, "by is 'feature' or 'user'"),
        ({"threshold": 0}, "threshold is a number above 0"),
        ({"threshold": float("nan")}, "threshold is a number above 0"),
        ({"threshold": True}, "threshold is a number above 0"),
        ({"feature": ""}, "feature is the name of a feature"),
    ],
)
def test_refuses_wrong_arguments(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        spikes(**options)
