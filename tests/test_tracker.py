"""One tracker, from the capture to the row."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import usage_instrument as usage
from conftest import Database
from reading import all_of, balanced, counts, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.audit.insert import AccessInsert
from usage_instrument.errors import ConfigurationError, FeatureNameError, MetadataError, UserIdError
from usage_instrument.schema import Tables

ADA = uuid.UUID(int=2**100)


@pytest.fixture
def ready(database: Database) -> Iterator[tuple[Tracker, sa.Engine, Tables]]:
    engine = database.engine()
    tables = made(engine)
    tracker = Tracker(database.url, Settings(flush_interval=3600))
    yield tracker, engine, tables
    tracker.shutdown()


def test_uses_become_rows(ready: tuple[Tracker, sa.Engine, Tables]) -> None:
    tracker, engine, tables = ready

    @tracker.tracks("decorated", user_arg="user")
    def decorated(user: uuid.UUID | None) -> None: ...

    for _ in range(3):
        decorated(ADA)
    decorated(None)
    tracker.track("by_hand", user=str(ADA), metadata={"format": "csv"}, count=2)
    assert tracker.flush(30)
    assert counts(engine, tables) == {("decorated", ADA): 3, ("decorated", None): 1, ("by_hand", ADA): 2}
    (row,) = [row for row in all_of(engine, tables.usage) if row.feature_name == "by_hand"]
    assert row.metadata == {"format": "csv"}
    stats = tracker.stats()
    assert (stats.captured, stats.written, stats.pending) == (6, 6, 0)


def test_shutdown_writes_and_the_next_capture_starts_anew(ready: tuple[Tracker, sa.Engine, Tables]) -> None:
    tracker, engine, tables = ready
    writers = set()
    for round_ in range(1, 4):
        tracker.track("f")
        assert tracker.flush(30)
        writers.add(tracker.stats().writer_id)
        tracker.track("f")
        assert tracker.shutdown()
        assert total(engine, tables) == 2 * round_
        assert all_of(engine, tables.writers) == []
        assert tracker.stats().heartbeat is None
    assert len(writers) == 3


def test_accesses_committed_during_a_shutdown_are_in_the_figures(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(sqlite.engine())
    tracker = Tracker(sqlite.url, Settings(flush_interval=3600, audit_timeout=60))
    at_commit, go_on = threading.Event(), threading.Event()
    run = AccessInsert.run

    def run_late(self: AccessInsert, *arguments: Any, **options: Any) -> None:
        at_commit.set()
        assert go_on.wait(60)
        run(self, *arguments, **options)

    monkeypatch.setattr(AccessInsert, "run", run_late)
    call = threading.Thread(target=lambda: tracker.track("vault", user=ADA, audit="required"))
    call.start()
    assert at_commit.wait(60)
    shutdown = threading.Thread(target=lambda: tracker.shutdown(60))
    shutdown.start()
    go_on.set()
    call.join()
    shutdown.join()
    assert tracker.stats().audited == 1
    assert tracker.shutdown(60), "the use itself may have come after the last batch"


def test_flushing_and_ending_without_a_use_opens_nothing(sqlite: Database) -> None:
    tracker = Tracker(sqlite.url, Settings())
    assert tracker.flush(30)
    assert tracker.shutdown()
    assert sa.inspect(sqlite.engine()).get_table_names() == []


def test_async_flush_and_shutdown(ready: tuple[Tracker, sa.Engine, Tables]) -> None:
    tracker, engine, tables = ready

    async def main() -> None:
        tracker.track("f")
        assert await tracker.aflush()
        assert total(engine, tables) == 1
        tracker.track("f")
        assert await tracker.ashutdown()

    asyncio.run(main())
    assert total(engine, tables) == 2


def test_threads_lose_nothing(ready: tuple[Tracker, sa.Engine, Tables]) -> None:
    tracker, engine, tables = ready

    @tracker.tracks("hot")
    def hot() -> None: ...

    def work() -> None:
        for number in range(5000):
            hot()
            if number % 100 == 0:
                tracker.track("rich", metadata={"n": number})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        tracker.flush()
    for thread in threads:
        thread.join()
    assert tracker.flush(30)
    assert total(engine, tables, "hot") == 20_000
    assert total(engine, tables, "rich") == 200
    assert balanced(tracker.stats())


@pytest.mark.parametrize("kind", ["url", "engine"])
def test_async_databases(database: Database, kind: str) -> None:
    engine = database.engine()
    tables = made(engine)

    async def main() -> None:
        theirs = create_async_engine(database.async_url)
        tracker = Tracker(database.async_url if kind == "url" else theirs, Settings(flush_interval=3600))
        for number in range(3):
            tracker.track("f", user=ADA, metadata={"number": number})
            assert await tracker.aflush(), tracker.stats()
        assert await tracker.ashutdown()
        async with theirs.connect() as connection:  # untouched by the writer, in the host's own loop
            assert await connection.scalar(sa.select(tables.usage.c.usage_count)) == 3
        await theirs.dispose()

    asyncio.run(main())
    assert all_of(engine, tables.writers) == []


def test_the_hosts_engine_is_not_used(database: Database) -> None:
    engine = database.engine()
    tables = made(engine)
    host = database.engine()
    tracker = Tracker(host, Settings(flush_interval=3600))
    with host.connect() as connection:
        if database.name != "sqlite":  # where an open transaction would keep the writer out, as it should
            connection.execute(tables.losses.delete())
        tracker.track("f")
        assert tracker.flush(30)
        assert host.pool.status() == connection.engine.pool.status()
    assert tracker.shutdown()
    assert total(engine, tables) == 1


def test_memory_is_bounded_and_what_is_dropped_is_told(database: Database) -> None:
    engine = database.engine()
    tracker = Tracker(database.url, Settings(flush_interval=3600, max_pending=10, user_id_type="integer"))
    for user in range(25):
        tracker.track("f", user=user)
    assert not tracker.flush(), "there are no tables"
    for user in range(25):
        tracker.track("f", user=user)
    assert not tracker.flush()
    tables = made(engine, user_id_type="integer")
    assert tracker.flush(30)
    stats = tracker.stats()
    assert (stats.captured, stats.dropped, stats.pending) == (50, 30, 0)
    assert total(engine, tables) == stats.written == 20
    tracker.shutdown()
    assert [(row.reason, row.uses) for row in all_of(engine, tables.losses)] == [("memory full", 30)]


def test_bad_captures_raise_nothing_and_are_counted(ready: tuple[Tracker, sa.Engine, Tables]) -> None:
    tracker, engine, tables = ready
    bad: Any
    for bad in ("", "x" * 101, "a\0b", 7, None):
        tracker.track(bad)
    for bad in (7, 1.5, "no uuid", object(), uuid.UUID(int=0), True):
        tracker.track("f", user=bad)
    for bad in (0, -1, "3", True, 2**31):
        tracker.track("f", count=bad)
    for bad in ({"a": float("nan")}, {"a": "\0"}, {"a": "\ud800"}, "text", {"a": object()}, {1: 2}, {"a": "x" * 5000}):
        tracker.track("kept", metadata=bad)
    assert tracker.flush(30)
    stats = tracker.stats()
    assert (stats.captured, stats.rejected, stats.written, stats.metadata_lost) == (23, 16, 7, 6)
    assert balanced(stats)
    assert counts(engine, tables) == {("kept", None): 7}
    assert sum(row.uses for row in all_of(engine, tables.losses)) == 16


def test_strict_turns_mistakes_into_exceptions(sqlite: Database) -> None:
    tracker = Tracker(sqlite.url, Settings(strict=True))
    with pytest.raises(FeatureNameError):
        tracker.track("")
    with pytest.raises(UserIdError):
        tracker.track("f", user=7)
    with pytest.raises(MetadataError):
        tracker.track("f", metadata={"a": object()})
    with pytest.raises(MetadataError):
        tracker.track("f", metadata={"a": float("nan")})
    with pytest.raises(MetadataError, match="metadata_max_bytes"):
        tracker.track("f", metadata={"a": "x" * 5_000})
    with pytest.raises(ValueError, match="count"):
        tracker.track("f", count=0)
    with pytest.raises(UserIdError):
        tracker.as_user(object())
    assert tracker.stats().captured == 0


def test_disabled_captures_nothing_and_needs_no_database() -> None:
    tracker = Tracker(None, Settings(enabled=False))

    @tracker.tracks("f")
    def f() -> int:
        return 1

    assert f() == 1
    tracker.track("g")
    assert tracker.stats() == usage.Stats()
    assert tracker.flush(30)


def test_a_shutdown_that_nobody_waits_for_ends_as_any_other(ready: tuple[Tracker, sa.Engine, Tables]) -> None:
    tracker, engine, tables = ready

    async def main() -> None:
        shutdown = asyncio.create_task(tracker.ashutdown(60))
        await asyncio.sleep(0)  # begun, and not ended
        shutdown.cancel()

    tracker.track("f")
    asyncio.run(main())
    deadline = time.monotonic() + 60
    while not total(engine, tables):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(10):
        tracker.track("f")
    assert tracker.flush(60)
    assert total(engine, tables) == 11


def test_what_a_hosts_own_code_says_is_not_logged(
    ready: tuple[Tracker, sa.Engine, Tables], caplog: pytest.LogCaptureFixture
) -> None:
    tracker, _, _ = ready

    @tracker.tracks("f", user=lambda address: int(address))
    def f(address: str) -> None: ...

    f("ada@example.com")
    assert tracker.flush(30)
    assert tracker.stats().rejected == 1
    assert "ValueError raised" in caplog.text
    assert "example.com" not in caplog.text


def test_tables_are_told_from_models(sqlite: Database) -> None:
    with pytest.raises(ConfigurationError, match=r"Tables\.of\(Model\), not type"):
        Tracker(sqlite.url, Settings(), type("FeatureUsage", (), {}))  # type: ignore[arg-type]


def test_no_password_shows() -> None:
    tracker = Tracker("postgresql+psycopg://me:hunter2@127.0.0.1:1/none", Settings(flush_interval=3600))
    tracker.track("f")
    assert not tracker.flush(0.5)
    assert "hunter2" not in repr(tracker) + str(tracker.stats())
    assert tracker.stats().pending == 1
    tracker.shutdown(0.1)
