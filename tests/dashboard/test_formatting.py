"""Values as people read them."""

from __future__ import annotations

import datetime as dt

import pytest

from usage_instrument.dashboard import formatting

NOW = dt.datetime(2026, 3, 12, 14, 5, 9)


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (99_999, "99,999"), (100_000, "100k"), (1_234_567, "1.23M"), (2_000_000_000, "2B")]
)
def test_short(value: int, shown: str) -> None:
    assert formatting.short(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0.0%"), (0.0004, "<0.1%"), (0.0123, "1.2%"), (0.0999, "10%"), (1, "100%"), (None, "–")]
)
def test_share(value: float | None, shown: str) -> None:
    assert formatting.share(value) == shown


@pytest.mark.parametrize(
    ("now", "before", "shown"),
    [
        (110, 100, "+10%"),
        (94, 100, "−6%"),
        (100, 100, "+0%"),
        (0, 5, "−100%"),
        (1_200, 100, "×12"),
        (10**6, 1, "×999+"),
    ],
)
def test_change(now: int, before: int, shown: str) -> None:
    assert formatting.change(now, before) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0 s ago"), (59, "59 s ago"), (3_599, "59 min ago"), (86_399, "23 h ago"), (86_400, "1 day ago"),
     (59 * 86_400, "59 days ago"), (200 * 86_400, "7 months ago")],
)  # fmt: skip
def test_ago(seconds: int, shown: str) -> None:
    assert formatting.ago(NOW - dt.timedelta(seconds=seconds), NOW) == shown


def test_days_and_moments() -> None:
    assert formatting.day(NOW) == "12 Mar 2026"
    assert formatting.day(NOW.date(), NOW) == "12 Mar"
    assert formatting.day(dt.date(2025, 12, 1), NOW) == "1 Dec 2025"
    assert formatting.moment(NOW) == "12 Mar 2026, 14:05 UTC"
    assert formatting.ago(None, NOW) == "never"
    assert formatting.count(31.5) == "31.5"
    assert formatting.count(31) == "31"
    assert formatting.plural(1, "use") == "1 use"
    assert formatting.plural(1_200, "process writes", "processes write") == "1,200 processes write"
