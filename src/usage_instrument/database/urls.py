"""Database URLs: parsed, checked, and named without their secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, quote_plus, unquote

from sqlalchemy import URL, Engine, exc, make_url, util

from usage_instrument.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Database: TypeAlias = "str | URL | Engine | AsyncEngine"

_SECRETS = ("pass", "pwd", "secret", "token")
_SECRET_LENGTH = 4
"""Shorter texts are not replaced: they may be parts of words."""
_FILES = {
    *("sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir", "passfile"),
    *("ssl_ca", "ssl_cert", "ssl_key", "ssl_capath", "unix_socket", "read_default_file"),
}
"""What drivers take in the query and open when they connect."""


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
    return _anchored(database) if isinstance(database, URL) else database


def _anchored(url: URL) -> URL:
    """The URL with absolute paths: a connection is made long after, and maybe in another directory."""
    if url.get_backend_name() != "sqlite":
        files = {
            name: os.path.abspath(value)  # noqa: PTH100 - links stay
            for name, value in url.query.items()
            # Only a file: libpq has keywords such as `system`.
            if name in _FILES and isinstance(value, str) and os.path.exists(value)  # noqa: PTH110 - Path raises for some
        }
        return url.update_query_dict(files) if files else url
    name = url.database or ""
    if not _is_uri(url):
        return url.set(database=os.path.abspath(name))  # noqa: PTH100 - links stay
    # In a URI, `file:x.db` is relative, `file:/x.db` and `file://localhost/x.db` are not.
    path = name.removeprefix("file:")
    return url if path.startswith("/") else url.set(database=f"file:{quote(os.getcwd())}/{path}")  # noqa: PTH109


def _is_uri(url: URL) -> bool:
    """Whether the name of a SQLite database is a URI; otherwise a name such as `file:x.db` is a path."""
    is_uri = url.query.get("uri", "")
    return (url.database or "").startswith("file:") and isinstance(is_uri, str) and bool(util.asbool(is_uri or None))


def _file_of(url: URL) -> str:
    """The path of a SQLite file."""
    name = url.database or ""
    if not _is_uri(url):
        return name
    path = name.removeprefix("file:").partition("?")[0].partition("#")[0]
    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]
    return unquote(path)


def missing_file(url: URL) -> str | None:
    """The SQLite file that connecting would create; None if it exists, or for another database."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    path = _file_of(url)
    return None if os.path.exists(path) else path  # noqa: PTH110


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
    name = os.path.realpath(_file_of(url)) if url.get_backend_name() == "sqlite" else url.database
    hosts = [] if url.host is None else [f"{url.host}{f':{url.port}' if url.port else ''}"]
    for parameter in ("host", "port"):  # several servers, of which one is the primary
        hosts += url.normalized_query.get(parameter, ())
    place = f"{','.join(hosts)}/" if hosts else ""
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
