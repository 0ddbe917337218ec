"""Which database: its URL, in whatever form it is given, and how it is named without its secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from sqlalchemy import URL, Engine, make_url

from usage_instrument.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

Database: TypeAlias = "str | URL | Engine | AsyncEngine"

_SECRETS = ("pass", "pwd", "secret", "token")


def url_of(database: Database) -> URL:
    """The URL of a database given in any form; raises ConfigurationError for another type."""
    if isinstance(database, str):
        return make_url(database)
    url = database if isinstance(database, URL) else getattr(database, "url", None)
    if not isinstance(url, URL):
        raise ConfigurationError(f"the database is a URL, an Engine or an AsyncEngine, not {type(database).__name__}")
    return url


def masked(database: Database) -> str:
    """A database's URL without its passwords, which some drivers take in the query as well."""
    url = url_of(database)
    secrets = [name for name in url.query if any(word in name.lower() for word in _SECRETS)]
    return url.difference_update_query(secrets).render_as_string(hide_password=True)


def named(database: Database, schema: str | None) -> str:
    """Which database that is, by whatever driver and as whatever role: what a journal remembers."""
    url = url_of(database)
    name = os.path.realpath(url.database or "") if url.get_backend_name() == "sqlite" else url.database
    place = "" if url.host is None else f"{url.host}{f':{url.port}' if url.port else ''}/"
    return f"{url.get_backend_name()}://{place}{name}{f' ({schema})' if schema else ''}"
