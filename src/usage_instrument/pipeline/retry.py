"""The writer's failures in a row: how long to wait after them, and what to say."""

from __future__ import annotations

import logging
import random
import time

from usage_instrument.database.dialects import Fault

from .store import WriteError

logger = logging.getLogger("usage_instrument")
_BACKOFF, _BACKOFF_MAX = 0.1, 30.0
_CONFIGURATION_RETRY = 30.0
_SAY_EVERY = 60.0
_WORTH_A_LINE = 3  # failures in a row


class RetryPolicy:
    """None, as long as every attempt succeeds."""

    def __init__(self) -> None:
        self._said: tuple[str, float] = ("", 0.0)
        self._in_a_row = 0
        self._fault: Fault | None = None
        self.retries = 0
        """Attempts that had to be made again, in all."""
        self.last_error: str | None = None
        """What the latest attempt failed with; None when it succeeded."""

        self.standing: str | None = None
        """What is in the way of a part, while all else is written."""

    def __bool__(self) -> bool:
        return self._in_a_row > 0

    @property
    def lasting(self) -> bool:
        """Whether somebody has to mend something first."""
        return self._fault is Fault.CONFIGURATION

    def add(self, error: WriteError, where: object = None) -> None:
        """One more."""
        self._fault, self.last_error = error.fault, str(error)
        self._in_a_row += 1
        self.retries += 1
        # A lock or a deadlock is over with the next attempt, and nobody's concern.
        if self.lasting or self._in_a_row >= _WORTH_A_LINE:
            self.say(f"cannot write{f' to {where}' if where is not None else ''}: {error}")

    def end(self) -> None:
        """An attempt has succeeded."""
        if self._in_a_row:
            logger.info("writing again, after %d failed attempts", self._in_a_row)
        self._in_a_row, self._fault, self.last_error = 0, None, None

    def pause(self, interval: float) -> float:
        """Seconds until the writer looks again, which it does every `interval` when all is well."""
        if not self._in_a_row:
            return interval
        return _CONFIGURATION_RETRY if self.lasting else self.backoff()

    def backoff(self) -> float:
        """Seconds until the next attempt, with full jitter: anywhere below the exponential step."""
        return random.random() * min(_BACKOFF_MAX, _BACKOFF * 2.0 ** min(self._in_a_row, 16))

    def say(self, message: str) -> None:
        """One line a minute for the same trouble."""
        now = time.monotonic()
        if self._said[0] != message or now >= self._said[1] + _SAY_EVERY:
            self._said = (message, now)
            logger.warning("%s", message)
