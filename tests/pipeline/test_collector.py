"""Processes that hand their journals over, and the collector that writes them."""

from __future__ import annotations

import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import forked
from conftest import Database
from reading import all_of, balanced, counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.errors import AuditUnavailable, ConfigurationError
from usage_instrument.events import canonical_user
from usage_instrument.pipeline import hand_over
from usage_instrument.pipeline.backend import Backend
from usage_instrument.pipeline.collector import Collector
from usage_instrument.pipeline.journal import Directory, directories
from usage_instrument.schema import Tables

ADA, BOB = uuid.UUID(int=1), uuid.UUID(int=2)
KEY = "k" * 32


class Host:
    """A host with an app and a collector, whose cycles the test runs."""

    def __init__(self, database: Database, root: Path) -> None:
        self.engine = database.engine()
        self.tables: Tables = made(self.engine)
        self.url, self.root = database.url, root
        self._trackers: list[Tracker] = []

    def app(self, database: str | None = None, **settings: Any) -> Tracker:
        given: dict[str, Any] = {"flush_interval": 3600, **settings}
        tracker = Tracker(database, Settings(writer="collector", journal=str(self.root), **given))
        self._trackers.append(tracker)
        return tracker

    def collector(self, **settings: Any) -> Collector:
        given = Settings(journal=str(self.root), privacy_key=KEY, **settings)
        return Collector(str(self.root), Backend(self.url, given, None), given, canonical_user("uuid"))

    def collect(self) -> bool:
        """As `usage-instrument collect --once`."""
        return self.collector().run_once(60)

    def handed_over(self, tracker: Tracker) -> None:
        """Hand over what a tracker has captured, and do not wait for the collector."""
        tracker.flush(0)
        pipeline = tracker._pipeline
        assert pipeline.journal is not None
        until(lambda: not pipeline.buffer.uses and pipeline.journal.is_blank)  # type: ignore[union-attr]
        with pipeline.hold():
            pass  # the former directory, which a collector leaves alone while it is locked, is released now

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.shutdown()


def until(holds: Callable[[], bool]) -> None:
    """Wait for the thread that hands over."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def host(sqlite: Database, tmp_path: Path) -> Iterator[Host]:
    host = Host(sqlite, tmp_path / "journals")
    yield host
    host.close()


def test_an_app_without_a_database_is_written_by_the_collector(host: Host) -> None:
    """Figures, rejections, metadata and declared features travel; nothing is left."""
    app = host.app(service="shop")
    app.catalog.declare("export", description="Exports a report")
    collector = host.collector()
    assert collector.acquire()
    collector.start()
    for user in (ADA, ADA, BOB, None):
        app.track("export", user=user, metadata={"format": "csv"})
    app.track("export", user="nobody", count=2)
    app.track("export", user=BOB, metadata={"no": object()})
    assert app.flush(60)
    stats = app.stats()
    assert balanced(stats)
    assert (stats.captured, stats.written, stats.pending, stats.rejected, stats.metadata_lost) == (7, 5, 0, 2, 1)
    assert counts(host.engine, host.tables) == {("export", ADA): 2, ("export", BOB): 2, ("export", None): 1}
    (feature,) = all_of(host.engine, host.tables.catalog)
    assert (feature.service, feature.feature_name, feature.description) == ("shop", "export", "Exports a report")
    (loss,) = all_of(host.engine, host.tables.losses)
    assert (loss.reason, loss.uses) == ("user id of another type", 2)
    assert app.shutdown()
    assert collector.stop(60).wait()
    assert [path.name for path in host.root.iterdir()] == ["collector"]
    assert all_of(host.engine, host.tables.writers) == []


def test_a_process_hands_over_one_directory_at_a_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_over, "_SILENCE", 0.0)
    app = host.app(flush_interval=0.05)
    app.track("f", user=ADA)
    host.handed_over(app)
    for _ in range(3):
        app.track("f", user=ADA)
        assert not app.flush(0.1)
    assert len(list(directories(str(host.root)))) == 2
    stats = app.stats()
    assert (stats.captured, stats.written, stats.pending) == (4, 0, 4)
    assert stats.last_error is not None
    assert "usage-instrument collect --journal" in stats.last_error
    assert host.collect()
    app.flush(0)
    host.handed_over(app)
    assert host.collect()
    assert app.flush(60)
    assert (app.stats().written, app.stats().last_error) == (4, None)
    assert counts(host.engine, host.tables) == {("f", ADA): 4}


def test_a_collector_that_is_killed_after_each_step(host: Host) -> None:
    """The next one takes over what the former has, and acknowledges it no sooner."""
    app = host.app()

    def captured() -> None:
        app.track("f", user=ADA)
        host.handed_over(app)

    captured()
    former = host.collector()
    former._journal.try_open()
    former._take_over()
    _die(former)
    assert host.collect()
    assert counts(host.engine, host.tables) == {("f", ADA): 1}

    captured()
    former = host.collector()
    former._journal.try_open()
    former._take_over()
    former._aggregator.aggregate()
    former.writer.batcher.take()
    assert former.writer.batcher.next(former.writer.ready()[1], audits=True)  # which has made the snapshot
    _die(former)
    assert not app.flush(0)
    assert host.collect()
    assert counts(host.engine, host.tables) == {("f", ADA): 2}

    captured()
    former = host.collector()
    former._acknowledge = lambda: None  # type: ignore[method-assign]
    former.collect()
    _die(former)
    assert counts(host.engine, host.tables) == {("f", ADA): 3}
    assert app.stats().written == 2
    assert host.collect()
    assert counts(host.engine, host.tables) == {("f", ADA): 3}
    assert app.stats().written == 3


def _die(collector: Collector) -> None:
    """As by kill -9: the kernel releases the locks."""
    assert collector._journal.directory is not None
    for directory in (*collector._taken, collector._journal.directory):
        directory.release()
    collector._lock.release()
    if collector.writer._store is not None:
        collector.writer._store.dispose()


def test_a_move_that_is_interrupted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dictionary is in both journals then, and the slots in one."""
    app = host.app()
    app.track("f", user=ADA)
    host.handed_over(app)
    former, moved = host.collector(), Directory.take_over

    def interrupted(self: Directory, source: Directory, name: str, to: str, *, keep: bool = False) -> None:
        if not keep:
            raise OSError("interrupted")
        moved(self, source, name, to, keep=keep)

    former._journal.try_open()
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "take_over", interrupted)
        former._take_over()
    _die(former)
    assert host.collect()
    assert app.flush(60)
    assert counts(host.engine, host.tables) == {("f", ADA): 1}


def test_a_dead_process_and_a_fork(host: Host) -> None:
    script = f"""
        import os, signal, uuid
        from usage_instrument import Settings, Tracker
        tracker = Tracker(None, Settings(writer="collector", journal={str(host.root)!r}, flush_interval=3600))
        tracker.track("f", user=uuid.UUID(int=1))
        child = os.fork()
        tracker.track("f", user=uuid.UUID(int=2))
        if child:
            os.waitpid(child, 0)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert forked.run(textwrap.dedent(script)).returncode == -9
    assert host.collect()
    assert counts(host.engine, host.tables) == {("f", ADA): 1, ("f", BOB): 2}


def test_uses_that_are_not_written_are_read(host: Host) -> None:
    app = host.app(host.url)
    app.track("f", user=ADA)
    assert app.count(ADA, "f") == 1
    host.handed_over(app)
    assert host.collect()
    app.track("f", user=ADA, count=2)
    app.track("f", user=BOB)
    assert app.count(ADA, "f") == 3
    with pytest.raises(ConfigurationError, match="pass its URL"):
        host.app().count(ADA, "f")


def test_a_user_is_erased_from_what_waits(host: Host) -> None:
    app = host.app(host.url, privacy_key=KEY, flush_interval=0.05)
    app.track("f", user=ADA)
    app.track("f", user=BOB)
    collector = host.collector(flush_interval=0.05)
    assert collector.acquire()
    collector.start()
    receipt = app.privacy.forget(ADA, force=True)
    assert receipt.journals == ()
    app.track("f", user=ADA)
    assert app.flush(60)
    assert counts(host.engine, host.tables) == {("f", BOB): 1}
    assert collector.stop(60).wait()


def test_two_collectors(host: Host) -> None:
    first, second = host.collector(), host.collector()
    assert first.acquire()
    assert not second.acquire()
    assert first.run_once(60)
    assert second.acquire()
    assert second.run_once(60)


def test_a_full_journal_keeps_uses_in_memory_and_then_drops_them(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    app = host.app(max_pending=10, journal_max_bytes=1)
    app.track("f", user=ADA)
    pipeline = app._pipeline
    assert pipeline.journal is not None
    put, pipeline.journal.put = pipeline.journal.put, lambda entry: False  # type: ignore[method-assign]
    for number in range(8):
        app.track("f", user=ADA, metadata={"n": number})
    assert not app.flush(60)
    assert app.stats().pending == 9
    for number in range(8):
        app.track("f", user=ADA, metadata={"n": number})
    assert app.flush(0) is False
    until(lambda: app.stats().dropped > 0)
    assert balanced(app.stats())
    pipeline.journal.put = put  # type: ignore[method-assign]
    collector = host.collector()
    assert collector.acquire()
    collector.start()
    assert app.flush(60)
    assert collector.stop(60).wait()
    assert "the journal takes no more" in caplog.text
    lost = sum(loss.uses for loss in all_of(host.engine, host.tables.losses))
    assert lost == app.stats().dropped == 16
    assert counts(host.engine, host.tables) == {("f", ADA): 1}


def test_what_needs_a_database_says_so(host: Host) -> None:
    with pytest.raises(ConfigurationError, match="needs the setting journal"):
        Tracker(None, Settings(writer="collector"))
    app = host.app()
    with pytest.raises(AuditUnavailable, match="pass its URL"):
        app.track("f", user=ADA, audit="required")
    app.track("f", user=ADA, audit=True)
    host.handed_over(app)
    assert host.collect()
    (access,) = all_of(host.engine, host.tables.access)
    assert access.feature_name == "f"
