"""Delivers reports with retries, whatever the channel."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .reports import Report

ATTEMPTS = 4
"""Within one run. The next run tries again."""
TIMEOUT = 10.0
"""Seconds for each step of a connection."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds


class DeliveryError(Exception):
    """A report was not delivered. The message contains no secret and no address beyond the host."""

    def __init__(self, message: str, *, is_transient: bool, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.is_transient = is_transient
        self.retry_after = retry_after


class Channel(Protocol):
    """A way to deliver reports."""

    @property
    def name(self) -> str:
        """Its name in the file of rules."""

    def send(self, reports: Sequence[Report]) -> None:
        """Deliver them in one message. Raises DeliveryError."""


def deliver(channel: Channel, reports: Sequence[Report], wait: Callable[[float], Any]) -> None:
    """Deliver, with bounded retries and full jitter. Raises DeliveryError."""
    for attempt in range(ATTEMPTS):
        try:
            return channel.send(reports)
        except DeliveryError as error:
            if not error.is_transient or attempt == ATTEMPTS - 1:
                raise
            pause = random.random() * _FIRST_PAUSE * 2**attempt
            wait(min(max(pause, error.retry_after or 0.0), _LONGEST_PAUSE))
    return None
