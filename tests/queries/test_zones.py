"""Questions in a time zone: their days, weeks and months are local, across the days on which clocks change."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from queries import oracle
from queries.clock import now
from queries.filled import USERS, Filled, agree
from queries.oracle import DAY, HOUR, Bucket, Declaration, Rows, Use
from usage_instrument import queries as q
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries.active_users import ACTIVE
from usage_instrument.queries.windows import window

BERLIN, SANTIAGO = "Europe/Berlin", "America/Santiago"
"""Clocks change at two or three o'clock; and at midnight, so that a day begins at one o'clock or the last hour is there
twice."""
FORWARD = {BERLIN: dt.date(2026, 3, 29), SANTIAGO: dt.date(2026, 9, 6)}
BACK = {BERLIN: dt.date(2026, 10, 25), SANTIAGO: dt.date(2026, 4, 4)}
FEATURES = ["search", "export", "share"]


def hourly() -> Rows:
    """Uses around the changes, and until now, more at some hours than at others."""
    dice = random.Random(7)
    times = [dt.datetime(2026, month, day) + dice.randint(-9 * 24, 9 * 24) * HOUR for month, day in
             ((3, 29), (4, 5), (9, 6), (10, 25)) for _ in range(40)]  # fmt: skip
    times += [oracle.floor("hour", now()) - int(dice.expovariate(1 / 500)) * HOUR for _ in range(120)]
    keys = {(dice.choice([None, *USERS]), dice.choice(FEATURES), time) for time in times}
    history = [Bucket(user, feature, dice.randint(1, 60), time) for user, feature, time in sorted(keys, key=str)]
    used = {(row.user_id, row.feature_name): max(row.bucket_start for row in history) for row in history}
    usage = [Use(*key, 9, last) for key, last in used.items()]
    return Rows(now(), usage, history, plans=dict.fromkeys(USERS, "pro"))


def around(day: dt.date) -> tuple[dt.date, dt.date]:
    return day - DAY, day + DAY


@pytest.mark.parametrize("tz", [BERLIN, SANTIAGO])
def test_answers_are_those_of_plain_python(filled: Filled, tz: str) -> None:
    rows = hourly()
    filled.fill(rows)
    local = rows.local(tz)
    short: list[tuple[Any, Any]] = [(7 * DAY, None), ("today", None), around(FORWARD[tz]), around(BACK[tz])]
    around_it = (FORWARD[tz] - 9 * DAY, FORWARD[tz] + 9 * DAY)
    long: list[tuple[Any, Any]] = [(28 * DAY, None), ("last month", "last month"), around_it]
    asked: list[tuple[Any, Any]] = []
    for since, until in [*short, *long]:
        span: Any = {"since": since, "until": until, "tz": tz}
        asked.append((q.trend(**span), oracle.trend(local, None, "day", since, until)))
    for by in ("week", "month"):
        asked.append((q.trend(by=by, since=None, tz=tz), oracle.trend(local, None, by, None, None)))
    for since, until in [short[-1], long[0], long[-1]]:
        span = {"since": since, "until": until, "tz": tz}
        asked += [
            (q.top_features(**span), oracle.top_features(local, 5, since, until)),
            (q.adoption(tables=filled.tables, **span), oracle.adoption(local, since, until)),
            (q.power_users(**span), oracle.power_users(local, None, 10, since, until)),
            (q.stickiness("search", **span), oracle.stickiness(local, "search", since, until)),
            (q.retention("search", **span), oracle.retention(local, "search", None, "week", since, until)),
            (q.lifecycle(by="day", **span), oracle.lifecycle(local, None, "day", since, until)),
            (q.time_to_adopt("share", **span), oracle.time_to_adopt(local, "share", since, until)),
            (q.active_users(until=until, tz=tz), oracle.active_users(local, None, until)),
            (q.active_users(until=until, tz=tz, compare="previous"), oracle.active_users_compared(local, None, until)),
            (q.spikes(threshold=0.5, **span), oracle.spikes(local, since, until, None, 0.5)),
            (q.drops(threshold=0.1, **span), oracle.drops(local, since, until, None, 0.1)),
            (q.related_features("search", **span), oracle.related_features(local, "search", 10, since, until)),
            (q.top_features(**span, compare="previous"), oracle.top_features_compared(local, 5, since, until)),
            (q.trend(**span, compare="previous"), oracle.trend_compared(local, None, "day", since, until)),
            (
                q.lifecycle(by="day", **span, compare="previous"),
                oracle.lifecycle_compared(local, None, "day", since, until),
            ),
            (
                q.time_to_adopt("share", **span, compare="previous"),
                oracle.time_to_adopt_compared(local, "share", since, until),
            ),
        ]
    for question, expected in asked:
        agree(question, filled.ask(question), expected)
    assert sum(len(expected) > 0 for _, expected in asked) > len(asked) / 2


@pytest.mark.parametrize("tz", [BERLIN, SANTIAGO])
def test_a_day_has_as_many_hours_as_its_clock(filled: Filled, tz: str) -> None:
    rows = hourly()
    filled.fill(rows)
    zone = ZoneInfo(tz)
    for day, length in ((FORWARD[tz], 23), (BACK[tz], 25), (BACK[tz] + 3 * DAY, 24)):
        answer = filled.ask(q.trend(by="hour", since=day, until=day, tz=tz))
        first = dt.datetime.combine(day, dt.time(), zone).astimezone(dt.UTC).replace(tzinfo=None)
        hours = [first + number * HOUR for number in range(length)]
        assert [row[0] for row in answer] == [
            hour.replace(tzinfo=dt.UTC).astimezone(zone).replace(tzinfo=None) for hour in hours
        ]
        uses = [oracle.uses(row for row in rows.history if row.bucket_start == hour) for hour in hours]
        assert [row[1] for row in answer] == uses
        assert sum(uses) == sum(row[1] for row in filled.ask(q.trend(since=day, until=day, tz=tz))) > 0
    assert len(filled.ask(q.trend(by="hour", since=12 * HOUR, tz=tz))) == 12
    beside = filled.ask(q.trend(by="hour", since=FORWARD[tz], until=FORWARD[tz], tz=tz, compare="previous"))
    assert len(beside) == 23
    assert sum(row[2] for row in beside) > 0


def test_what_is_no_history_is_compared_by_local_days(filled: Filled) -> None:
    """Berlin's 25 October begins at 22 o'clock UTC and ends at 23 o'clock."""
    day = dt.date(2026, 10, 25)
    starts = [dt.datetime(2026, 10, 24, 21), dt.datetime(2026, 10, 24, 22), dt.datetime(2026, 10, 25, 22)]
    starts.append(dt.datetime(2026, 10, 25, 23))
    usage = [Use(USERS[0], f"f{number}", 7, start) for number, start in enumerate(starts)]
    history = [Bucket(USERS[0], f"f{number}", 7, start) for number, start in enumerate(starts)]
    declared = [Declaration("web", f"f{number}", start, now() - HOUR) for number, start in enumerate(starts)]
    filled.fill(Rows(now(), usage, history, declared))
    its: Any = {"since": day, "until": day, "tz": BERLIN}
    assert sorted(row[0] for row in filled.ask(q.user_features(USERS[0], **its))) == ["f1", "f2"]
    assert sorted(row[2] for row in filled.ask(q.user_features(USERS[0], **its))) == starts[1:3], "UTC"
    assert sorted(row[0] for row in filled.ask(q.user_features(USERS[0], day, tz=BERLIN))) == ["f1", "f2", "f3"]
    assert [row[0] for row in filled.ask(q.unused_features(**its))] == ["f0"], "f3 was declared later"
    assert [row[0] for row in filled.ask(q.unused_features(day, tz=BERLIN))] == ["f0"]
    assert [row[1] for row in filled.ask(q.variants("f1", "key", **its))] == [1]
    assert filled.ask(q.variants("f0", "key", **its)) == []
    begun = [(row[1], row[2]) for row in filled.ask(q.funnel(["f1", "f3"], 48 * HOUR, **its))]
    assert begun == [("f1", 1), ("f3", 1)]
    assert filled.ask(q.funnel(["f0", "f3"], 48 * HOUR, **its))[0][2] == 0
    assert filled.ask(q.recommend(USERS[1], **its)) == []


def test_silence_has_local_days(filled: Filled) -> None:
    monday = oracle.floor("week", now()) - 7 * DAY
    days = [Bucket(None, "search", 5, monday - ago * DAY + 12 * HOUR) for ago in range(1, 20)]
    late = Bucket(None, "search", 5, monday - HOUR)  # Monday in Berlin
    declared = [Declaration("web", "search", monday - 90 * DAY, now() - HOUR)]
    filled.fill(Rows(now(), [Use(None, "search", 5, late.bucket_start)], [*days, late], declared))
    asked: Any = {"since": monday.date(), "until": monday.date()}
    assert [row[:3] for row in filled.ask(q.silent(**asked))] == [("search", 100, 19)]
    assert filled.ask(q.silent(**asked, tz=BERLIN)) == []


def test_days_have_no_time_zone(filled: Filled) -> None:
    """Days first, and hours since a week ago, whose first day is one of both kinds."""
    change, today = oracle.floor("day", now()) - 7 * DAY, oracle.floor("day", now())
    days = [Bucket(None, "search", 5, change - ago * DAY) for ago in range(30)]
    hours = [Bucket(None, "search", 5, change + number * HOUR) for number in range(9, 200)]
    filled.fill(Rows(now(), history=days))
    q.check_hours(filled.connection, None, since=None)
    with pytest.raises(ConfigurationError, match=r"a day instead of hours on .* which Europe/Berlin divides"):
        q.check_hours(filled.connection, BERLIN, since=28 * DAY)
    filled.fill(Rows(now(), history=[*days, *hours]))
    for ago in (6, 1):
        q.check_hours(filled.connection, BERLIN, since=(today - ago * DAY).date())
    for since in ((today - 8 * DAY).date(), 28 * DAY, None):
        with pytest.raises(ConfigurationError, match="a later since, or no tz"):
            q.check_hours(filled.connection, BERLIN, since=since)
    q.check_hours(filled.connection, BERLIN, since=dt.date(2020, 1, 1), until=dt.date(2020, 1, 2))


def test_active_users_need_hours_in_the_days_before_the_last_one(filled: Filled) -> None:
    today = oracle.floor("day", now())
    days = [Bucket(None, "search", 5, today - ago * DAY) for ago in (40, 41)]
    hours = [Bucket(None, "search", 5, today - ago * DAY + 9 * HOUR) for ago in range(39)]
    filled.fill(Rows(now(), history=[*days, *hours]))
    given: dict[str, Any] = {"feature": None, "until": None, "tz": BERLIN}
    for until in (None, "today", "7d", (today - 7 * DAY).date()):
        ACTIVE.check_history(filled.connection, filled.tables, {**given, "until": until})
    for until, compare in (("14d", None), ((today - 14 * DAY).date(), None), (None, "previous")):
        with pytest.raises(ConfigurationError, match="a day instead of hours"):
            ACTIVE.check_history(filled.connection, filled.tables, {**given, "until": until, "compare": compare})


@pytest.mark.parametrize(
    ("tz", "why"),
    [
        ("Asia/Kolkata", r"\+05:30 from UTC.* choose a zone of whole hours, or UTC"),
        ("Australia/Lord_Howe", r"\+1[01]:[03]0 from UTC"),
        ("Europe/Nowhere", "tz is the name of a time zone such as Europe/Berlin, not 'Europe/Nowhere'"),
        ("../etc/passwd", "name of a time zone"),
        ("", "name of a time zone"),
        (7, "tz is a time zone such as 'Europe/Berlin', a tzinfo or None, not 7"),
        (dt.timezone(HOUR / 2), r"\+00:30 from UTC"),
    ],
)
def test_another_zone_is_refused(tz: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        q.trend(tz=tz)


def test_a_zone_is_refused_for_the_window_that_it_cannot_answer() -> None:
    """Caracas was 4:30 behind until May 2016, and is 4 hours behind since."""
    q.trend(since=dt.date(2016, 9, 1), tz="America/Caracas")
    with pytest.raises(ConfigurationError, match=r"-04:30 from UTC on 20"):
        q.trend(since=dt.date(2016, 4, 1), tz="America/Caracas")
    with pytest.raises(ConfigurationError, match="within an hour of UTC on 2011-0"):
        q.trend(since=dt.date(2011, 5, 1), until=dt.date(2011, 9, 1), tz="Asia/Gaza")
    q.top_features(tz="Asia/Kolkata")  # of all time: no day is read


def test_a_window_is_of_the_zone() -> None:
    berlin = window("2026-03-29T12:30", "2026-03-30T00:30+00:00", BERLIN)
    assert berlin.since == dt.datetime(2026, 3, 29, 12, 30)
    assert berlin.until == dt.datetime(2026, 3, 30, 2, 30)
    assert window(dt.date(2026, 3, 29), None, dt.timezone(HOUR)).zone.steps[0][1] == 1
    assert window("7d", None, "UTC").zone.is_utc
