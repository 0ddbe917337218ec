"""A request to flush, on its way from a caller through the aggregator to the writer and back."""

from __future__ import annotations

import time

from usage_instrument.runtime.waiting import Answer


class FlushRequest:
    """Asks that everything captured before it is written. A final one also ends both threads."""

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
        """Whether everything was written; None before the answer."""
        return self._answer.value

    def give(self, answer: bool) -> None:
        """Answer the request; later answers change nothing."""
        self._answer.give(answer)

    def wait(self) -> bool:
        """Wait for the answer; False after the deadline."""
        self._answer.wait(self.left)
        return bool(self.answer)

    async def wait_async(self) -> bool:
        """As wait, without blocking the event loop."""
        await self._answer.wait_async(self.left)
        return bool(self.answer)
