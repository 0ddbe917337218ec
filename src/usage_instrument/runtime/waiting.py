"""The one way to wait for another thread: from sync code, a greenlet, asyncio or trio."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

from .threads import allocate_lock

P = ParamSpec("P")
T = TypeVar("T")

_POLL, _POLL_MAX = 0.0005, 0.02
"""Seconds between two looks of a greenlet, which a real thread cannot wake."""


class Answer(Generic[T]):
    """A value that one thread gives, at most once in effect, and others wait for.

    Giving it takes no lock and never waits: a signal handler or a destructor may do it. So may waiting begin in one.
    """

    __slots__ = ("_given", "_value", "_wakes")

    def __init__(self) -> None:
        self._given = False
        self._value: T | None = None
        self._wakes: list[Callable[[], object]] = []

    @property
    def is_given(self) -> bool:
        """Whether there is a value by now."""
        return self._given

    @property
    def value(self) -> T | None:
        """The value; None as long as there is none."""
        return self._value

    def give(self, value: T) -> None:
        """Set the value and wake everybody who waits; a later call changes nothing."""
        if self._given:
            return
        self._value, self._given = value, True
        for wake in list(self._wakes):
            wake()

    def wait(self, timeout: float) -> bool:
        """Whether the value is given within so many seconds; other greenlets run meanwhile."""
        if in_greenlets():
            return self._poll(time.monotonic() + timeout)
        if not self._given and timeout > 0:
            lock = allocate_lock()
            lock.acquire()
            wake = _release_once(lock.release)
            self._wakes.append(wake)  # before the look below: the giver looks here after setting the value
            try:
                if not self._given:
                    lock.acquire(timeout=min(timeout, _LOCK_TIMEOUT_MAX))
            finally:
                self._wakes.remove(wake)
        return self._given

    def _poll(self, deadline: float) -> bool:
        pause = _POLL
        while not self._given and time.monotonic() < deadline:
            time.sleep(pause)  # the patched one, which cooperates
            pause = min(pause * 1.5, _POLL_MAX)
        return self._given

    async def wait_async(self, timeout: float) -> bool:
        """As wait, without blocking the event loop: asyncio's, or trio's where that is the running one."""
        if self._given or timeout <= 0:
            return self._given
        event, wake_from_thread, within = _event_of_the_running_loop()
        self._wakes.append(wake_from_thread)
        try:
            if not self._given:
                await within(timeout, event.wait)
        finally:
            self._wakes.remove(wake_from_thread)
        return self._given


_LOCK_TIMEOUT_MAX = 4_000_000.0
"""Seconds; what a lock accepts at most."""


def _release_once(release: Callable[[], object]) -> Callable[[], object]:
    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # released before
            release()

    return wake


def _event_of_the_running_loop() -> tuple[Any, Callable[[], object], Callable[..., Any]]:
    """An event of the running loop's library, what sets it from another thread, and how to wait with a timeout."""
    if in_event_loop():
        import asyncio

        loop = asyncio.get_running_loop()
        event = asyncio.Event()

        async def within(timeout: float, wait: Callable[[], Any]) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await wait()

        return event, _from_thread(loop.call_soon_threadsafe, event.set), within
    trio = sys.modules["trio"]
    trio_event = trio.Event()

    async def within_trio(timeout: float, wait: Callable[[], Any]) -> None:
        with trio.move_on_after(timeout):
            await wait()

    return trio_event, _from_thread(trio.lowlevel.current_trio_token().run_sync_soon, trio_event.set), within_trio


def _from_thread(call_soon: Callable[..., object], wake: Callable[[], object]) -> Callable[[], object]:
    def call() -> None:
        with contextlib.suppress(Exception):  # the loop is closed: nobody waits there any more
            call_soon(wake)

    return call


async def in_worker_thread(work: Callable[[], T]) -> T:
    """What `work` returns, run in a thread of the running loop's pool: asyncio's, or trio's."""
    if in_event_loop():
        import asyncio

        return await asyncio.to_thread(work)
    found: T = await sys.modules["trio"].to_thread.run_sync(work)
    return found


def without_blocking(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A function or method as the coroutine function whose name has an `a` in front. A worker thread runs it, or the
    method of this name that the object has instead."""
    name, place = function.__name__, function.__qualname__.removesuffix(function.__name__)
    is_method = place != "" and not place.endswith("<locals>.")

    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if is_method:  # which a subclass or a test of the host's may have replaced
            its: Callable[..., T] = getattr(args[0], name)
            return await in_worker_thread(functools.partial(its, *args[1:], **kwargs))
        return await in_worker_thread(functools.partial(function, *args, **kwargs))

    functools.update_wrapper(run, function)
    run.__name__, run.__qualname__ = f"a{name}", f"{place}a{name}"
    run.__doc__ = f"As {name}, without blocking the event loop."
    return run


def in_event_loop() -> bool:
    """Whether this thread runs an asyncio event loop, which must not be held up."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def in_greenlets() -> bool:
    """Whether gevent or eventlet has made greenlets of threads: a lock would stop them all."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(
        (gevent is not None and gevent.is_module_patched("time"))
        or (eventlet is not None and eventlet.is_monkey_patched("time"))
    )
