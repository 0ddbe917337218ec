"""Errors of the command line: one line that names the fix, without the password, and exit code 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer
from sqlalchemy import URL, exc

from usage_instrument.database import dialects
from usage_instrument.database.driver_errors import Fault
from usage_instrument.database.urls import masked, scrubbed
from usage_instrument.errors import UsageInstrumentError

PROBLEMS = 1
"""The exit code when the database is not as it should be."""
ERROR = 2
"""The exit code when the command could not do its work."""
_SERVER_HINT = "; is the server running, and is the URL right?"


def fail(message: str) -> typer.Exit:
    """Print an error on stderr, and return the exception that ends the command."""
    warn(message)
    return typer.Exit(ERROR)


def warn(message: str) -> None:
    """Print one line on stderr."""
    typer.echo(f"usage-instrument: {printable(' '.join(message.split()))}", err=True)


def printable(text: str) -> str:
    """The text without control characters: names come from the app's users, and must not steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


@contextlib.contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn an error of the database, its driver or the network into one line."""
    try:
        yield
    except UsageInstrumentError as error:
        raise fail(scrubbed(str(error), url)) from None
    except BrokenPipeError:
        raise  # the reader of the output has gone, as in `| head`: click ends the command
    except (exc.SQLAlchemyError, OSError, TimeoutError) as error:
        if getattr(error, "filename", None) is not None:  # such as --output in a directory that does not exist
            raise fail(scrubbed(str(error), url)) from None
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        raise fail(scrubbed(f"{masked(url)}: {_first_line(cause)}{_hint(error, url)}", url)) from None


def _hint(error: Exception, url: URL) -> str:
    # An error without a statement is one of the connection: refused, unreachable, wrong password, no such database.
    if isinstance(error, exc.DBAPIError) and not error.statement:
        return "; does the directory exist?" if url.get_backend_name() == "sqlite" else _SERVER_HINT
    if isinstance(error, exc.DBAPIError):
        fault = dialects.get(url.get_backend_name()).classify(error)
        return "; a longer time is set by USAGE_INSTRUMENT_READ_TIMEOUT" if fault is Fault.TIMEOUT else ""
    return _SERVER_HINT if isinstance(error, OSError | TimeoutError) else ""


def _first_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
