"""Database URLs: parsed, checked, and named without their secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, quote_plus

from sqlalchemy import URL, Engine, exc, make_url

from usage_instrument.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Database: TypeAlias = "str | URL | Engine | AsyncEngine"

_SECRETS = ("pass", "pwd", "secret", "token")
_SECRET_LENGTH = 4
"""Shorter texts are not replaced: they may be parts of words."""


def parse(database: Database) -> Database:
    """The same database with its URL parsed. Raises ConfigurationError if no writer can use it."""
    database = _parsed(database)
    url = url_of(database)
    if _has_stray_at(url):
        # The part before the @ belongs to the password, so no message repeats the URL.
        raise ConfigurationError("percent-encode the password of the database URL (@ is %40): it has more than one @")
    if url.get_backend_name() == "sqlite" and url.host:
        raise ConfigurationError("a SQLite URL names its file after three slashes, such as sqlite:///usage.db")
    if url.get_backend_name() == "sqlite" and _in_memory(url):
        raise ConfigurationError(
            "in-memory SQLite exists in one connection, and the writer opens its own: "
            "use a file, such as sqlite:///usage.db"
        )
    if isinstance(database, URL) and url.get_backend_name() == "sqlite":
        return url.set(database=_absolute(url.database or ""))
    return database


def _absolute(name: str) -> str:
    """The file of a SQLite URL, independent of a later chdir."""
    scheme, path = ("file:", name[len("file:") :]) if name.startswith("file:") else ("", name)
    return name if scheme and path.startswith("//") else f"{scheme}{os.path.abspath(path)}"  # noqa: PTH100 - links stay


def missing_file(url: URL) -> str | None:
    """The SQLite file that connecting would create; None if it exists, or for another database."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return None
    return None if Path(url.database).exists() else url.database


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
    """The URL without its secrets: the password, and those that drivers take in the query."""
    url = url_of(database)
    return url.difference_update_query(_secret_names(url)).render_as_string(hide_password=True)


def scrubbed(text: str, database: Database) -> str:
    """A message without the secrets of the URL: some drivers quote their connection string."""
    url = url_of(database)
    secrets = [str(url.password or "")]
    for name in _secret_names(url):
        value = url.query[name]
        secrets += [value] if isinstance(value, str) else value
    for secret in sorted(secrets, key=len, reverse=True):
        for form in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(form, "***") if len(form) >= _SECRET_LENGTH else text
    return text


def _secret_names(url: URL) -> list[str]:
    """The names in the query whose values may be secret; an @ in a value may be part of an unescaped password."""
    return [
        name for name, value in url.query.items() if any(word in name.lower() for word in _SECRETS) or "@" in str(value)
    ]


def _has_stray_at(url: URL) -> bool:
    """Whether an unescaped password has spilled into another part of the URL."""
    if "@" in (url.host or ""):
        return True
    return url.get_backend_name() != "sqlite" and "@" in (url.database or str(url.query))


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
