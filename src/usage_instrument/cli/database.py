"""Connects a command to the database that its options name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import URL, Connection

from usage_instrument.database import dialects, engines, standbys
from usage_instrument.database.reflection import find_tables
from usage_instrument.database.tables import Tables
from usage_instrument.database.urls import missing_file
from usage_instrument.settings import Settings
from usage_instrument.typing import UserIdType

from .errors import explained, fail
from .options import required, settings

T = TypeVar("T")
STATEMENT_TIMEOUT = 600
"""Seconds that one statement of a command that only reads may take, unless `read_timeout` says otherwise."""


def run(
    url: str | None,
    schema: str | None,
    users: str,
    user_id_type: UserIdType,
    work: Callable[[Connection, Settings], T],
    *,
    needs_file: bool = False,
) -> T:
    """The result of `work` on a connection by a sync or an async driver. An error ends the command with one line."""
    database = parsed(required(url))
    with explained(database):
        configured = settings(schema, users, user_id_type)
        missing = missing_file(database) if needs_file else None
        if missing is not None:
            raise fail(f"there is no file {missing}: run `usage-instrument db create`, or correct --url")
        connector = engines.connect(_patient(database))
        connector.may_create_file = not needs_file
        try:
            return connector.run(lambda connection: work(connection, configured))
        finally:
            connector.dispose()


def read(url: str | None, schema: str | None, work: Callable[[Connection, Tables], T]) -> T:
    """The result of `work` on a connection and the tables that are there, whatever the type of their user ids."""

    def found(connection: Connection, configured: Settings) -> T:
        tables = find_tables(connection, configured.schema)
        dialects.get(connection.dialect.name).prepare_questions(connection)
        return work(connection, tables)

    return run(url, schema, "none", "uuid", found, needs_file=True)


def ask(
    url: str | None, schema: str | None, work: Callable[[Connection, Tables], T], timeout: float | None = None
) -> T:
    """As read, in a read-only transaction with a timeout of its own, on a database that may be a standby.

    A statement may take `timeout` seconds; by default as long as the settings allow.
    """

    def use(ask_once: Callable[..., Any]) -> T:
        found: T = ask_once(work)
        return found

    return asking(url, schema, use, timeout)


def asking(
    url: str | None, schema: str | None, use: Callable[[Callable[..., Any]], T], timeout: float | None = None
) -> T:
    """The result of `use`, which takes a function that does as `ask` does, for several answers by one connection."""

    def closed(connection: Connection, configured: Settings) -> T:
        dialect = dialects.get(connection.dialect.name)
        seconds = math.ceil(timeout or configured.read_timeout or STATEMENT_TIMEOUT)

        def ask_once(work: Callable[[Connection, Tables], Any]) -> Any:
            def attempt() -> Any:
                connection.rollback()
                begun = dialect.begin_read_only(connection, seconds)
                return work(begun, find_tables(begun, configured.schema))

            return standbys.retried(connection.dialect.name, attempt)

        try:
            return use(ask_once)
        finally:
            connection.invalidate()  # its session has settings that no other work may meet

    return run(url, schema, "none", "uuid", closed, needs_file=True)


def parsed(url: str) -> URL:
    """The URL. Ends the command if no engine can be made of it."""
    with explained(URL.create("unknown")):
        engines.parse(url)
    return engines.url_of(url)


def _patient(url: URL) -> URL:
    """The URL with time for a long ALTER TABLE, which these drivers would take for a lost network."""
    if url.drivername.endswith(("pymysql", "mysqldb")):
        return url.update_query_dict({"read_timeout": "86400", "write_timeout": "86400"})
    return url
