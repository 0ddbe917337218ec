"""How a command fails: one line that names the fix, without the password, and exit code 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import quote_plus

import typer
from sqlalchemy import URL, exc

from usage_instrument.errors import UsageInstrumentError

PROBLEMS = 1
"""The exit code when the database is not as it should be."""
ERROR = 2
"""The exit code when the command could not do its work."""
_SERVER_HINT = "; is the server running, and is the URL right?"


def fail(message: str) -> typer.Exit:
    """Say why, on stderr; raise what this returns."""
    typer.echo(f"usage-instrument: {' '.join(message.split())}", err=True)
    return typer.Exit(ERROR)


@contextlib.contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turns what a database, its driver or the network raises into one line."""
    try:
        yield
    except UsageInstrumentError as error:
        raise fail(_masked(str(error), url)) from None
    except exc.DBAPIError as error:
        raise fail(_masked(f"{_shown(url)}: {_first_line(error.orig)}{_hint(error, url)}", url)) from None
    except (exc.SQLAlchemyError, OSError, TimeoutError) as error:
        hint = _SERVER_HINT if isinstance(error, OSError | TimeoutError) else ""
        raise fail(_masked(f"{_shown(url)}: {_first_line(error)}{hint}", url)) from None


def _hint(error: exc.DBAPIError, url: URL) -> str:
    if error.statement:
        return ""
    # Refused, unreachable, unknown host, wrong password, no such database: no statement was on its way yet.
    return "; does the directory exist?" if url.get_backend_name() == "sqlite" else _SERVER_HINT


def _first_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _masked(message: str, url: URL) -> str:
    password = url.password
    if password:
        for form in {str(password), quote_plus(str(password))}:
            message = message.replace(form, "***") if len(form) > 3 else message
    return message
