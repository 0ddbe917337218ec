"""The one way to run a background thread: a real one under gevent and eventlet, which no exception ends.

The primitives here are the interpreter's own, whatever has patched `_thread` and `time`, and in whatever order the host
imported: a patched one would stop every greenlet of the process.
"""

from __future__ import annotations

import _thread
import sys
import time
from _queue import Empty, SimpleQueue  # in C, which gevent and eventlet do not patch
from collections.abc import Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar

from . import log

T = TypeVar("T")

END: Final = None
"""What a cycle returns to end its thread."""
Pause: TypeAlias = float | None
"""Seconds until the next cycle, or END."""
_RECOVERY = 1.0
"""Seconds until the next cycle after one that raised; doubled for each further one in a row, up to a minute."""
_RECOVERY_MAX = 60.0


def _unpatched(module: str, name: str) -> Any:
    """A function as the interpreter has it, from wherever the library that patched it keeps the original."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched(module):
        return gevent.get_original(module, name)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched(module.lstrip("_")):  # it has no underscore there
        return getattr(eventlet.original(module), name)
    return getattr(sys.modules[module], name)


# Taken now: libraries patch the modules' attributes, not what others have taken from them.
allocate_lock: Callable[[], _thread.LockType] = _unpatched("_thread", "allocate_lock")
get_ident: Callable[[], int] = _unpatched("_thread", "get_ident")
sleep: Callable[[float], None] = _unpatched("time", "sleep")
"""For our own threads. Code that runs on the host's threads calls `time.sleep`, which may be patched to cooperate."""


def start(run: Callable[[], object]) -> None:
    """Run a function in a daemon thread that nothing joins. Raises RuntimeError while the interpreter exits.

    `threading.Thread` takes locks of the threading module, which a first capture inside `__del__` could meet.
    """
    _unpatched("_thread", "start_new_thread")(_guarded, (run,))


def _guarded(run: Callable[[], object]) -> None:
    try:
        run()
    except Exception as error:
        log.warning(("thread", run), "a usage-instrument thread ended: %s", error, exc_info=True)


class BackgroundThread(Generic[T]):
    """Runs cycles, one after another: one for each item that is put, and one whenever a pause ends without any.

    `cycle(item)` takes an item, or None after a pause, and returns the seconds until the next cycle, or END. Whatever
    it raises goes to `failed` and to the log; the thread pauses and goes on. An item whose cycle raised is not put
    again: a cycle answers its item in a `finally`.

    After END, the thread goes on if `wanted` is true by then. Whether it lives is asked, never remembered: it holds a
    lock for as long as it lives. So any capture, flush or request end may call `ensure`, which revives a thread that
    is gone.
    """

    def __init__(
        self,
        name: str,
        cycle: Callable[[T | None], Pause],
        *,
        failed: Callable[[Exception], object] = lambda error: None,
        first_pause: Callable[[], float] = lambda: 0.0,
        wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self._cycle = cycle
        self._failed = failed
        self._first_pause = first_pause
        self._wanted = wanted
        self._items: SimpleQueue[T] = SimpleQueue()
        self._alive = allocate_lock()
        self._is_starting = False
        self._failures = 0
        self.last_error: Exception | None = None
        """What the latest cycle raised; None if it succeeded."""
        self.last_cycle: float | None = None
        """When its latest cycle began, in monotonic seconds; None while there is no thread."""

    @property
    def is_alive(self) -> bool:
        """Whether a thread runs at this moment."""
        return self._alive.locked()

    @property
    def is_asked(self) -> bool:
        """Whether an item waits."""
        return not self._items.empty()

    def put(self, item: T) -> None:
        """Hand an item to the thread; never waits and takes no lock. Call `ensure` next."""
        self._items.put(item)

    def take(self) -> T | None:
        """A waiting item, for callers that do the work of a thread that cannot start."""
        try:
            return self._items.get_nowait()
        except Empty:
            return None

    def ensure(self) -> None:
        """Start the thread if it does not live. Raises RuntimeError while the interpreter exits."""
        if self._is_starting or self._alive.locked():
            return
        self._is_starting = True  # until it runs: where no thread ever does (uWSGI), starts would pile up
        try:
            start(self._run)
        except BaseException:
            self._is_starting = False
            raise

    def _run(self) -> None:
        # Two threads may have been started at once: the second leaves the work to the first.
        while self._alive.acquire(False):
            self._is_starting = False
            try:
                self._live()
            finally:
                self.last_cycle = None
                self._alive.release()
            # A caller that put an item, or wanted the thread, before the release has started no other one.
            if self._items.empty() and not self._wanted():
                return
        self._is_starting = False

    def _live(self) -> None:
        pause: Pause = self._first_pause()
        while pause is not END:
            try:
                item = self._items.get(timeout=max(pause, 0.001))
            except Empty:
                item = None
            pause = self._run_cycle(item)

    def _run_cycle(self, item: T | None) -> Pause:
        self.last_cycle = time.monotonic()
        try:
            pause = self._cycle(item)
        except Exception as error:
            self._failures += 1
            self.last_error = error
            log.warning(("cycle", self.name), "the %s failed and goes on: %r", self.name, error, exc_info=True)
            self._report(error)
            return min(_RECOVERY * 2.0 ** min(self._failures - 1, 8), _RECOVERY_MAX)
        self._failures, self.last_error = 0, None
        return pause

    def _report(self, error: Exception) -> None:
        try:
            self._failed(error)
        except Exception as again:
            log.warning(("failed", self.name), "the %s could not report a failure: %r", self.name, again)
