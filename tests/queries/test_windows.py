"""Windows: what `since` and `until` may be, and where they begin and end."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from queries.clock import today
from queries.filled import Filled
from queries.oracle import DAY, HOUR, Bucket, Rows, floor
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import spikes, top_features
from usage_instrument.queries.printed import printed
from usage_instrument.queries.windows import UnitStart, Window, edge_of, window, window_words

AT = dt.datetime(2024, 3, 5, 12, 30)


@pytest.mark.parametrize(
    ("moment", "since", "until"),
    [
        (None, None, None),
        (7 * DAY, 7 * DAY, 7 * DAY),
        (0 * DAY, 0 * DAY, None),
        ("36h", 36 * HOUR, 36 * HOUR),
        (AT, AT, AT),
        (AT.replace(tzinfo=dt.timezone(2 * HOUR)), AT - 2 * HOUR, AT - 2 * HOUR),
        (dt.date(2024, 2, 28), dt.datetime(2024, 2, 28), dt.datetime(2024, 2, 29)),
        ("2024-02-28", dt.datetime(2024, 2, 28), dt.datetime(2024, 2, 29)),
        ("2024-03-05T12:30", AT, AT),
        ("2024-03-05T12:30+02:00", AT - 2 * HOUR, AT - 2 * HOUR),
        ("2024-02", dt.datetime(2024, 2, 1), dt.datetime(2024, 3, 1)),
        ("2024-12", dt.datetime(2024, 12, 1), dt.datetime(2025, 1, 1)),
        ("2024", dt.datetime(2024, 1, 1), dt.datetime(2025, 1, 1)),
        ("2026-W14", dt.datetime(2026, 3, 30), dt.datetime(2026, 4, 6)),
        ("today", UnitStart("day", 0), UnitStart("day", 1)),
        ("Yesterday", UnitStart("day", -1), UnitStart("day", 0)),
        ("this week", UnitStart("week", 0), UnitStart("week", 1)),
        ("last-month", UnitStart("month", -1), UnitStart("month", 0)),
    ],
)
def test_a_name_is_its_start_and_its_end(moment: Any, since: Any, until: Any) -> None:
    assert edge_of(moment, "since") == since
    assert edge_of(moment, "until") == until


@pytest.mark.parametrize(
    "wrong", ["", "soon", "7", "-7d", "2024-13", "2024-02-30", "2024-W54", "next month", "9999", "1e3d"]
)
def test_another_text_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=f"until is 12h, 30d, .* not '{wrong}'"):
        window(None, wrong)


@pytest.mark.parametrize("wrong", [7, 7.5, True, b"7d", dt.time(1)])
def test_another_type_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="since is a timedelta, a date, a datetime, a text or None"):
        window(wrong)


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (7 * DAY, 7 * DAY),
        (DAY, 2 * DAY),
        ("today", "yesterday"),
        ("2024-02-02", "2024-02-01"),
        (AT, AT - DAY),
        (0 * DAY, DAY),
    ],
)
def test_a_window_has_a_day(since: Any, until: Any) -> None:
    with pytest.raises(ConfigurationError, match="since must be before until"):
        window(since, until)
    assert window(AT, AT + HOUR).days == 1


@pytest.mark.parametrize(
    ("since", "until", "before"),
    [
        (7 * DAY, None, Window(14 * DAY, 7 * DAY)),
        (36 * HOUR, None, Window(4 * DAY, 2 * DAY)),
        (0 * DAY, None, Window(2 * DAY, DAY)),
        (14 * DAY, 7 * DAY, Window(21 * DAY, 14 * DAY)),
        ("2024-03-01", "2024-03-02", Window(dt.datetime(2024, 2, 28), dt.datetime(2024, 3, 1))),
        ("last month", "last month", Window(UnitStart("month", -2), UnitStart("month", -1))),
        ("yesterday", "yesterday", Window(UnitStart("day", -2), UnitStart("day", -1))),
        (dt.date.min, "0001-01-03", Window(dt.datetime.min, dt.datetime.min)),
    ],
)
def test_the_window_before_is_as_long(since: Any, until: Any, before: Window) -> None:
    assert window(since, until).previous() == before


def test_the_window_before_one_that_goes_on_has_as_many_days() -> None:
    days = today().day
    assert window("this month").previous() == Window(floor("month", today()) - days * DAY, floor("month", today()))
    assert window(today() - 4 * DAY).previous() == Window(today() - 9 * DAY, today() - 4 * DAY)
    with pytest.raises(ConfigurationError, match="pass since"):
        window(None, "today").previous()


@pytest.mark.parametrize(
    ("since", "until", "words"),
    [
        (None, None, "so far"),
        ("28d", None, "in the last 28 days"),
        ("1d", None, "in the last day"),
        (12 * HOUR, None, "in the last 12 hours"),
        ("2024-02-01", None, "since 2024-02-01"),
        (None, "2024-02", "until 2024-02-29"),
        ("2024-02", "2024-02-15", "from 2024-02-01 to 2024-02-15"),
        ("14d", "7d", "from 14 days ago to 7 days ago"),
        ("last month", "last month", "last month"),
        ("yesterday", "yesterday", "yesterday"),
        ("this week", None, "since the start of this week"),
        ("last month", "yesterday", "from the start of last month to yesterday"),
        ("2024", "last week", "from 2024-01-01 to the end of last week"),
    ],
)
def test_words(since: Any, until: Any, words: str) -> None:
    assert window_words(since, until) == words


def test_two_windows_side_by_side_share_no_day_and_leave_none_out(filled: Filled) -> None:
    history = [Bucket(None, "search", 10**ago, today() - ago * DAY) for ago in range(9)]
    filled.fill(Rows(today(), history=history))

    def uses(since: Any, until: Any) -> int:
        return sum(row[1] for row in filled.ask(top_features(since=since, until=until)))

    assert uses("3d", None) == 111
    assert uses("6d", "3d") == 111_000
    assert uses("yesterday", "yesterday") == 10
    assert uses(None, "2d") == 111_111_100
    day = (today() - 4 * DAY).date()
    assert uses(day, day) == uses(str(day), str(day)) == 10_000
    assert uses(day, dt.datetime.combine(day, dt.time()) + DAY) == 10_000
    assert uses(day, dt.datetime.combine(day, dt.time()) + DAY + HOUR) == 11_000, "its day"
    assert uses(dt.date.min, dt.date.max) == 111_111_111


def test_printed_names_stay_right_tomorrow() -> None:
    dialect = sa.make_url("postgresql+psycopg://").get_dialect()()
    sql = printed(top_features(since="last month", until="last month"), dialect)
    start = "date_trunc('month', timezone('utc', now()))"
    assert f"bucket_start >= {start} + (-1) * interval '1 month'" in sql
    assert f"bucket_start < {start}" in sql


def test_spikes_of_an_earlier_window(small: Filled) -> None:
    rows = [Bucket(None, "search", 500 if ago in (2, 40) else 10, today() - ago * DAY) for ago in range(90)]
    small.fill(Rows(today(), history=rows))
    assert [row[1] for row in small.ask(spikes("45d", until="30d"))] == [(today() - 40 * DAY).date()]
    with pytest.raises(ConfigurationError, match="28 days at most, not of 90 days"):
        spikes("90d")
