"""The one logger of the package: one line a minute for each kind of trouble, and nothing that it raises gets out.

A host's log filter or handler may raise. Captures run on the host's threads and inside its destructors and signal
handlers, and our own threads must survive: so nothing here raises.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Hashable, Iterator
from typing import Any

logger = logging.getLogger("usage_instrument")

INTERVAL = 60.0
"""Seconds between two lines of one kind."""
_KINDS = 1000
"""Kinds that are remembered. Beyond that, all are forgotten: memory is bounded, and lines may come early."""

_next: dict[Hashable, float] = {}
_suppressed: dict[Hashable, int] = {}


def warning(kind: Hashable, message: str, *arguments: object, exc_info: bool = False) -> None:
    """Log a warning, unless one of this kind was logged within the last minute.

    `kind` names the trouble without the numbers, users or messages of one case. The next line that is logged counts
    the lines that were not.
    """
    limited(logging.WARNING, kind, message, *arguments, exc_info=exc_info)


def limited(level: int, kind: Hashable, message: str, *arguments: object, exc_info: bool = False) -> None:
    """As warning, at another level."""
    now = time.monotonic()
    if now < _next.get(kind, 0.0):
        _suppressed[kind] = _suppressed.get(kind, 0) + 1
        return
    if len(_next) >= _KINDS:
        reset()
    _next[kind] = now + INTERVAL
    more = _suppressed.pop(kind, 0)
    if more:
        message, arguments = message + " (%d more like it in the meantime)", (*arguments, more)
    emit(level, message, *arguments, exc_info=exc_info)


def once(kind: Hashable, message: str, *arguments: object, level: int = logging.WARNING) -> None:
    """Log a line, unless one of this kind was logged in this process before."""
    if kind not in _next:
        _next[kind] = float("inf")
        emit(level, message, *arguments)


def info(message: str, *arguments: object) -> None:
    """Log what is no trouble."""
    emit(logging.INFO, message, *arguments)


def debug(message: str, *arguments: object, exc_info: bool = False) -> None:
    """Log what only a developer of this package wants to read."""
    emit(logging.DEBUG, message, *arguments, exc_info=exc_info)


@contextlib.contextmanager
def quietly(message: str) -> Iterator[None]:
    """Log an exception of the host's objects for a developer of this package, and go on behind the block, or return
    from the function that this decorates."""
    try:
        yield
    except Exception:
        debug(message, exc_info=True)


def emit(level: int, message: str, *arguments: Any, exc_info: bool = False) -> None:
    """Log a line now, whatever was logged before."""
    with contextlib.suppress(Exception):  # of a filter or a handler of the host's
        logger.log(level, message, *arguments, exc_info=exc_info)


def reset() -> None:
    """Forget what was logged: in a forked child, and between tests."""
    _next.clear()
    _suppressed.clear()
