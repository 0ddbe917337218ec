"""Which features that were used regularly are not used now?"""

from __future__ import annotations

import pytest

from queries.clock import now, today
from queries.filled import USERS, Filled
from queries.oracle import DAY, Bucket, Declaration, Rows, Use
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import silent


def days(feature: str, first: int, last: int, every: int = 1) -> list[Bucket]:
    return [Bucket(None, feature, 2, today() - ago * DAY) for ago in range(last, first + 1, every)]


def declared(*features: str) -> list[Declaration]:
    return [Declaration("web", feature, today() - 90 * DAY, today()) for feature in features]


def test_finds_what_was_regular_and_stopped(filled: Filled) -> None:
    history = (
        days("export", 60, 9)
        + days("search", 60, 0)
        + days("rare", 60, 9, every=3)
        + days("undeclared", 60, 9)
        + days("gone", 60, 9)
        + days("back", 60, 1, every=2)
    )
    gone = Declaration("web", "gone", today() - 90 * DAY, today() - 40 * DAY)
    usage = [Use(USERS[0], "export", 100, now() - 9 * DAY)]
    catalog = [*declared("export", "search", "rare", "back"), gone]
    filled.fill(Rows(now(), usage, history, catalog))
    assert filled.ask(silent()) == [("export", 52, 26, now() - 9 * DAY)]
    assert filled.ask(silent(10 * DAY)) == []
    assert [row[0] for row in filled.ask(silent("today", until="today"))] == ["export", "back"]


def test_a_last_use_in_the_window_counts_before_its_day_is_in_the_history(small: Filled) -> None:
    usage = [Use(None, "export", 100, now() - DAY)]
    small.fill(Rows(now(), usage, days("export", 60, 9), declared("export")))
    assert small.ask(silent()) == []


def test_a_window_without_a_start_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="silence has a start"):
        silent(None)
