"""A peer that takes everything and answers nothing: it is given up, whatever the driver, and no use is lost by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from captures import INTERVAL, assert_exact, assert_left_nothing
from conftest import Database
from proxy import Cut, Place, Proxy, through, url_through
from reading import balanced, made
from usage_instrument import Settings, Tracker
from usage_instrument.database import engines

DRIVERS = ["psycopg", "psycopg2", "asyncpg", "pymysql", "aiomysql", "asyncmy"]
QUICKLY = Settings(flush_interval=3600, statement_timeout=0.3, lock_timeout=0.1)
PATIENCE = 60.0
"""Seconds after which a test says that an attempt hangs; it takes about one."""


class Way(NamedTuple):
    """To a database, through a proxy, by some driver."""

    database: Database
    proxy: Proxy
    url: str


@pytest.fixture(params=DRIVERS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    backend = "postgresql" if request.param in {"psycopg", "psycopg2", "asyncpg"} else "mariadb"
    pytest.importorskip(request.param)
    database: Database = request.getfixturevalue(backend)
    monkeypatch.setattr(engines, "GRACE", 0.3)
    with through(database) as proxy:
        url = sa.make_url(url_through(proxy, database.url)).set(drivername=f"{backend}+{request.param}")
        if request.param in {"psycopg", "psycopg2"}:
            url = url.update_query_dict({"connect_timeout": "2"})  # the shortest that libpq knows
        yield Way(database, proxy, url.render_as_string(hide_password=False))


def wait_for_a_failure(tracker: Tracker) -> None:
    """An attempt has ended by itself, and nothing has been written."""
    deadline = time.monotonic() + PATIENCE
    while tracker.stats().last_error is None:
        assert not tracker.flush(INTERVAL)
        assert time.monotonic() < deadline, "the writer hangs"


def until_made(proxy: Proxy, cut: Cut) -> Iterator[Cut]:
    """On a busy machine, the first connections are given up before they get so far."""
    while not proxy.made:
        yield cut


def test_a_connection_that_falls_silent_is_given_up(way: Way) -> None:
    engine = way.database.engine()
    tables = made(engine)
    tracker = Tracker(way.url, QUICKLY)
    tracker.track("f")
    assert tracker.flush(60)
    way.proxy.blackhole()
    tracker.track("f", count=2)
    wait_for_a_failure(tracker)
    assert way.proxy.swallowed > 0
    assert tracker.stats().pending == 2
    assert balanced(tracker.stats())
    way.proxy.mend()
    tracker.track("f", count=3)
    assert_exact(engine, tables, tracker, 6)
    assert_left_nothing(engine, tables, tracker)


@pytest.mark.parametrize("way", ["psycopg", "asyncpg", "pymysql", "aiomysql"], indirect=True)
@pytest.mark.parametrize("place", ["before commit", "during commit"])
def test_a_silent_answer_to_commit_is_a_doubt(place: Place, way: Way) -> None:
    engine = way.database.engine()
    tables = made(engine)
    tracker = Tracker(way.url, QUICKLY)
    tracker.track("f")
    assert tracker.flush(60)
    way.proxy.cut(until_made(way.proxy, Cut(place, 1, silently=True)))
    way.proxy.cut_now()
    tracker.track("f", count=2)
    if place == "before commit" and way.database.name == "mariadb":
        wait_for_a_failure(tracker)
        way.proxy.mend()  # until it hears of the lost client, that server keeps the locks
    assert_exact(engine, tables, tracker, 3)
    assert way.proxy.made == {place: 1}
    assert tracker.stats().retries > 0
    assert_left_nothing(engine, tables, tracker)
