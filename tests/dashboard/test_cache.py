"""Slow answers are kept for a while, and say so."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from conftest import Database, with_users
from usage_instrument.dashboard import cache, results
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.dashboard.cache import FACTOR, LONGEST, SIZE, SLOW, Cache
from usage_instrument.dashboard.page_request import ROWS

from .conftest import filled
from .visitor import asgi

THEN = dt.datetime(2026, 3, 12)
NOW = dt.datetime(2026, 3, 13)


class Clock:
    """Time that passes as it is told."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def __call__(self) -> float:
        return self.time


class Question:
    """One that takes so long, and counts how often it is asked."""

    def __init__(self, clock: Clock, takes: float) -> None:
        self.clock, self.takes, self.asked = clock, takes, 0

    def __call__(self) -> int:
        self.clock.time += self.takes
        self.asked += 1
        return self.asked


def test_a_quick_answer_is_asked_for_each_time() -> None:
    clock = Clock()
    question, found = Question(clock, SLOW / 2), Cache(clock)
    assert found.get("top", THEN, question) == (1, THEN)
    assert found.get("top", NOW, question) == (2, NOW)


def test_a_slow_one_is_kept_in_proportion() -> None:
    clock = Clock()
    question, found = Question(clock, 2.0), Cache(clock)
    assert found.get("top", THEN, question) == (1, THEN)
    clock.time += 2.0 * FACTOR - 1
    assert found.get("top", NOW, question) == (1, THEN)
    assert found.get("other", NOW, question) == (2, NOW)
    clock.time += 1
    assert found.get("top", NOW, question) == (3, NOW)


def test_none_is_kept_for_long() -> None:
    clock = Clock()
    question, found = Question(clock, 60.0), Cache(clock)
    found.get("top", THEN, question)
    clock.time += LONGEST
    assert found.get("top", NOW, question) == (2, NOW)


def test_not_more_than_there_is_room_for() -> None:
    clock = Clock()
    question, found = Question(clock, 1.0), Cache(clock)
    for number in range(SIZE + 1):
        clock.time -= 1.0  # all at the same time
        found.get(number, THEN, question)
    assert found.get(1, NOW, question)[1] == THEN
    assert found.get(0, NOW, question)[1] == NOW


def test_a_page_says_how_old_it_is(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    own_past = filled(with_users(sqlite))
    monkeypatch.setattr(cache, "SLOW", 0)
    monkeypatch.setattr(cache, "FACTOR", 1_000_000)
    app: Any = Dashboard(own_past.url, authorize=lambda _: True)
    first = asgi(app, "/").page.said
    with own_past.engine.begin() as connection:
        connection.execute(own_past.tables.history.delete())
    again = asgi(app, "/").page.said
    assert "from the cache" in again
    assert "Top features" in again
    assert first.partition("Uses")[2] == again.partition("Uses")[2]
    assert "because" not in first
    other = asgi(app, "/", period="7d").page.said
    assert "There is no history here" in other


def test_a_late_page_of_a_table_is_not_kept(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    own_past = filled(with_users(sqlite))
    monkeypatch.setattr(cache, "SLOW", 0)
    monkeypatch.setattr(cache, "FACTOR", 1_000_000)
    app: Any = Dashboard(own_past.url, authorize=lambda _: True)
    for most, is_kept in ((results.CACHED, True), (ROWS - 1, False)):
        monkeypatch.setattr(results, "CACHED", most)
        asgi(app, "/top-features")
        assert ("from the cache" in asgi(app, "/top-features").page.said) is is_kept
