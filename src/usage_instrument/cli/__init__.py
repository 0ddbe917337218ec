"""The command `usage-instrument`."""

from __future__ import annotations

import sys

_EXTRA = {"anyio", "click", "jinja2", "markupsafe", "rich", "starlette", "typer", "uvicorn"}


def main(arguments: list[str] | None = None, name: str = "usage-instrument") -> None:
    """Run the command with these arguments, or those of the process; without its libraries, say how to get them and
    leave with 2."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(
            'usage-instrument: the command needs more libraries: pip install "usage-instrument[cli]"', file=sys.stderr
        )
        raise SystemExit(2) from None
    app(arguments, prog_name=name)
