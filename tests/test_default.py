"""The configured tracker: configured twice, differently, by the environment, under pytest, or not at all."""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import usage_instrument as usage
from conftest import Database
from reading import balanced, counts, made, total
from usage_instrument import _default
from usage_instrument.capture.registry import Unconfigured, declared
from usage_instrument.errors import ConfigurationError, UserIdError
from usage_instrument.schema import Tables, define_tables
from usage_instrument.settings import SettingOptions
from usage_instrument.stats import Stats


@usage.tracks("test_current.plain")
def plain() -> None:
    """A tracked function."""


@pytest.fixture
def tables(sqlite: Database) -> Tables:
    return made(sqlite.engine())


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("USAGE_INSTRUMENT_") and name != "USAGE_INSTRUMENT_ENABLED":
            monkeypatch.delenv(name)


# ---- not configured


def test_without_a_configuration_nothing_happens_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    declared.attach(Unconfigured(declared))
    for _ in range(3):
        plain()
        usage.track("export", user=5, metadata={"a": 1})
        usage.track("", user=object())
        usage.identify(5)
        usage.discard()
        with usage.as_user(5), usage.paused():
            usage.track("export")
    assert usage.flush() is True
    assert usage.shutdown() is True
    assert asyncio.run(usage.aflush()) is True
    assert asyncio.run(usage.ashutdown()) is True
    assert usage.stats() == Stats()
    assert _default.tracker() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is not configured" in caplog.text


def test_no_database_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"pass its URL .* \$USAGE_INSTRUMENT_DATABASE_URL"):
        usage.configure(enabled=True)
    assert _default.tracker() is None


def test_a_wrong_setting_is_told_and_changes_nothing(sqlite: Database) -> None:
    tracker = usage.configure(sqlite.url)
    with pytest.raises(TypeError, match="did you mean 'service'"):
        usage.configure(sqlite.url, servise="web")  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="flush_rows"):
        usage.configure(sqlite.url, flush_rows=0)
    with pytest.raises(ConfigurationError, match="in-memory"):
        usage.configure("sqlite://")
    assert _default.tracker() is tracker
    assert declared.recorder is tracker


# ---- configured


def test_uses_before_and_after(sqlite: Database, tables: Tables) -> None:
    plain()
    tracker = usage.configure(sqlite.url)
    plain()
    usage.track("export", count=2)
    with usage.as_user("00000000-0000-0000-0000-000000000007"):
        plain()
    assert usage.flush(60) is True
    assert total(sqlite.engine(), tables) == 4
    assert usage.stats().writer_id == tracker.stats().writer_id is not None
    assert usage.stats().written == 4
    assert balanced(usage.stats())
    usage.shutdown(60)
    plain()
    assert usage.shutdown(60) is True
    assert total(sqlite.engine(), tables) == 5


def test_from_a_coroutine(sqlite: Database, tables: Tables) -> None:
    async def main() -> tuple[bool, bool]:
        usage.configure(sqlite.url)
        plain()
        flushed = await usage.aflush(60)
        plain()
        return flushed, await usage.ashutdown(60)

    assert asyncio.run(main()) == (True, True)
    assert total(sqlite.engine(), tables) == 2


def test_a_serverless_handler_writes_before_it_returns(sqlite: Database, tables: Tables) -> None:
    engine = sqlite.engine()
    usage.configure(engine, flush_interval=3600)

    @usage.flush_after
    @usage.tracks("export")
    def handle(event: dict[str, int]) -> int:
        usage.track("begin")
        return event["result"]

    @usage.flush_after
    async def handle_later() -> None:
        usage.track("later")

    assert handle({"result": 3}) == 3
    assert counts(engine, tables) == {("begin", None): 1, ("export", None): 1}
    with pytest.raises(KeyError):
        handle({})
    assert counts(engine, tables) == {("begin", None): 2, ("export", None): 1}
    asyncio.run(handle_later())
    assert counts(engine, tables)["later", None] == 1
    assert handle.__name__ == "handle"


def test_a_handler_writes_within_the_time_of_its_call(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = usage.configure(sqlite.url, flush_interval=3600)  # without tables: nothing can be written
    timeouts: list[float] = []
    flush, aflush = tracker.flush, tracker.aflush

    class Context:
        def __init__(self, milliseconds: int) -> None:
            self.get_remaining_time_in_millis = lambda: milliseconds

    class Later:
        async def __call__(self, event: None, context: object) -> str:
            usage.track("later")
            return "answered"

    def waits(timeout: float) -> bool:
        timeouts.append(timeout)
        return flush(min(timeout, 0.1))

    async def waits_later(timeout: float) -> bool:
        timeouts.append(timeout)
        return await aflush(min(timeout, 0.1))

    monkeypatch.setattr(tracker, "flush", waits)
    monkeypatch.setattr(tracker, "aflush", waits_later)

    @usage.flush_after
    def handle(event: None, context: object) -> str:
        usage.track("export")
        return "answered"

    assert [handle(None, Context(left)) for left in (60_000, 1_250, 100)] == ["answered"] * 3
    assert handle(None, None) == "answered"
    assert asyncio.run(usage.flush_after(Later())(None, Context(750))) == "answered"
    assert timeouts == [5.0, 1.0, 0.0, 5.0, 0.5]
    assert usage.stats().pending == 5


def test_strict_raises_where_it_is_wrong(sqlite: Database) -> None:
    usage.configure(sqlite.url, strict=True)
    with pytest.raises(UserIdError):
        usage.as_user(object())
    with pytest.raises(UserIdError):
        usage.track("export", user=1.5)
    with pytest.raises(UserIdError):
        usage.track("export", user="no uuid")


# ---- twice


def test_equal_values_give_the_same_tracker(sqlite: Database, caplog: pytest.LogCaptureFixture) -> None:
    engine = sqlite.engine()
    first = usage.configure(sqlite.url, flush_interval=60)
    assert usage.configure(sa.make_url(sqlite.url), flush_interval="1m") is first
    tables = made(engine)
    second = usage.configure(engine, tables=tables)
    assert second is not first
    caplog.clear()
    assert usage.configure(engine, tables=tables) is second
    assert caplog.records == []


def test_an_async_engine_twice_is_the_same(sqlite: Database) -> None:
    engine = create_async_engine(sqlite.async_url)
    assert usage.configure(engine) is usage.configure(engine)
    asyncio.run(engine.dispose())


@pytest.mark.parametrize("change", [{"service": "other"}, {"history": None}, {"strict": True}])
def test_other_values_take_over_with_a_warning(
    sqlite: Database,
    tables: Tables,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
) -> None:
    monkeypatch.setattr(_default, "under_pytest", lambda: False)
    again = "configured again with other values"  # a tracker of another test may log about its own database
    first = usage.configure(sqlite.url)
    plain()
    assert again not in caplog.text
    second = usage.configure(sqlite.url, **change)
    assert second is not first
    assert _default.tracker() is declared.recorder is second
    (record,) = (record for record in caplog.records if again in record.getMessage())
    assert record.levelname == "WARNING"
    assert record.getMessage().count(f"{__file__}:") == 2, "both lines are named"
    plain()
    assert usage.flush(60) is True
    assert first.shutdown(60) is True
    assert (first.stats().written, second.stats().written) == (1, 1)
    assert total(sqlite.engine(), tables, "test_current.plain") == 2


def test_a_factory_of_apps_may_make_its_engine_anew(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_default, "under_pytest", lambda: False)

    def tables() -> Tables:
        return define_tables(sa.MetaData(), users=None)

    first = usage.configure(sqlite.engine(), tables=tables())
    second = usage.configure(sqlite.engine(), tables=tables())
    assert second is not first
    again = "configured again with other values"  # a tracker of another test may log about its own database
    assert again not in caplog.text
    usage.configure(sqlite.engine(), tables=define_tables(sa.MetaData(), users=None, user_id_type="integer"))
    assert again in caplog.text


def test_nothing_is_lost_while_one_takes_over_from_the_other(sqlite: Database, tables: Tables) -> None:
    each, rounds = 2_000, 4
    usage.configure(sqlite.url, service="0")
    start = threading.Barrier(4)

    def use() -> None:
        start.wait()
        for _ in range(each):
            plain()

    threads = [threading.Thread(target=use) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        start.wait()
        trackers = [usage.configure(sqlite.url, service=str(number)) for number in range(1, rounds)]
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for tracker in [*_default._former, *trackers]:
        assert tracker.shutdown(60) is True
        assert balanced(tracker.stats())
    assert total(sqlite.engine(), tables) == 3 * each


def test_one_that_was_replaced_still_takes_what_comes_late(sqlite: Database, tables: Tables) -> None:
    first = usage.configure(sqlite.url)
    plain()
    usage.configure(sqlite.url, service="other")
    assert first.flush(60) is True
    first.track("late")  # a thread that was about to
    assert first.shutdown(60) is True
    assert total(sqlite.engine(), tables, "late") == 1


def test_reset_forgets(sqlite: Database, tables: Tables) -> None:
    usage.configure(sqlite.url)
    plain()
    _default.reset()
    assert total(sqlite.engine(), tables) == 1
    assert _default.tracker() is None
    plain()
    usage.configure(sqlite.url)
    usage.flush(60)
    assert total(sqlite.engine(), tables) == 1


# ---- disabled, and the environment


def test_disabled(sqlite: Database, tables: Tables) -> None:
    for database in (sqlite.url, None):
        tracker = usage.configure(database, enabled=False)
        plain()
        usage.track("export", metadata={"a": [1]})
        usage.track("", user=object())
        assert usage.flush() is True
        assert tracker.stats() == Stats()
        assert repr(tracker).startswith("Tracker(")
    assert total(sqlite.engine(), tables) == 0


@pytest.mark.parametrize("by", ["url", "engine", "environment", "memory"])
def test_under_pytest_nothing_is_written_unless_asked(
    sqlite: Database, tables: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    caplog.set_level(logging.INFO, "usage_instrument")
    monkeypatch.delenv("USAGE_INSTRUMENT_ENABLED")
    monkeypatch.setattr(_default, "is_silent_under_pytest", False)
    if by == "environment":
        monkeypatch.setenv("USAGE_INSTRUMENT_DATABASE_URL", sqlite.url)
    database: Any = {"url": sqlite.url, "engine": sqlite.engine(), "environment": None, "memory": "sqlite://"}[by]
    tracker = usage.configure(database, service="web", privacy_key="a secret of the host's own, long enough")
    assert (tracker.settings.enabled, tracker.settings.service, tracker.database) == (False, "web", None)
    plain()
    assert usage.flush() is True
    assert usage.count(None, "test_current.plain") == 0
    with pytest.raises(ConfigurationError, match="pass enabled=True"):
        usage.forget("6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55")
    assert total(sqlite.engine(), tables) == 0
    usage.configure(database, service="other")  # by the next test's app
    assert _default.is_silent_under_pytest
    assert caplog.text.count("pass enabled=True to configure, or set USAGE_INSTRUMENT_ENABLED=1") == 1
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_under_pytest_an_invalid_url_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USAGE_INSTRUMENT_ENABLED")
    with pytest.raises(ConfigurationError, match="percent-encode"):
        usage.configure("postgresql://app:p@ss@db/app")


@pytest.mark.parametrize("by", ["argument", "environment"])
@pytest.mark.parametrize("in_code", [True, False])
def test_under_pytest_it_writes_when_asked(
    sqlite: Database, tables: Tables, monkeypatch: pytest.MonkeyPatch, by: str, in_code: bool
) -> None:
    monkeypatch.delenv("USAGE_INSTRUMENT_ENABLED")
    if not in_code:
        monkeypatch.setenv("USAGE_INSTRUMENT_DATABASE_URL", sqlite.url)
    if by == "environment":
        monkeypatch.setenv("USAGE_INSTRUMENT_ENABLED", "1")
    options: SettingOptions = {"enabled": True} if by == "argument" else {}
    usage.configure(sqlite.url if in_code else None, **options)
    plain()
    assert usage.flush(60) is True
    assert counts(sqlite.engine(), tables) == {("test_current.plain", None): 1}


def test_a_factory_of_apps_that_runs_once_a_test_does_not_warn(
    sqlite: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usage.configure(sqlite.url)
    usage.configure(f"sqlite:///{tmp_path / 'another.db'}")
    assert caplog.records == []


def test_outside_of_pytest_the_environment_is_enough(sqlite: Database, tables: Tables, tmp_path: Path) -> None:
    script = "import usage_instrument as u; u.configure(); u.track('export', count=3)"
    # Also where a test starts a server: the variable of pytest is inherited, the module is not there.
    environ = {**os.environ, "USAGE_INSTRUMENT_DATABASE_URL": sqlite.url, "USAGE_INSTRUMENT_SERVICE": "web"}
    del environ["USAGE_INSTRUMENT_ENABLED"]
    assert "PYTEST_VERSION" in environ
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert counts(sqlite.engine(), tables) == {("export", None): 3}


def test_ending_and_starting_in_quick_succession_loses_neither_a_use_nor_an_answer(
    sqlite: Database, tables: Tables
) -> None:
    """A thread that is about to end hears of what arrives in that moment."""
    tracker = usage.configure(sqlite.url)
    for number in range(1, 31):
        plain()
        waiting = [tracker.begin_exit(time.monotonic() + 120) for _ in range(2)]
        plain()
        assert all(wait() for wait in waiting)
        assert usage.flush(120) is True
        assert tracker.stats().written == 2 * number
    assert usage.shutdown(120) is True
    assert total(sqlite.engine(), tables) == 60


class Plan(str, enum.Enum):
    PRO = "pro"


def test_strings_are_stored_by_value(sqlite: Database) -> None:
    made(sqlite.engine(), user_id_type="string")
    usage.configure(sqlite.url, user_id_type="string", service=Plan.PRO, users=None)
    usage.track(Plan.PRO, user=Plan.PRO, metadata={Plan.PRO: Plan.PRO}, audit=True)
    usage.tracks(Plan.PRO, description=Plan.PRO)(lambda: None)()
    assert usage.flush()
    with sqlite.engine().connect() as connection:
        rows = connection.execute(
            sa.text("SELECT user_id, feature_name, metadata FROM feature_usage ORDER BY 3 DESC")
        ).all()
        services = connection.execute(sa.text("SELECT service FROM feature_usage_catalog")).scalars().all()
        audited = connection.execute(sa.text("SELECT user_id, feature_name FROM feature_usage_access")).all()
    assert [(row.user_id, row.feature_name) for row in rows] == [("pro", "pro"), (None, "pro")]
    assert json.loads(rows[0].metadata) == {"pro": "pro"}
    assert (set(services), audited) == ({"pro"}, [("pro", "pro")])
