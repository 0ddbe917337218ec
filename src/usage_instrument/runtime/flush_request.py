"""A request to flush, on its way from a caller through the aggregator to the writer and back."""

from __future__ import annotations

import time

from .waiting import Answer


class FlushRequest:
    """Asks that all that was captured before it be written; `final` asks both threads to end as well."""

    __slots__ = ("_answer", "deadline", "final")

    def __init__(self, timeout: float, *, final: bool = False) -> None:
        self.deadline = time.monotonic() + timeout
        self.final = final
        self._answer: Answer[bool] = Answer()

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    @property
    def answer(self) -> bool | None:
        """Whether all was written; None as long as nobody knows."""
        return self._answer.value

    def give(self, answer: bool) -> None:
        """Answer it; a second answer changes nothing."""
        self._answer.give(answer)

    def wait(self) -> bool:
        """The answer; False once the deadline has passed without one."""
        self._answer.wait(self.left)
        return bool(self.answer)

    async def wait_async(self) -> bool:
        """As wait, without blocking the event loop."""
        await self._answer.wait_async(self.left)
        return bool(self.answer)
