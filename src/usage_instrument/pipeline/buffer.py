"""Uses in memory, just captured: one deque a feature that holds nothing but users, and one for the richer uses."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, TypeVar

from usage_instrument.events import Use
from usage_instrument.typing import UserId

T = TypeVar("T")


class CaptureFailure(NamedTuple):
    """What a capture could not take: so many uses, or (with `uses` 0) a use's metadata."""

    feature: str
    reason: str
    uses: int
    detail: str


class Drained(NamedTuple):
    """What a drain took out."""

    plain: list[tuple[str, list[UserId]]]
    rich: list[Use]
    failures: list[CaptureFailure]


class Buffer:
    """The capturing threads append, the aggregator drains, and nobody takes a lock.

    `deque.append` and `deque.popleft` are atomic, and a deque is never swapped: a thread that was interrupted
    between finding a deque and appending to it would lose its use.
    """

    def __init__(self) -> None:
        self._plain: dict[str, deque[UserId]] = {}
        self.rich: deque[Use] = deque()
        self.failures: deque[CaptureFailure] = deque()

    def plain(self, feature: str) -> deque[UserId]:
        """The deque of a feature's plain uses."""
        return self._plain.setdefault(feature, deque())

    def drain(self) -> Drained:
        """Take out what has been captured by now; what arrives meanwhile waits for the next drain."""
        plain = [(feature, _take(waiting)) for feature, waiting in list(self._plain.items()) if waiting]
        return Drained(plain, _take(self.rich), _take(self.failures))

    @property
    def uses(self) -> int:
        """How many uses wait here, kept or not."""
        return (
            sum(map(len, list(self._plain.values())))
            + sum(use.weight for use in self.rich.copy())
            + sum(failure.uses for failure in self.failures.copy())
        )


def _take(waiting: deque[T]) -> list[T]:
    return [waiting.popleft() for _ in range(len(waiting))]
