"""Database URLs: parsed, checked, and named without their secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from sqlalchemy import URL, Engine, exc, make_url

from usage_instrument.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Database: TypeAlias = "str | URL | Engine | AsyncEngine"

_SECRETS = ("pass", "pwd", "secret", "token")


def parse(database: Database) -> Database:
    """The same database with its URL parsed. Raises ConfigurationError if no writer can use it."""
    database = _parsed(database)
    url = url_of(database)
    if "@" in (url.host or ""):
        # The part before the @ belongs to the password, so no message repeats the URL.
        raise ConfigurationError("percent-encode the password of the database URL (@ is %40): it has more than one @")
    if url.get_backend_name() == "sqlite" and url.host:
        raise ConfigurationError("a SQLite URL names its file after three slashes, such as sqlite:///usage.db")
    if url.get_backend_name() == "sqlite" and _in_memory(url):
        raise ConfigurationError(
            "in-memory SQLite exists in one connection, and the writer opens its own: "
            "use a file, such as sqlite:///usage.db"
        )
    return database


def is_in_memory(database: Database) -> bool:
    """Whether it is an in-memory SQLite database. Raises ConfigurationError for another type."""
    url = url_of(_parsed(database))
    return url.get_backend_name() == "sqlite" and _in_memory(url)


def url_of(database: Database) -> URL:
    """The URL of a database. Raises ConfigurationError for another type."""
    if isinstance(database, str):
        return make_url(database)
    url = database if isinstance(database, URL) else getattr(database, "url", None)
    if not isinstance(url, URL):
        raise ConfigurationError(f"the database is a URL, an Engine or an AsyncEngine, not {type(database).__name__}")
    return url


def masked(database: Database) -> str:
    """The URL without passwords, which some drivers also take in the query."""
    url = url_of(database)
    secrets = [name for name in url.query if any(word in name.lower() for word in _SECRETS)]
    return url.difference_update_query(secrets).render_as_string(hide_password=True)


def named(database: Database, schema: str | None) -> str:
    """The database without driver and role: its name in a journal."""
    url = url_of(database)
    name = os.path.realpath(url.database or "") if url.get_backend_name() == "sqlite" else url.database
    place = "" if url.host is None else f"{url.host}{f':{url.port}' if url.port else ''}/"
    return f"{url.get_backend_name()}://{place}{name}{f' ({schema})' if schema else ''}"


def _parsed(database: Database) -> Database:
    if not isinstance(database, str):
        return database
    try:
        return make_url(database)
    except (exc.ArgumentError, ValueError):  # ValueError for a port that is no number
        # The text may contain a password, so the message does not repeat it.
        raise ConfigurationError(
            "the database URL cannot be parsed; it looks like postgresql+psycopg://user:password@host/name"
        ) from None


def _in_memory(url: URL) -> bool:
    name = url.database or ""
    return name == "" or ":memory:" in name or url.query.get("mode") == "memory"
