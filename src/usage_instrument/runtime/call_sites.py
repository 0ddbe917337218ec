"""Where in the host's code something was said, for the log: a file and a line."""

from __future__ import annotations

import inspect
import sys
from types import FrameType

_OWN = __file__.removesuffix("runtime/call_sites.py")


def caller() -> str:
    """The line of the host's that called into this package just now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    return "nowhere" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def definition(target: object) -> str | None:
    """The line where a function begins, below all its decorators; None for what is no function."""
    try:
        code = getattr(inspect.unwrap(target), "__code__", None)  # type: ignore[arg-type]
    except ValueError:  # it wraps itself
        return None
    return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"
