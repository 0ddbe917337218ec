"""Captured uses in memory: one deque of users per feature, and one deque for uses that are more than their user."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, TypeVar

from usage_instrument.events import Use
from usage_instrument.typing import UserId

T = TypeVar("T")


class CaptureFailure(NamedTuple):
    """A capture that failed: it rejected some uses, or (with `uses` 0) lost a use's metadata."""

    feature: str
    reason: str
    uses: int
    detail: str


class Drained(NamedTuple):
    """The content of a buffer at one moment."""

    plain: list[tuple[str, list[UserId]]]
    rich: list[Use]
    failures: list[CaptureFailure]


class Buffer:
    """Any thread appends, the aggregator drains, and neither takes a lock.

    `deque.append` and `deque.popleft` are atomic. A deque is never replaced: a thread that is interrupted between
    finding a deque and appending to it would lose its use.
    """

    def __init__(self) -> None:
        self._plain: dict[str, deque[UserId]] = {}
        self.rich: deque[Use] = deque()
        self.failures: deque[CaptureFailure] = deque()

    def plain(self, feature: str) -> deque[UserId]:
        """The deque of a feature's plain uses."""
        return self._plain.setdefault(feature, deque())

    def drain(self) -> Drained:
        """Take out everything captured before the call."""
        plain = [(feature, _take(users)) for feature, users in list(self._plain.items()) if users]
        return Drained(plain, _take(self.rich), _take(self.failures))

    @property
    def uses(self) -> int:
        """Uses in the buffer, rejected ones included."""
        return (
            sum(map(len, list(self._plain.values())))
            + sum(use.weight for use in self.rich.copy())
            + sum(failure.uses for failure in self.failures.copy())
        )


def _take(items: deque[T]) -> list[T]:
    return [items.popleft() for _ in range(len(items))]
