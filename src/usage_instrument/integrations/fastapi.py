"""One line for a FastAPI app, which is a Starlette app: `instrument(app)`."""

from __future__ import annotations

from .starlette import instrument as instrument

__all__ = ["instrument"]
