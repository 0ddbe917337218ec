"""A request to flush, on its way from a caller through the folder to the writer and back."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable


class Ticket:
    """Asks that all that was captured before it be written; `final` asks both threads to end as well.

    The caller polls. An Event would be a lock that a signal handler could meet again, and would not wake a
    gevent greenlet from a real thread; time.sleep cooperates with whoever patched it.
    """

    __slots__ = ("answer", "deadline", "final")

    def __init__(self, timeout: float, *, final: bool = False) -> None:
        self.deadline = time.monotonic() + timeout
        self.final = final
        self.answer: bool | None = None

    def wait(self) -> bool:
        """The answer; False once the deadline has passed without one."""
        pause = 0.0005
        while self.answer is None and time.monotonic() < self.deadline:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
        return bool(self.answer)

    async def await_(self) -> bool:
        """As wait, for an event loop: asyncio's, or trio's where that is the running one."""
        sleep = _async_sleep()
        pause = 0.0005
        while self.answer is None and time.monotonic() < self.deadline:
            await sleep(pause)
            pause = min(pause * 1.5, 0.02)
        return bool(self.answer)


def in_event_loop() -> bool:
    """Whether this thread runs an event loop, which must not be held up."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _async_sleep() -> Callable[[float], Awaitable[None]]:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        sleep: Callable[[float], Awaitable[None]] = sys.modules["trio"].sleep
        return sleep
    return asyncio.sleep
