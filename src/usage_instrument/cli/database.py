"""The database that a command's options name, and what is done on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection

from usage_instrument.database import engines
from usage_instrument.database.reflection import find_tables
from usage_instrument.database.tables import Tables
from usage_instrument.settings import Settings

from .errors import explained, fail
from .options import UserIdKind, required, settings

T = TypeVar("T")


def run(
    url: str | None,
    schema: str | None,
    users: str,
    user_id_type: UserIdKind,
    work: Callable[[Connection, Settings], T],
    *,
    needs_file: bool = False,
) -> T:
    """What `work` returns, on a connection by a sync or an async driver; every error ends the command in one line."""
    place = parsed(required(url))
    with explained(place):
        said = settings(schema, users, user_id_type)
        if needs_file and _is_missing_file(place):
            raise fail(f"there is no file {place.database}: run `usage-instrument db create`, or mend --url")
        connector = engines.connect(_patient(place))
        try:
            return connector.run(lambda connection: work(connection, said))
        finally:
            connector.dispose()


def read(url: str | None, schema: str | None, work: Callable[[Connection, Tables], T]) -> T:
    """As run, for who only reads the tables, whatever they are like."""

    def found(connection: Connection, said: Settings) -> T:
        return work(connection, find_tables(connection, said.schema))

    return run(url, schema, "none", UserIdKind.UUID, found, needs_file=True)


def parsed(url: str) -> URL:
    """The URL, if an engine can be made of it."""
    with explained(URL.create("unknown")):
        engines.parse(url)
    return engines.url_of(url)


def _is_missing_file(url: URL) -> bool:
    """Whether connecting would only make an empty file."""
    name = url.database or ""
    return url.get_backend_name() == "sqlite" and not name.startswith("file:") and not Path(name).exists()


def _patient(url: URL) -> URL:
    """Somebody waits for this, so that a long ALTER TABLE is no sign of a lost network."""
    if url.drivername.endswith(("pymysql", "mysqldb")):
        return url.update_query_dict({"read_timeout": "86400", "write_timeout": "86400"})
    return url
