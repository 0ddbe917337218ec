"""A background thread: runs its cycles, survives what they raise, ends when told to, and is revived when asked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from usage_instrument.runtime import log, threads
from usage_instrument.runtime.threads import END, BackgroundThread, Pause
from usage_instrument.runtime.waiting import Answer


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_RECOVERY", 0.001)
    log.reset()


def worker(
    cycle: Callable[[object], Pause], failed: Callable[[Exception], object] = lambda error: None
) -> BackgroundThread[object]:
    return BackgroundThread("worker", cycle, failed=failed)


def end(thread: BackgroundThread[object]) -> None:
    thread.put(END_ITEM)
    thread.ensure()
    while thread.is_alive:
        threads.sleep(0.001)


END_ITEM = object()


def test_items_are_taken_in_order_and_pauses_run_cycles_too() -> None:
    seen: list[object] = []
    idle: Answer[bool] = Answer()

    def cycle(item: object) -> Pause:
        if item is END_ITEM:
            return END
        if item is None:
            idle.give(True)
        else:
            seen.append(item)
        return 0.001

    thread = worker(cycle)
    for number in range(100):
        thread.put(number)
    assert not thread.is_alive
    thread.ensure()
    assert idle.wait(60)
    end(thread)
    assert seen == list(range(100))
    assert thread.last_cycle is None


@pytest.mark.parametrize("filter_raises", [False, True])
def test_no_exception_ends_it(filter_raises: bool) -> None:
    """Not even one that the host's log filter raises while the failure is logged."""
    errors: list[Exception] = []
    survived: Answer[bool] = Answer()

    def cycle(item: object) -> Pause:
        if item is END_ITEM:
            return END
        if len(errors) < 3:
            raise RuntimeError(f"failure {len(errors)}")
        survived.give(True)
        return 60

    def failed(error: Exception) -> None:
        errors.append(error)
        raise ValueError("reporting fails too")

    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError("the host's filter")

    if filter_raises:
        log.logger.addFilter(refuse)
    try:
        thread = worker(cycle, failed)
        thread.ensure()
        assert survived.wait(60)
        assert thread.is_alive
        end(thread)
    finally:
        log.logger.removeFilter(refuse)
    assert [str(error) for error in errors] == ["failure 0", "failure 1", "failure 2"]


def test_an_ended_thread_is_revived_and_no_item_is_lost() -> None:
    seen: list[object] = []

    def cycle(item: object) -> Pause:
        seen.append(item)
        return END  # after each: so every put races with an end

    thread = worker(cycle)
    for number in range(500):
        thread.put(number)
        thread.ensure()
    while thread.is_asked or thread.is_alive:
        thread.ensure()
        threads.sleep(0.001)
    assert [item for item in seen if item is not None] == list(range(500))


def test_two_starts_at_once_run_one_thread() -> None:
    inside, most = [0], [0]
    lock = threading.Lock()

    def cycle(item: object) -> Pause:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        threads.sleep(0.0002)
        with lock:
            inside[0] -= 1
        return END

    thread = worker(cycle)
    for number in range(100):
        thread.put(number)
        threads.start(thread._run)
        thread.ensure()
    while thread.is_asked or thread.is_alive:
        thread.ensure()
        threads.sleep(0.001)
    assert most == [1]


def test_what_waits_can_be_taken_where_no_thread_starts() -> None:
    thread = worker(lambda item: END)
    assert thread.take() is None
    thread.put(1)
    assert thread.is_asked
    assert thread.take() == 1
