"""Fork and exit: tells the living trackers, and knows whether this process is a child that nobody told."""

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
    """What has to hear of forks and of the end."""

    def reset_after_fork(self) -> None:
        """Start empty in a forked child; only reassigns references."""

    def begin_exit(self, deadline: float) -> Callable[[], bool]:
        """Start to write what is pending; what is returned waits for it until the deadline (monotonic seconds)."""

    @property
    def exit_timeout(self) -> float:
        """Seconds that it may take at exit."""


_living: weakref.WeakSet[Mortal] = weakref.WeakSet()
_in_registry = _hears_celery = False
_MADV_WIPEONFORK = 18  # <asm-generic/mman-common.h>; Python names no such constant


def _page() -> memoryview | bytearray:
    """One byte that reads 0 in every child, even of a fork that runs no Python hook (uWSGI's, a C library's)."""
    if sys.platform == "linux":
        try:
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.madvise(_MADV_WIPEONFORK)
        except OSError:  # a kernel before 4.14
            return bytearray(1)
        return memoryview(page)
    return bytearray(1)


ALIVE = _page()
"""`ALIVE[0]` is 1 in the process that imported or was forked through Python, 0 in a child that nobody told."""
ALIVE[0] = 1


def notice_fork() -> None:
    """Do in a child what the fork hook would have done, if it did not run."""
    if not ALIVE[0]:
        _reset_in_child()


def _reset_in_child() -> None:
    ALIVE[0] = 1
    log.reset()
    for mortal in list(_living):
        mortal.reset_after_fork()


def watch(mortal: Mortal) -> None:
    """Tell it of forks and of the exit from now on; called when it first has something to lose."""
    _living.add(mortal)
    _join_multiprocessing()
    _hear_celery()


def _join_multiprocessing() -> None:
    """A child of multiprocessing leaves by os._exit, after the finalizers that it registered since it began."""
    global _in_registry
    register = getattr(sys.modules.get("multiprocessing.util"), "register_after_fork", None)
    if any(map(_is_child_of, ("multiprocessing", "billiard"))):  # Celery's, which shares the former's registries
        _finalize(leave)
    elif not _in_registry and register is not None:
        # For a child that captures before it begins, while it imports its modules: this one is run as it begins.
        _in_registry = True
        register(leave, _finalize)


def _is_child_of(library: str) -> bool:
    current = getattr(sys.modules.get(f"{library}.process"), "current_process", None)
    return current is not None and getattr(current(), "_parent_pid", None) is not None


def _finalize(exit_: Callable[[], None]) -> None:
    sys.modules["multiprocessing.util"].Finalize(None, exit_, exitpriority=0)


def _hear_celery() -> None:
    """A worker of Celery's prefork pool leaves by os._exit, without its finalizers; it only sends a signal before.

    Connecting takes a lock of Celery's, hence once; forked children inherit what is connected.
    """
    global _hears_celery
    ended = getattr(sys.modules.get("celery.signals"), "worker_process_shutdown", None)
    if ended is not None and not _hears_celery:
        _hears_celery = True
        ended.connect(_worker_ends, weak=False)


def _worker_ends(**_: object) -> None:
    leave()


def leave() -> None:
    """Write what is pending in every tracker, within one deadline for all of them: the process is about to end."""
    notice_fork()
    mortals = list(_living)
    if not mortals:
        return
    deadline = time.monotonic() + max(mortal.exit_timeout for mortal in mortals)
    for wait in [mortal.begin_exit(deadline) for mortal in mortals]:
        wait()


# At import: what the host registers later runs before it, and its captures still count.
atexit.register(leave)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
