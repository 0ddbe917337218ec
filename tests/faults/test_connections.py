"""Connections cut at any byte and around every COMMIT: every use is counted once, all the same."""

from __future__ import annotations

import itertools
import random
import threading
import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from conftest import Database
from proxy import Proxy, anywhere, through, url_through
from reading import all_of, balanced, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.schema import Tables

USERS: list[uuid.UUID | None] = [None, *(uuid.UUID(int=number) for number in range(1, 41))]
INTERVAL = 0.02


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def engine(server: Database) -> sa.Engine:
    return server.engine()


@pytest.fixture
def tables(engine: sa.Engine) -> Tables:
    return made(engine)


@pytest.fixture
def proxy(server: Database) -> Iterator[Proxy]:
    with through(server) as proxy:
        yield proxy


def _nothing() -> None: ...


class Captures:
    """Two threads that use a tracker's features until the block is left."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._uses = [0, 0]
        self._done = threading.Event()

    def __enter__(self) -> Captures:
        uses = (self._plain, self._rich)
        self._threads = [threading.Thread(target=use, args=(number,)) for number, use in enumerate(uses)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    @property
    def uses(self) -> int:
        return sum(self._uses)

    def _plain(self, number: int) -> None:
        features = [self._tracker.tracks(f"plain_{n}")(_nothing) for n in range(5)]
        for user in itertools.cycle(USERS):
            with self._tracker.as_user(user):
                for feature in features:
                    feature()
                    self._uses[number] += 1
            if self._done.wait(0.001):
                return

    def _rich(self, number: int) -> None:
        for user in itertools.cycle(USERS):
            self._tracker.track("rich", user=user, metadata={"uses": self._uses[number]}, count=3)
            self._uses[number] += 3
            if self._done.wait(0.002):
                return


def assert_exact(engine: sa.Engine, tables: Tables, tracker: Tracker, uses: int) -> None:
    """Flushed, every use is in the table and in its history, once."""
    assert tracker.flush(60), tracker.stats()
    stats = tracker.stats()
    assert (stats.captured, stats.written, stats.dropped, stats.rejected) == (uses, uses, 0, 0), stats
    assert balanced(stats)
    assert total(engine, tables) == uses
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.sum(tables.history.c.usage_count))) == uses
    assert all_of(engine, tables.losses) == []


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_connections_cut_anywhere(
    driver: str, server: Database, engine: sa.Engine, tables: Tables, proxy: Proxy
) -> None:
    cuts = 150 if driver == "sync" else 40
    tracker = Tracker(
        url_through(proxy, server.url if driver == "sync" else server.async_url), Settings(flush_interval=INTERVAL)
    )
    proxy.cut(anywhere(random.Random()))
    with Captures(tracker) as captures:
        while proxy.made.total() < cuts or len(proxy.made) < 4:
            tracker.flush(INTERVAL)  # tries at once, where the writer itself would back off
        proxy.mend()
    assert_exact(engine, tables, tracker, captures.uses)
    assert tracker.stats().retries > 0
    assert tracker.shutdown(60)
    assert all_of(engine, tables.writers) == []
