"""A caller at the gate: what it wants through with, how long it waits, and how, be it a thread, an event loop or a
greenlet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from usage_instrument.errors import AuditUnavailable, ConfigurationError, SchemaError
from usage_instrument.events import Use
from usage_instrument.runtime.threads import allocate_lock

from .chain import Chain


class Caller:
    """One call that waits for its row, and the answer."""

    def __init__(self, use: Use, timeout: float) -> None:
        self.use = use
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self.answered = False
        self.error: Exception | None = None
        self._wake: Callable[[], object] = lambda: None

    @property
    def left(self) -> float:
        """Seconds until it goes away."""
        return max(self._deadline - time.monotonic(), 0.0)

    def answer(self, error: Exception | None = None) -> None:
        """Let it through, or tell why not. From the thread that committed, or could not."""
        self.error, self.answered = error, True
        self._wake()

    def leave(self) -> None:
        """Raises AuditUnavailable, unless it was let through."""
        if not self.answered:
            reason = f"the database did not answer within {self._timeout:g} s (audit_timeout)"
            raise AuditUnavailable.of(self.use.feature, reason)
        if self.error is not None:
            raise AuditUnavailable.of(self.use.feature, _describe(self.error)) from self.error

    def wait(self, enter: Callable[[Caller], object]) -> None:
        """Enter, and return with the answer, or without one when the time is over."""
        lock = allocate_lock()
        lock.acquire()
        self._wake = lock.release
        enter(self)
        if not self.answered:
            lock.acquire(timeout=self.left)

    def wait_in_greenlet(self, enter: Callable[[Caller], object]) -> None:
        """As wait; a lock would stop all greenlets, and time.sleep is the patched one."""
        enter(self)
        while not self.answered and self.left:
            time.sleep(0.0005)

    async def await_(self, enter: Callable[[Caller], object]) -> None:
        """As wait, for an event loop: asyncio's, or trio's where that is the running one."""
        import asyncio

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            enter(self)
            sleep = sys.modules["trio"].sleep
            while not self.answered and self.left:
                await sleep(0.0005)
            return
        answered = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(answered.set)

        self._wake = wake
        enter(self)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.left):
                await answered.wait()


class Attempt(NamedTuple):
    """What could not be committed at the first try."""

    callers: list[Caller]
    rows: Sequence[dict[str, Any]]
    error: Exception
    chain: Chain
    """The one that these rows are of."""


def _describe(error: Exception) -> str:
    """The first line of an error. Parameters, which hold user ids, come on later lines."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    if isinstance(error, ConfigurationError | SchemaError):
        return str(error)
    return f"{type(cause).__name__}: {lines[0][:300]}" if lines else type(cause).__name__


def has_green_threads() -> bool:
    """Whether gevent has made greenlets of threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("time"))
