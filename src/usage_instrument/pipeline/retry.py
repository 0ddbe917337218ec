"""When a failed attempt is repeated: full jitter, and slowly where only a person can help."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from usage_instrument.database.driver_errors import Fault
from usage_instrument.runtime import log

from .store import WriteError

T = TypeVar("T")

_FIRST, _LONGEST = 0.1, 30.0
_CONFIGURATION_RETRY = 30.0
_WORTH_A_LINE = 3
"""Failures in a row. A lock or a deadlock is over with the next attempt."""


def backoff(failures: int, longest: float = _LONGEST) -> float:
    """Seconds until the next attempt after so many failures in a row, with full jitter: anywhere below the exponential
    step."""
    return random.random() * min(longest, _FIRST * 2.0 ** min(failures, 16))


def persistently(attempt: Callable[[], T], seconds: float) -> T:
    """Return what `attempt` returns; repeat it for so many seconds after transient errors. Raises WriteError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except WriteError as error:
            left = deadline - time.monotonic()
            if not error.fault.is_transient or left <= 0:
                raise
            time.sleep(min(backoff(1), left))


class RetryPolicy:
    """The writer's failures in a row, and the pauses after them."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._fault: Fault | None = None
        self._alike = 0
        """The latest failures that are alike."""
        self.retries = 0
        """Failed attempts in total."""
        self.last_error: str | None = None
        """The error of the latest attempt; None if it succeeded."""
        self.audit_problem: str | None = None
        """Why the audit trail takes no rows, while everything else is written."""

    @property
    def is_failing(self) -> bool:
        """Whether the latest attempt failed."""
        return self._in_a_row > 0

    @property
    def is_lasting(self) -> bool:
        """Whether a person has to correct something first."""
        if self._fault is Fault.INTERNAL:
            return self._alike >= _WORTH_A_LINE
        return self._fault is Fault.CONFIGURATION

    def failed(self, error: WriteError, where: object = None) -> None:
        """Count a failed attempt; log it once it is worth a line."""
        self._alike = self._alike + 1 if str(error) == self.last_error else 1
        self._fault, self.last_error = error.fault, str(error)
        self._in_a_row += 1
        self.retries += 1
        if self.is_lasting or self._in_a_row >= _WORTH_A_LINE:
            log.warning("cannot write", "cannot write%s: %s", f" to {where}" if where is not None else "", error)

    def succeeded(self) -> None:
        """An attempt succeeded."""
        if self._in_a_row:
            log.info("writing again, after %d failed attempts", self._in_a_row)
        self._in_a_row, self._alike, self._fault, self.last_error = 0, 0, None, None

    def pause(self, interval: float) -> float:
        """Seconds until the next attempt; `interval` after a success."""
        if not self._in_a_row:
            return interval
        return _CONFIGURATION_RETRY if self.is_lasting else self.backoff()

    def backoff(self) -> float:
        """Seconds until the next attempt after a failure that passes."""
        return backoff(self._in_a_row)
