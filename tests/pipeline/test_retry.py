"""When failed attempts are repeated."""

from __future__ import annotations

import logging
import random

import pytest

from usage_instrument.database.driver_errors import Fault
from usage_instrument.pipeline.retry import RetryPolicy, backoff, persistently
from usage_instrument.pipeline.store import WriteError

LOCKED = WriteError(Fault.TRANSIENT, "the database is locked")
MISSING = WriteError(Fault.CONFIGURATION, "feature_usage does not exist")


def test_backoff_grows_with_full_jitter_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 1.0)
    assert [backoff(failures) for failures in (1, 2, 3, 100)] == [0.2, 0.4, 0.8, 30.0]
    monkeypatch.setattr(random, "random", lambda: 0.0)
    assert backoff(100) == 0.0


def test_after_a_success_the_next_cycle_is_an_interval_away() -> None:
    policy = RetryPolicy()
    assert (policy.pause(5.0), policy.is_failing, policy.last_error) == (5.0, False, None)
    policy.failed(LOCKED)
    assert policy.is_failing
    assert policy.pause(5.0) <= 0.2
    assert (policy.retries, policy.last_error) == (1, "the database is locked")
    policy.succeeded()
    assert (policy.pause(5.0), policy.is_failing, policy.last_error) == (5.0, False, None)
    assert policy.retries == 1


def test_an_error_that_only_a_person_can_correct_is_retried_slowly() -> None:
    policy = RetryPolicy()
    policy.failed(MISSING)
    assert policy.is_lasting
    assert policy.pause(5.0) == 30.0


def test_an_internal_error_is_lasting_once_it_repeats() -> None:
    policy = RetryPolicy()
    for message, is_lasting in [("a", False), ("b", False), ("a", False), ("a", False), ("a", True), ("b", False)]:
        policy.failed(WriteError(Fault.INTERNAL, message))
        assert (policy.is_lasting, policy.pause(5.0) == 30.0) == (is_lasting, is_lasting)
    policy.succeeded()
    policy.failed(WriteError(Fault.INTERNAL, "b"))
    assert not policy.is_lasting


def test_a_lock_is_logged_only_if_it_lasts_and_once(caplog: pytest.LogCaptureFixture) -> None:
    policy = RetryPolicy()
    with caplog.at_level(logging.INFO, logger="usage_instrument"):
        for _ in range(2):
            policy.failed(LOCKED, "the database")
        assert caplog.records == []
        for _ in range(5):
            policy.failed(LOCKED, "the database")
        policy.succeeded()
    assert [record.getMessage() for record in caplog.records] == [
        "cannot write to the database: the database is locked",
        "writing again, after 7 failed attempts",
    ]


def test_a_transient_error_is_retried_within_the_time() -> None:
    errors = [LOCKED, WriteError(Fault.CONNECTION_LOST, "gone")]

    def attempt() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert persistently(attempt, 60) == "done"


@pytest.mark.parametrize(("error", "seconds"), [(LOCKED, 0), (MISSING, 60)])
def test_no_retry_after_the_time_or_of_a_lasting_error(error: WriteError, seconds: float) -> None:
    attempts = 0

    def attempt() -> None:
        nonlocal attempts
        attempts += 1
        raise error

    with pytest.raises(WriteError):
        persistently(attempt, seconds)
    assert attempts == 1
