"""The command `usage-instrument`: arguments in, tables, JSON, CSV or Markdown out."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

_EXTRA = {"anyio", "click", "jinja2", "markupsafe", "rich", "starlette", "typer", "uvicorn"}


def main(arguments: Sequence[str] | None = None, name: str = "usage-instrument") -> None:
    """Run the command, by default with the arguments of the process. Always raises SystemExit: 2 if a library of the
    extra `cli` is missing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # any terminal and any pipe can take any name
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print('usage-instrument: libraries are missing: pip install "usage-instrument[cli]"', file=sys.stderr)
        raise SystemExit(2) from None
    app(None if arguments is None else list(arguments), prog_name=name)
