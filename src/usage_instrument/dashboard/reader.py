"""Reads a database: a page is one connection and one read-only transaction, and nothing stays open between two."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, exc

from usage_instrument.database import dialects, engines
from usage_instrument.database.inspection import CREATE, check
from usage_instrument.database.reflection import find_tables
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, SchemaError
from usage_instrument.settings import Settings

from .errors import Problem

logger = logging.getLogger("usage_instrument")
T = TypeVar("T")

PATIENCE = 30
"""Seconds that one question may take."""


class Reader:
    """One database, by a sync or an async driver, for any number of threads."""

    def __init__(self, database: engines.Database, tables: Tables | None, schema: str | None) -> None:
        self._engine = engines.own_engine(_patient(engines.parse(database)))
        if tables is not None and not isinstance(tables, Tables):
            raise ConfigurationError(
                f"tables is what define_tables() returns, or Tables.of(Model), not {type(tables).__name__}"
            )
        self._tables = tables
        self._schema = schema if schema is not None else Settings.from_environment().schema

    def __str__(self) -> str:
        return engines.masked(self._engine)

    def read(self, work: Callable[[Connection, Tables], T]) -> T:
        """What `work` returns. Raises Problem, also for whatever a database raises."""
        self._look_for_file()
        connector = engines.connect(self._engine)  # a pool of its own, because some belong to an event loop
        try:
            return connector.run(lambda connection: self._page(connection, work))
        except (exc.DBAPIError, exc.TimeoutError, OSError) as error:
            raise self._problem(error) from None
        finally:
            connector.dispose()

    def _page(self, connection: Connection, work: Callable[[Connection, Tables], T]) -> T:
        try:
            return self._work(connection, work)
        finally:
            # Closed, not kept: no idle one on the server, none that a fork could inherit, none that stays read-only.
            connection.invalidate()

    def _work(self, connection: Connection, work: Callable[[Connection, Tables], T]) -> T:
        connection = dialects.get(connection.dialect.name).begin_read_only(connection, PATIENCE)
        tables = self._tables or self._found(connection)
        try:
            answer = work(connection, tables)
        except exc.DBAPIError as error:
            if _is_timeout(error.orig):
                raise
            connection.rollback()
            problems = [problem.message for problem in check(connection, tables) if problem.blocks_writing]
            if problems:
                raise Problem(503, "The tables are not ready", *map(_sentence, problems)) from None
            raise
        self._tables = tables
        return answer

    def _found(self, connection: Connection) -> Tables:
        """The tables as this database has them: user ids of any type, whatever the environment says."""
        try:
            return find_tables(connection, self._schema)
        except SchemaError:
            place = f"{self._schema}.feature_usage" if self._schema else "feature_usage"
            raise Problem(
                503,
                f"There is no table {place} here",
                f"{self} is the database that this dashboard reads.",
                f"To make the tables, {CREATE}; if they are elsewhere, mend the URL or $USAGE_INSTRUMENT_SCHEMA.",
            ) from None

    def _look_for_file(self) -> None:
        url = self._engine.url
        name = url.database or ""
        if url.get_backend_name() == "sqlite" and not name.startswith("file:") and not Path(name).exists():
            # Connecting would make an empty one.
            raise Problem(503, "There is no such file", f"{self} is what this dashboard reads. To make it, {CREATE}.")

    def _problem(self, error: Exception) -> Problem:
        cause = getattr(error, "orig", None) or error
        # Not the whole error: a statement's parameters are people's ids.
        logger.error("the dashboard cannot read %s: %s: %s", self, type(cause).__name__, str(cause).partition("\n")[0])
        if _is_timeout(cause):
            return Problem(
                503,
                "This takes too long",
                f"{self} did not answer one of the questions of this page within {PATIENCE} seconds.",
                "Choose a shorter period.",
            )
        if getattr(error, "statement", None):
            return Problem(
                500,
                "The database refused a question",
                f"{self} answered with {type(cause).__name__}; the log of this process has the rest.",
                "Try a shorter period, and see what `usage-instrument db check` says.",
            )
        return Problem(
            503,
            "The database cannot be reached",
            f"{self}: {type(cause).__name__}; the log of this process has the rest.",
            "Is the server running, and is the URL right?",
        )


def _patient(database: engines.Database) -> engines.Database:
    """With time for a long question, where the driver would think the server lost."""
    if isinstance(database, URL) and database.drivername.endswith(("pymysql", "mysqldb")):
        return database.update_query_dict({"read_timeout": str(PATIENCE + 5)} | dict(database.query))
    return database


def _is_timeout(cause: BaseException | None) -> bool:
    """Whether the database gave up because it was told to after so many seconds."""
    return getattr(cause, "sqlstate", None) == "57014" or getattr(cause, "args", ())[:1] in ((1969,), (3024,))


def _sentence(message: str) -> str:
    return f"{message[:1].upper()}{message[1:]}."
