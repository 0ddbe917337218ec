"""The command `usage-instrument`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_EXTRA = {"anyio", "click", "jinja2", "markupsafe", "rich", "starlette", "typer", "uvicorn"}


def main(arguments: Sequence[str] | None = None, name: str = "usage-instrument") -> None:
    """Run the command, by default with the process's arguments; without its libraries, say how to get them and leave
    with 2. Always raises SystemExit."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(
            'usage-instrument: the command needs more libraries: pip install "usage-instrument[cli]"', file=sys.stderr
        )
        raise SystemExit(2) from None
    app(None if arguments is None else list(arguments), prog_name=name)
