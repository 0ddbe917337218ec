"""Whatever the host does in the midst of a capture or a flush: nobody waits for himself, and the counts are exact."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import interruptions
from conftest import Database
from proxy import through, url_through
from reading import all_of, balanced, counts, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.database import ledger
from usage_instrument.pipeline import store
from usage_instrument.schema import Tables

ADA = interruptions.USERS[0]


@pytest.fixture
def engine(postgresql: Database) -> sa.Engine:
    return postgresql.engine()


@pytest.fixture
def tables(engine: sa.Engine) -> Tables:
    return made(engine)


@pytest.fixture
def tracker(postgresql: Database, tables: Tables) -> Iterator[Tracker]:
    tracker = Tracker(postgresql.url, Settings(flush_interval=0.05))
    yield tracker
    assert tracker.shutdown(30)


# ---- captures within captures


@pytest.mark.parametrize(("ways", "journal"), [("gc log", False), ("gc signal log", True)])
def test_captures_that_interrupt_captures_and_flushes(
    ways: str, journal: bool, postgresql: Database, engine: sa.Engine, tables: Tables, tmp_path: Path
) -> None:
    kept = {"USAGE_INSTRUMENT_JOURNAL": str(tmp_path)} if journal else {}
    done = subprocess.run(
        [sys.executable, interruptions.__file__, *ways.split()],
        env={**os.environ, "USAGE_INSTRUMENT_DATABASE_URL": postgresql.url, **kept},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    made = json.loads(done.stdout)
    assert {feature: total(engine, tables, feature) for feature in made} == made
    assert all_of(engine, tables.writers) == all_of(engine, tables.losses) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ends", [False, True], ids=["aflush", "ashutdown"])
def test_a_flush_that_is_cancelled_loses_nothing(
    ends: bool, engine: sa.Engine, tables: Tables, tracker: Tracker
) -> None:
    async def cancelled(after: int) -> None:
        waiting = asyncio.ensure_future(tracker.ashutdown(30) if ends else tracker.aflush(30))
        for _ in range(after):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    for turn in range(20):
        tracker.track("plain")
        asyncio.run(cancelled(turn % 5))
        tracker.track("plain")
    assert tracker.flush(30)
    assert total(engine, tables) == 40


# ---- the host's callables


def nothing() -> None: ...


def fails(*_: object) -> Any:
    raise LookupError("theirs")


def user_of(event: int) -> Any:
    return fails() if event % 3 else ADA


def detail_of(event: int) -> Any:
    return fails() if event % 2 else {"event": event}


def test_a_resolver_that_raises_costs_its_own_use_alone(engine: sa.Engine, tables: Tables, tracker: Tracker) -> None:
    @tracker.tracks("follow", user=user_of, metadata=detail_of)
    def follow(event: int) -> int:
        return event

    assert [follow(event) for event in range(60)] == list(range(60))
    assert tracker.flush(30)
    stats = tracker.stats()
    assert (stats.captured, stats.written, stats.rejected, stats.metadata_lost) == (60, 20, 40, 10)
    assert balanced(stats)
    assert counts(engine, tables) == {("follow", ADA): 20}
    assert [(loss.reason, loss.uses) for loss in all_of(engine, tables.losses)] == [("bad capture", 40)]


@pytest.mark.parametrize("option", ["features", "user", "metadata", "success"])
def test_a_middlewares_callable_that_raises_costs_its_own_use_alone(
    option: str, engine: sa.Engine, tables: Tables, tracker: Tracker
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    options: dict[str, Any] = {"features": {"/": "home"}, option: {"/": fails} if option == "features" else fails}
    well = UsageMiddleware(app, tracker=tracker, features={"/": "home"})
    ill = UsageMiddleware(app, tracker=tracker, **options)
    for served in (well, ill, well):
        assert request(served) == ["http.response.start", "http.response.body"]
    assert tracker.flush(30)
    keeps = option == "metadata"
    assert counts(engine, tables) == {("home", None): 2 + keeps}
    stats = tracker.stats()
    assert (stats.rejected, stats.metadata_lost) == (1 - keeps, keeps)
    assert balanced(stats)


def request(app: Any) -> list[str]:
    """The types of the messages that answer GET /."""
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(app({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send))
    return sent


def test_a_resolver_that_blocks_holds_up_nobody_else(engine: sa.Engine, tables: Tables, tracker: Tracker) -> None:
    asked, released = threading.Event(), threading.Event()

    def blocks() -> Any:
        asked.set()
        assert released.wait(60)
        return ADA

    slow, quick = tracker.tracks("slow", user=blocks)(nothing), tracker.tracks("quick")(nothing)
    waiting = threading.Thread(target=slow)
    waiting.start()
    assert asked.wait(60)
    for _ in range(10):
        quick()
    assert tracker.flush(30)
    assert counts(engine, tables) == {("quick", None): 10}
    released.set()
    waiting.join()
    assert tracker.flush(30)
    assert counts(engine, tables) == {("quick", None): 10, ("slow", ADA): 1}


def test_a_resolver_that_queries_and_captures(engine: sa.Engine, tables: Tables, tracker: Tracker) -> None:
    """By the host's own connection, of which there is one, about the very rows that are being written."""
    host = sa.create_engine(engine.url, pool_size=1, max_overflow=0)
    asks = tracker.tracks("asks")(nothing)

    def queries(number: int) -> Any:
        asks()
        with host.begin() as connection:
            connection.execute(sa.select(tables.usage).with_for_update()).all()
        return ADA

    @tracker.tracks("follow", user=queries)
    def follow(number: int) -> None: ...

    def work() -> None:
        for number in range(50):
            follow(number)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    host.dispose()
    assert tracker.flush(30)
    assert counts(engine, tables) == {("asks", None): 150, ("follow", ADA): 150}


# ---- the clock


class Clock:
    """The wall clock that the package reads, which somebody sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off = dt.timedelta()
        right_ns, right = time.time_ns, ledger.utcnow
        monkeypatch.setattr(time, "time_ns", lambda: right_ns() + int(self.off.total_seconds()) * 10**9)
        for module in (ledger, store):
            monkeypatch.setattr(module, "utcnow", lambda: right() + self.off)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_the_wall_clock_jumps(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    database: Database = request.getfixturevalue(kind)
    engine = database.engine()
    tables = made(engine)
    now = sa.text("SELECT timezone('UTC', now())" if kind == "postgresql" else "SELECT UTC_TIMESTAMP(6)")
    tracker = Tracker(database.url, Settings(flush_interval=0.05))
    clock = Clock(monkeypatch)
    latest = dt.datetime.min
    for turn, days in enumerate((0, 1000, -1000, 0, -9000, 9000, 0), 1):
        clock.off = dt.timedelta(days=days)
        tracker.track("plain", user=ADA)
        assert tracker.flush(30), tracker.stats()
        with engine.connect() as connection:
            last_used = connection.scalar(sa.select(tables.usage.c.last_used))
            assert last_used is not None
            assert latest <= last_used <= connection.scalar(now)
        latest = last_used
        assert total(engine, tables) == turn
    assert balanced(tracker.stats())
    assert tracker.shutdown(30)
    assert all_of(engine, tables.writers) == []


JUMPS = """
import os, signal, sys, time
import usage_instrument as usage
right, off = time.time_ns, 0
time.time_ns = lambda: right() + off * 86400 * 10**9
usage.configure(flush_interval=3600)
for off in (0, 1000, -1000, -9000, 9000):
    usage.track("plain")
    usage._default.tracker()._pipeline._aggregator.aggregate()  # which writes down what the time is
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_wall_clock_jumps_and_the_process_is_killed(
    postgresql: Database, engine: sa.Engine, tables: Tables, tmp_path: Path
) -> None:
    environ = {"USAGE_INSTRUMENT_DATABASE_URL": postgresql.url, "USAGE_INSTRUMENT_JOURNAL": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", JUMPS], env={**os.environ, **environ}, check=False)
    assert done.returncode == -9
    tracker = Tracker(postgresql.url, Settings(journal=str(tmp_path)))
    tracker.track("plain")
    assert tracker.flush(30)
    assert tracker.shutdown(30)
    assert total(engine, tables) == 6
    assert list(tmp_path.iterdir()) == []
    with engine.connect() as connection:
        assert connection.scalar(sa.select(tables.usage.c.last_used <= sa.func.timezone("UTC", sa.func.now())))


# ---- gevent


def test_the_hub_of_gevent_turns_while_the_database_stalls(
    postgresql: Database, engine: sa.Engine, tables: Tables
) -> None:
    with through(postgresql) as proxy:
        program = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hub.py"))],
            env={**os.environ, "USAGE_INSTRUMENT_DATABASE_URL": url_through(proxy, postgresql.url)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert program.stdin is not None
            assert program.stdout is not None
            well = json.loads(program.stdout.readline())
            proxy.blackhole()
            program.stdin.write("\n")
            program.stdin.flush()
            stalled = json.loads(program.stdout.readline())
            swallowed = proxy.swallowed
            proxy.mend()
            program.communicate("\n", timeout=60)
        finally:
            program.kill()
            program.wait()
    assert program.returncode == 0
    assert (well["pending"], stalled["pending"]) == (0, 1)
    assert swallowed > 0
    assert stalled["ticks"] > well["ticks"] / 2
    assert total(engine, tables) == 2
