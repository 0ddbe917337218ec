"""A connection whose server does not answer ends; one that is only busy for long does not."""

from __future__ import annotations

import contextlib
import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import psycopg
import pytest
import sqlalchemy as sa

from conftest import Database
from usage_instrument.database import engines, socket_watchdog
from usage_instrument.database.connections import Connector
from usage_instrument.database.socket_watchdog import SocketWatchdog

PATIENCE = 60.0
"""Seconds for a statement that succeeds, however busy the machine is."""


@pytest.fixture(params=["url", "async_url"])
def url(request: pytest.FixtureRequest, postgresql: Database) -> str:
    return str(getattr(postgresql, request.param))


def sleep(connection: sa.Connection, seconds: float) -> None:
    connection.execute(sa.text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


def look(connector: Connector) -> None:
    """Have its watchdog look at once, and wait until it has."""
    assert connector._watchdog is not None
    thread = connector._watchdog._thread
    for _ in range(2):  # the second one begins after the first has ended
        before = thread.last_cycle
        thread.put(None)
        _wait_until(lambda: not thread.is_alive or thread.last_cycle != before)  # noqa: B023


@contextlib.contextmanager
def impatient(connector: Connector) -> Iterator[None]:
    """Nothing that must succeed belongs into this block."""
    watchdog = connector._watchdog
    assert watchdog is not None
    patience, watchdog._timeout = watchdog._timeout, 0.1
    look(connector)
    try:
        yield
    finally:
        watchdog._timeout = patience


def assert_given_up(connector: Connector) -> None:
    def silent(connection: sa.Connection) -> None:
        with impatient(connector):
            sleep(connection, 60)

    with pytest.raises(sa.exc.DBAPIError):
        connector.run(silent)


def test_a_statement_without_an_answer_fails_and_the_next_has_a_new_connection(url: str) -> None:
    connector = engines.connect(url, PATIENCE)
    before = connector.run(lambda connection: connection.scalar(sa.text("SELECT pg_backend_pid()")))
    assert_given_up(connector)
    after = connector.run(lambda connection: connection.scalar(sa.text("SELECT pg_backend_pid()")))
    assert after != before
    connector.dispose()


def test_one_thread_watches_many_short_statements_and_ends_after_the_last(url: str) -> None:
    connector = engines.connect_committing(url, PATIENCE)
    before = _threads()
    for _ in range(20):
        connector.run(lambda connection: sleep(connection, 0))
    assert len(_threads() - before) == 1
    assert_given_up(connector)
    connector.run(lambda connection: sleep(connection, 0))
    with impatient(connector):
        _wait_until(lambda: not _threads() - before)
    connector.run(lambda connection: sleep(connection, 0))
    assert_given_up(connector)  # a thread lives again
    connector.dispose()


def _threads() -> set[str]:
    """By the numbers of the system: Python soon gives the number of a thread that ended to another one."""
    return set(os.listdir("/proc/self/task"))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_statement_has_the_whole_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + now)
    monkeypatch.setattr(socket_watchdog, "time", clock)
    connector = engines.connect_committing(url, PATIENCE)

    def four(connection: sa.Connection) -> None:
        nonlocal now
        for _ in range(4):
            sleep(connection, 0)
            now += PATIENCE / 2
            look(connector)

    connector.run(four)
    assert now > PATIENCE, "together they took longer than one may"
    connector.dispose()


def test_without_a_limit_on_statements_there_is_none_on_answers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "GRACE", 0.1)
    connector = engines.connect(url, statement_timeout=0)
    before = _threads()

    def half_a_second(connection: sa.Connection) -> set[str]:
        sleep(connection, 0.5)
        return _threads()

    assert connector.run(half_a_second) <= before, "nothing watches"
    connector.dispose()


def test_the_hosts_own_connections_are_not_watched(postgresql: Database) -> None:
    host = postgresql.engine()
    connector = engines.connect(host, PATIENCE)
    with host.connect() as theirs:
        alive = sa.text("SELECT 1")
        assert_given_up(connector)
        assert theirs.scalar(alive) == 1
    connector.dispose()


def test_a_connection_that_fails_at_its_first_questions_leaves_no_descriptor(postgresql: Database) -> None:
    engine = postgresql.engine()
    closed = []

    @sa.event.listens_for(engine, "connect")
    def lose(connection: psycopg.Connection, _: object) -> None:
        connection.close()
        closed.append(connection)
        raise OSError

    watchdog = SocketWatchdog(engine, 60)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with contextlib.suppress(OSError), watchdog.watching():
            engine.connect()
    assert len(closed) == 5
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_engine_that_is_dropped_with_its_connection_leaves_no_descriptor_and_says_nothing(
    postgresql: Database,
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    connector = engines.connect(postgresql.url, statement_timeout=5)
    connector.run(lambda connection: connection.scalar(sa.text("SELECT 1")))
    deadline = time.monotonic() + 30
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del connector
        while gc.collect() or len(os.listdir("/proc/self/fd")) > before:  # its thread may be about to end
            assert [one for one in said if "unclosed" in str(one.message)] == []
            said.clear()  # psycopg's own, which holds what it is about
            assert time.monotonic() < deadline
