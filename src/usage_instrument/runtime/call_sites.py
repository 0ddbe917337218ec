"""Finds lines of the host's code for the log: the caller, and the definition of a function."""

from __future__ import annotations

import inspect
import os
import sys
from types import FrameType

_OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120 - without pathlib


def caller() -> str:
    """The file and line of the host's call into this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    return "nowhere" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def definition(target: object) -> str | None:
    """The file and line of a function below all its decorators; None for another object."""
    try:
        code = getattr(inspect.unwrap(target), "__code__", None)  # type: ignore[arg-type]
    except ValueError:  # its decorators wrap each other in a circle
        return None
    return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"
