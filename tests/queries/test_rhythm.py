"""At which hours of the week is something used?"""

from __future__ import annotations

import datetime as dt
import random

import pytest

from queries import oracle
from queries.clock import now, today
from queries.filled import FEATURES, USERS, Filled, agree
from queries.oracle import DAY, HOUR, Bucket, Rows
from usage_instrument.queries import rhythm


@pytest.mark.parametrize("tz", ["UTC", "Europe/Berlin", "America/Santiago"])
def test_the_hours_are_those_of_plain_python(filled: Filled, tz: str) -> None:
    dice = random.Random(7)
    changes = (dt.datetime(2026, month, day) for month, day in ((3, 29), (4, 5), (9, 6), (10, 25)))
    starts = {change + dice.randint(-72, 72) * HOUR for change in changes for _ in range(60)} | {
        oracle.floor("hour", now()) - dice.randint(0, 2000) * HOUR for _ in range(200)
    }
    starts |= {dt.datetime(2026, month, 20, 5) for month in (1, 8)}  # so that a midnight after it is an hour
    history = [
        Bucket(dice.choice([None, *USERS]), dice.choice(FEATURES), dice.randint(1, 9), start) for start in starts
    ]
    rows = Rows(now(), history=history)
    filled.fill(rows)
    local = rows.local(tz)
    windows: list[tuple[oracle.Moment, oracle.Moment]] = [
        (28 * DAY, None), ("last month", "last month"), (dt.date(2026, 3, 29), dt.date(2026, 3, 29)),
        (dt.date(2026, 9, 6), dt.date(2026, 10, 25)), (dt.datetime(2026, 4, 4), None), (None, None), ("today", None),
    ]  # fmt: skip
    for since, until in windows:
        for feature in (None, FEATURES[0]):
            asked = rhythm(feature, since=since, until=until, tz=tz)
            agree((tz, since, until), filled.ask(asked), oracle.rhythm(local, feature, since, until))
            if since is not None:
                beside = filled.ask(rhythm(feature, since=since, until=until, tz=tz, compare="previous"))
                agree((tz, since, until), beside, oracle.rhythm_compared(local, feature, since, until))


def test_days_have_no_hours(small: Filled) -> None:
    days = [Bucket(USERS[0], "search", 5, today() - ago * DAY) for ago in range(20)]
    small.fill(Rows(now(), history=days))
    assert small.ask(rhythm()) == small.ask(rhythm(tz="Europe/Berlin")) == []
    hours = [Bucket(USERS[0], "search", 1, today() - 2 * DAY + hour * HOUR) for hour in (9, 24)]
    small.fill(Rows(now(), history=[*days[2:], *hours]))
    found = [row[:4] for row in small.ask(rhythm()) if row[2]]
    expected = [((hour.bucket_start).isoweekday(), hour.bucket_start.hour, 1, 1) for hour in hours]
    assert found == sorted(expected), "the uses of the days before are at no hour"
