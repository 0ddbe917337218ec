"""Notifies trackers of forks and of the exit, and detects a fork that ran no hook."""

from __future__ import annotations

import atexit
import mmap
import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from . import log


class Mortal(Protocol):
    """An object that has to handle forks and the exit."""

    def reset_after_fork(self) -> None:
        """Start empty in a forked child. Only reassigns references."""

    def begin_exit(self, deadline: float) -> Callable[[], bool]:
        """Start to write the pending uses. The returned function waits until the deadline (monotonic seconds)."""

    @property
    def exit_timeout(self) -> float:
        """Seconds it may take at exit."""


_living: weakref.WeakSet[Mortal] = weakref.WeakSet()
_in_registry = _hears_celery = False
_has_exited = False
_MADV_WIPEONFORK = 18  # <asm-generic/mman-common.h>; Python names no such constant


def _page() -> memoryview | bytearray:
    """A byte that is 0 in each child process, also after a fork without Python hooks (uWSGI's, a C library's)."""
    if sys.platform == "linux":
        try:
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.madvise(_MADV_WIPEONFORK)
        except OSError:  # a kernel before 4.14
            return bytearray(1)
        return memoryview(page)
    return bytearray(1)


ALIVE = _page()
"""`ALIVE[0]` is 0 only in a child whose fork ran no Python hook."""
ALIVE[0] = 1


def notice_fork() -> None:
    """Run the fork hook in a child in which it did not run."""
    if not ALIVE[0]:
        _reset_in_child()


def _reset_in_child() -> None:
    global _has_exited
    ALIVE[0], _has_exited = 1, False
    log.reset()
    for mortal in list(_living):
        mortal.reset_after_fork()


def watch(mortal: Mortal) -> None:
    """Notify it of forks and of the exit from now on. Called before its first use."""
    _living.add(mortal)
    _join_multiprocessing()
    _hear_celery()


def _join_multiprocessing() -> None:
    """Register a finalizer: a child of multiprocessing leaves by os._exit, after its finalizers."""
    global _in_registry
    register = getattr(sys.modules.get("multiprocessing.util"), "register_after_fork", None)
    if any(map(_is_child_of, ("multiprocessing", "billiard"))):  # Celery's, which uses the registries of the former
        _finalize(leave)
    elif not _in_registry and register is not None:
        # A child may capture while it imports its modules, before it begins. This one runs when it begins.
        _in_registry = True
        register(leave, _finalize)


def _is_child_of(library: str) -> bool:
    current = getattr(sys.modules.get(f"{library}.process"), "current_process", None)
    return current is not None and getattr(current(), "_parent_pid", None) is not None


def _finalize(exit_: Callable[[], None]) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, exit_, exitpriority=0)


def _hear_celery() -> None:
    """Connect to the signal that a worker of Celery's prefork pool sends before it leaves by os._exit.

    Connecting takes a lock of Celery, so it happens once. Forked children inherit the connection.
    """
    global _hears_celery
    ended = getattr(sys.modules.get("celery.signals"), "worker_process_shutdown", None)
    if ended is not None and not _hears_celery:
        _hears_celery = True
        ended.connect(_worker_ends, weak=False)


def _worker_ends(**_: object) -> None:
    leave()


def leave() -> None:
    """Write the pending uses of all trackers within one deadline, because the process ends."""
    notice_fork()
    mortals = list(_living)
    if not mortals:
        return
    deadline = time.monotonic() + max(mortal.exit_timeout for mortal in mortals)
    for wait in [mortal.begin_exit(deadline) for mortal in mortals]:
        wait()


def has_exited() -> bool:
    """Whether the exit has written the pending uses. A later capture has to be written by its own thread."""
    return _has_exited


def _exit() -> None:
    global _has_exited
    leave()
    _has_exited = True


# At import: atexit handlers that the host registers later run earlier, and may capture. Those of before run later.
atexit.register(_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
