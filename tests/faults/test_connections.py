"""Connections cut at any byte and around every COMMIT, or ended by the server: every use is counted once."""

from __future__ import annotations

import contextlib
import os
import random
import threading

import pytest
import sqlalchemy as sa

from captures import INTERVAL, USERS, Captures, assert_exact, assert_left_nothing
from conftest import Database
from proxy import Cut, Place, anywhere, through, url_through
from reading import balanced, made, total
from usage_instrument import Settings, Tracker

CUTS = int(os.environ.get("USAGE_TEST_CUTS", "16"))
AT_A_COMMIT = ("before commit", "during commit", "after commit")


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_connections_cut_anywhere(driver: str, server: Database) -> None:
    cuts = CUTS if driver == "sync" else CUTS // 4
    engine = server.engine()
    tables = made(engine)
    with through(server) as proxy:
        url = url_through(proxy, server.url if driver == "sync" else server.async_url)
        tracker = Tracker(url, Settings(flush_interval=INTERVAL))
        proxy.cut(anywhere(random.Random()))
        with Captures(tracker) as captures:
            while proxy.made.total() < cuts or len(proxy.made) < 4:
                tracker.flush(INTERVAL)  # tries at once, where the writer itself would back off
            proxy.mend()
        assert_exact(engine, tables, tracker, captures.uses)
        assert tracker.stats().retries > 0
        assert_left_nothing(engine, tables, tracker)


@pytest.mark.parametrize("place", AT_A_COMMIT)
def test_the_first_and_the_last_batch_are_cut(place: Place, server: Database) -> None:
    engine = server.engine()
    tables = made(engine)
    uses = 0
    with through(server) as proxy:
        for first in (1, 2, 3):  # the look at the tables, the row in the ledger, the batch
            for last in (1, 2):  # the batch, the end of the row
                tracker = Tracker(url_through(proxy, server.url), Settings(flush_interval=3600))
                proxy.cut([Cut(place, first)])
                tracker.track("f", user=USERS[first], count=first)
                assert tracker.flush(60), tracker.stats()
                proxy.cut([Cut(place, last)])
                proxy.cut_now()
                tracker.track("f", user=USERS[first], count=10 * last)
                assert tracker.shutdown(60), tracker.stats()
                uses += first + 10 * last
                assert total(engine, tables) == uses
                assert balanced(tracker.stats())
        assert proxy.made == {place: 12}


def end_backends(connection: sa.Connection) -> int:
    """End every other connection to this database, by the server; how many that were."""
    if connection.dialect.name == "postgresql":
        ended = connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return len(ended.all())
    found = connection.exec_driver_sql(
        "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
    )
    ids = found.scalars().all()
    for id_ in ids:
        with contextlib.suppress(sa.exc.DBAPIError):  # it has gone by itself
            connection.exec_driver_sql(f"KILL CONNECTION {id_}")
    return len(ids)


def test_backends_ended_while_they_write(server: Database) -> None:
    engine = server.engine()
    tables = made(engine)
    tracker = Tracker(server.url, Settings(flush_interval=INTERVAL))
    enough = threading.Event()

    def end_them() -> None:
        ended, dice = 0, random.Random()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while ended < CUTS // 3:
                enough.wait(0.1 * dice.random())
                ended += end_backends(connection)
        enough.set()

    with Captures(tracker) as captures:
        ending = threading.Thread(target=end_them)
        ending.start()
        while ending.is_alive():
            tracker.flush(INTERVAL)
    assert enough.is_set()
    assert_exact(engine, tables, tracker, captures.uses)
    assert tracker.stats().retries > 0
    assert_left_nothing(engine, tables, tracker)
