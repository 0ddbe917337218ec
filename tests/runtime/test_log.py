"""The logger: one line a minute a kind, and nothing that the host's logging raises gets out."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from usage_instrument.runtime import log


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    log.reset()
    yield clock
    log.reset()


def test_one_line_a_minute_for_each_kind(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    for number in range(300):
        log.warning("refused", "%d uses refused", number)
    log.warning("network", "no answer")
    assert caplog.messages == ["0 uses refused", "no answer"]
    now[0] += log.INTERVAL
    log.warning("refused", "%d uses refused", 300)
    log.warning("network", "no answer")
    assert caplog.messages[2:] == ["300 uses refused (299 more like it in the meantime)", "no answer"]


def test_once_is_once(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        log.once("unconfigured", "not configured")
        now[0] += 10 * log.INTERVAL
    assert caplog.messages == ["not configured"]


def test_kinds_are_bounded(now: list[float]) -> None:
    for number in range(10 * log._KINDS):
        log.warning(("kind", number), "trouble")
    assert len(log._next) <= log._KINDS


@pytest.mark.parametrize("emit", [log.info, log.debug, lambda message: log.warning("kind", message)])
def test_what_the_host_raises_while_logging_stays_there(emit: object) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError("the host's filter")

    log.reset()
    log.logger.addFilter(refuse)
    level = log.logger.level
    log.logger.setLevel(logging.DEBUG)
    try:
        emit("anything")  # type: ignore[operator]
    finally:
        log.logger.setLevel(level)
        log.logger.removeFilter(refuse)
