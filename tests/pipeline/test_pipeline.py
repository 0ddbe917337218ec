"""Buffer, aggregator and writer as one: no use is out of sight on its way from one to the next."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from conftest import Database
from reading import balanced, made, total
from usage_instrument import Tracker
from usage_instrument.capture.registry import Catalog
from usage_instrument.pipeline.aggregator import Aggregator
from usage_instrument.pipeline.backend import Backend
from usage_instrument.pipeline.pipeline import Pipeline
from usage_instrument.pipeline.writer import Writer
from usage_instrument.runtime import threads
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId


def test_what_the_folder_has_in_hand_is_waited_for(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    settings = Settings()
    backend = Backend(sqlite.url, settings, tables)
    in_hand, go_on = threading.Event(), threading.Event()

    def canonical(user: UserId) -> UserId:
        in_hand.set()
        assert go_on.wait(60)
        return user

    pipeline = Pipeline(settings, backend, Catalog(), canonical, lambda: None)
    pipeline.buffer.plain("search").append(UUID(int=1))
    pipeline.arm()
    assert in_hand.wait(60)
    hasty = pipeline.request_flush(0.01, final=True)  # as a tracker that another one replaces
    assert hasty is not None
    assert not hasty.wait()
    patient = pipeline.request_flush(60, final=True)
    assert patient is not None
    go_on.set()
    assert patient.wait()
    assert pipeline.closed(patient)
    assert balanced(pipeline.stats())
    assert total(engine, tables) == 1


@pytest.fixture
def tracker(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    """In a process without requests: only its own threads write."""
    monkeypatch.setattr(threads, "_RECOVERY", 0.01)
    made(sqlite.engine())
    tracker = Tracker(sqlite.url, Settings(flush_interval=0.05))
    yield tracker
    tracker.shutdown()


def _is_gone(thread: threads.BackgroundThread[Any]) -> bool:
    return not thread.is_alive


def until(is_reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("part", "method", "name"), [(Aggregator, "aggregate", "aggregator"), (Writer, "write", "writer")]
)
def test_an_exception_of_a_cycle_is_shown_and_survived(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, part: type, method: str, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    tracker.track("f")
    until(lambda: tracker.stats().written == 1)
    with monkeypatch.context() as patch:
        patch.setattr(part, method, fail)
        tracker.track("f")
        until(lambda: tracker.stats().last_error)
        assert tracker.stats().last_error == f"the {name} failed: ZeroDivisionError raised"
        assert not tracker.flush(60), "answered at once, although the cycle failed"
    until(lambda: tracker.stats().written == 2)
    until(lambda: tracker.stats().last_error is None)
    assert balanced(tracker.stats())


def test_a_log_filter_of_the_host_that_raises_stops_nothing(tracker: Tracker) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError(record)

    logger = logging.getLogger("usage_instrument")
    logger.addFilter(fail)
    try:
        tracker.track("")  # rejected, which is worth a line
        tracker.track("f")
        until(lambda: tracker.stats().written == 1)
        tracker.identify(object())
        tracker.track("f", metadata={"a": object()})
        until(lambda: tracker.stats().written == 2)
    finally:
        logger.removeFilter(fail)
    assert (tracker.stats().rejected, tracker.stats().metadata_lost) == (1, 1)
    assert tracker.stats().last_error is None


def test_a_thread_that_is_gone_is_revived(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tracker._pipeline
    tracker.track("f")
    until(lambda: tracker.stats().written == 1)

    def leave(*_: object, **__: object) -> None:
        raise SystemExit

    for part, method, thread in (
        (Writer, "write", pipeline._writing),
        (Aggregator, "aggregate", pipeline._aggregating),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(part, method, leave)
            until(partial(_is_gone, thread))
        tracker.track("f", metadata={"a": 1})
    until(lambda: tracker.stats().written == 3)


def test_the_end_of_a_request_revives_threads(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tracker._pipeline

    @tracker.tracks("f")
    def used() -> None: ...

    used()
    until(lambda: tracker.stats().written == 1)

    def leave(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Aggregator, "aggregate", leave)
        until(lambda: not pipeline._aggregating.is_alive)
    used()  # a plain use only appends
    pipeline._relieved = 0.0
    tracker.request_ended()
    until(lambda: tracker.stats().written == 2)


def test_threads_that_cannot_run_leave_their_work_to_the_end_of_a_request(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in uWSGI without `--enable-threads`: a thread starts, and never runs."""
    started: list[Any] = []
    monkeypatch.setattr(threads, "start", started.append)
    for _ in range(3):
        tracker.track("f", metadata={"a": 1})
        tracker.request_ended()
    assert (len(started), tracker.stats().written) == (2, 0)
    pipeline = tracker._pipeline
    pipeline._started -= 31
    pipeline._relieved = 0.0
    tracker.request_ended()
    assert tracker.stats().written == 3
    own = [run for run in started if getattr(run, "__self__", None) in (pipeline._aggregating, pipeline._writing)]
    assert len(own) == 2, "starts do not pile up"
    for run in started:
        threading.Thread(target=run, daemon=True).start()


def test_a_use_during_the_last_batch_starts_the_threads_again(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = Writer._end

    def end_late(writer: Writer, **options: Any) -> None:
        tracker.track("f")
        end(writer, **options)

    monkeypatch.setattr(Writer, "_end", end_late)
    tracker.track("f")
    assert tracker.shutdown(60)
    monkeypatch.undo()
    until(lambda: tracker.stats().written == 2)
