"""Buffer, aggregator and writer as one: no use is out of sight on its way from one to the next."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from conftest import Database, writing_pipeline
from reading import balanced, made, total
from usage_instrument import Tracker
from usage_instrument.capture.registry import Catalog
from usage_instrument.events import canonical_user
from usage_instrument.pipeline.aggregator import Aggregator
from usage_instrument.pipeline.backend import Backend
from usage_instrument.pipeline.flush_request import FlushRequest
from usage_instrument.pipeline.journal import Chunk
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
    pipeline = writing_pipeline(tracker)
    tracker.track("f")
    until(lambda: tracker.stats().written == 1)

    def leave(*_: object, **__: object) -> None:
        raise SystemExit

    for part, method, thread in (
        (Writer, "write", pipeline._writing),
        (Aggregator, "aggregate", pipeline.first_thread),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(part, method, leave)
            until(partial(_is_gone, thread))
        tracker.track("f", metadata={"a": 1})
    until(lambda: tracker.stats().written == 3)


def test_the_end_of_a_request_revives_threads(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = writing_pipeline(tracker)

    @tracker.tracks("f")
    def used() -> None: ...

    used()
    until(lambda: tracker.stats().written == 1)

    def leave(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Aggregator, "aggregate", leave)
        until(lambda: not pipeline.first_thread.is_alive)
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
    pipeline = writing_pipeline(tracker)
    pipeline._started -= 31
    pipeline._relieved = 0.0
    tracker.request_ended()
    assert tracker.stats().written == 3
    own = [run for run in started if getattr(run, "__self__", None) in (pipeline.first_thread, pipeline._writing)]
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


MAX_PENDING = 10


@pytest.fixture
def held_up(sqlite: Database, tmp_path: Path) -> Callable[[int], Pipeline]:
    """A pipeline whose journal holds so many uses, each of another user, of which memory has room for ten at a time.
    Its threads do not run."""

    def make(uses: int) -> Pipeline:
        settings = Settings(journal=str(tmp_path), max_pending=MAX_PENDING, user_id_type="integer")
        tables = made(sqlite.engine(), user_id_type="integer")
        pipeline = Pipeline(
            settings, Backend(sqlite.url, settings, tables), Catalog(), canonical_user("integer"), lambda: None
        )
        assert pipeline.journal is not None
        assert pipeline.journal.try_open()
        for user in range(uses):
            pipeline.journal.sink("search")(user)
        pipeline._aggregator.aggregate()
        assert (pipeline._aggregator.held_up, pipeline.stats().pending) == (True, uses)
        return pipeline

    return make


@pytest.mark.parametrize("final", [False, True], ids=["flush", "shutdown"])
def test_a_flush_writes_what_the_aggregator_reads_from_the_journal_during_a_write(
    held_up: Callable[[int], Pipeline], final: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = 10 * MAX_PENDING + MAX_PENDING // 2
    pipeline = held_up(uses)
    run = pipeline.maintenance.run

    def run_beside_a_cycle(*args: Any, **options: Any) -> None:
        run(*args, **options)
        pipeline._aggregator.aggregate()  # as its thread does, when this cycle of the writer has written its batch

    monkeypatch.setattr(pipeline.maintenance, "run", run_beside_a_cycle)
    request = FlushRequest(60, final=final)
    pipeline.writer.serve(request)
    assert request.answer
    assert (pipeline.stats().written, pipeline.stats().pending) == (uses, 0)


def test_a_flush_during_a_cycle_of_the_aggregator_relies_on_the_cycle_before(
    held_up: Callable[[int], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = held_up(2 * MAX_PENDING)
    journal, aggregator = pipeline.journal, pipeline._aggregator
    assert journal is not None
    take, seen = journal.take, []

    def seen_from_another_thread(size: int, fits: Callable[[Chunk], bool]) -> Chunk | None:
        seen.append(aggregator.held_up)
        try:
            return take(size, fits)
        finally:
            seen.append(aggregator.held_up)

    monkeypatch.setattr(journal, "take", seen_from_another_thread)
    assert pipeline.writer.write()
    aggregator.aggregate()
    assert all(seen)
    assert not aggregator.held_up


@pytest.mark.parametrize("final", [False, True], ids=["flush", "shutdown"])
def test_a_flush_without_time_for_all_of_the_journal_fails(held_up: Callable[[int], Pipeline], final: bool) -> None:
    pipeline = held_up(3 * MAX_PENDING)
    request = FlushRequest(0, final=final)
    pipeline.writer.serve(request)
    assert request.answer is False
    assert (pipeline.stats().written, pipeline.stats().pending) == (MAX_PENDING, 2 * MAX_PENDING)


def test_a_flush_fails_with_the_cycle_of_the_aggregator_that_it_needs(
    held_up: Callable[[int], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = held_up(2 * MAX_PENDING)
    monkeypatch.setattr(pipeline._aggregator, "aggregate", lambda: 1 / 0)
    request = FlushRequest(60)
    with pytest.raises(ZeroDivisionError):
        pipeline.writer.serve(request)
    assert request.answer is False
