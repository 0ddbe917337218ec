"""Uses without end while something breaks, and the look whether each of them was counted once."""

from __future__ import annotations

import itertools
import threading
import uuid

import sqlalchemy as sa

from reading import all_of, balanced, total
from usage_instrument import Tracker
from usage_instrument.schema import Tables

USERS: list[uuid.UUID | None] = [None, *(uuid.UUID(int=number) for number in range(1, 41))]
INTERVAL = 0.02


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


def assert_left_nothing(engine: sa.Engine, tables: Tables, tracker: Tracker) -> None:
    """A clean end takes the writer's row along."""
    assert tracker.shutdown(60), tracker.stats()
    assert balanced(tracker.stats())
    assert all_of(engine, tables.writers) == []
