"""Reads the database: each page has one connection and one read-only transaction, and closes both."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, event, exc

from usage_instrument.database import dialects, engines, standbys
from usage_instrument.database.inspection import CREATE, check
from usage_instrument.database.reflection import find_tables
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, SchemaError
from usage_instrument.runtime import log
from usage_instrument.settings import Settings

from .errors import PageError, sentence
from .page_jobs import Job

T = TypeVar("T")

STATEMENT_TIMEOUT = 30
"""Seconds that one statement may take, unless the setting `read_timeout` says otherwise."""


class Reader:
    """One database, by a sync or an async driver, for any number of threads."""

    def __init__(self, database: engines.Database, tables: Tables | None, schema: str | None) -> None:
        settings = Settings.from_environment(enabled=False)
        self._timeout = math.ceil(settings.read_timeout or STATEMENT_TIMEOUT)
        self._engine = engines.own_engine(_patient(engines.parse(database), self._timeout))
        if tables is not None and not isinstance(tables, Tables):
            raise ConfigurationError(
                f"tables is what define_tables() returns, or Tables.of(Model), not {type(tables).__name__}"
            )
        schemas = engines.schema_translate_map(database)
        self._given = self._tables = None if tables is None else tables.translated(schemas)
        schema = schema if schema is not None else settings.schema
        self._schema = schemas.get(schema, schema)

    def __str__(self) -> str:
        return engines.masked(self._engine)

    def read(self, work: Callable[[Connection, Tables], T], job: Job | None = None) -> T:
        """The result of `work`, which the job can cancel. Raises PageError, also for an error of the database."""
        self._check_file()
        connector = engines.connect(self._engine)  # a pool of its own, because some belong to an event loop
        try:
            return standbys.retried(
                connector.dialect_name, lambda: connector.run(lambda connection: self._page(connection, work, job))
            )
        except (exc.DBAPIError, exc.TimeoutError, OSError) as error:
            if job is not None:
                job.check()
            raise self._page_error(error) from None
        finally:
            connector.dispose()

    def _page(self, connection: Connection, work: Callable[[Connection, Tables], T], job: Job | None) -> T:
        if job is not None:
            event.listen(connection, "before_cursor_execute", lambda *_: job.check())
            job.cancel_by(self._canceller(connection))
        try:
            return self._work(connection, work)
        finally:
            # Closed: no connection stays idle on the server, is inherited by a fork, or stays read-only.
            connection.invalidate()

    def _canceller(self, connection: Connection) -> Callable[[], object]:
        """A function that ends the running query from another thread; its timeout ends that of another driver."""
        driver: Any = connection.connection.driver_connection
        if hasattr(driver, "thread_id"):  # PyMySQL, mysqlclient
            query, engine = f"KILL QUERY {driver.thread_id()}", self._engine

            def kill() -> None:
                connector = engines.connect(engine)
                try:
                    connector.run(lambda another: another.exec_driver_sql(query))
                finally:
                    connector.dispose()

            return kill
        cancel = getattr(driver, "cancel", None) or getattr(driver, "interrupt", None)
        if cancel is None or inspect.iscoroutinefunction(cancel):
            return lambda: None
        return lambda: cancel()

    def _work(self, connection: Connection, work: Callable[[Connection, Tables], T]) -> T:
        connection = dialects.get(connection.dialect.name).begin_read_only(connection, self._timeout)
        tables = self._tables or self._found(connection)
        try:
            answer = work(connection, tables)
        except exc.DBAPIError as error:
            if _is_timeout(error.orig):
                raise
            self._tables = self._given  # those that were found may have changed
            connection.rollback()
            problems = [problem.message for problem in check(connection, tables) if problem.blocks_writing]
            if problems:
                raise PageError(503, "The tables are not ready", *map(sentence, problems)) from None
            raise
        self._tables = tables
        return answer

    def _found(self, connection: Connection) -> Tables:
        """The tables with their actual type of user ids."""
        try:
            return find_tables(connection, self._schema)
        except SchemaError as error:
            place = f"{self._schema}.feature_usage" if self._schema else "feature_usage"
            raise PageError(
                503,
                f"There is no table {place} here",
                f"This dashboard reads {self}.",
                sentence(str(error)),
            ) from None

    def _check_file(self) -> None:
        url = self._engine.url
        name = url.database or ""
        if url.get_backend_name() == "sqlite" and not name.startswith("file:") and not Path(name).exists():
            # Connecting would make an empty one.
            raise PageError(503, "There is no such file", f"This dashboard reads {self}. To create it, {CREATE}.")

    def _page_error(self, error: Exception) -> PageError:
        cause = getattr(error, "orig", None) or error
        # Without the statement: its parameters are user ids.
        kind = type(cause).__name__
        first_line = str(cause).partition("\n")[0]
        log.limited(logging.ERROR, ("dashboard", kind), "the dashboard cannot read %s: %s: %s", self, kind, first_line)
        if _is_timeout(cause):
            return PageError(
                503,
                "This takes too long",
                f"{self} did not answer within {self._timeout} seconds.",
                "Choose a shorter period.",
            )
        if getattr(error, "statement", None):
            return PageError(
                500,
                "The database refused a statement",
                f"{self} answered with {kind}; the log of this process has the details.",
                "Try a shorter period, or run `usage-instrument db check`.",
            )
        return PageError(
            503,
            "The database cannot be reached",
            f"{self}: {kind}; the log of this process has the details.",
            "Is the server running, and is the URL right?",
        )


def _patient(database: engines.Database, timeout: int) -> engines.Database:
    """The URL with time for a long statement, which these drivers would take for a lost network."""
    if isinstance(database, URL) and database.drivername.endswith(("pymysql", "mysqldb")):
        return database.update_query_dict({"read_timeout": str(timeout + 5)} | dict(database.query))
    return database


def _is_timeout(cause: BaseException | None) -> bool:
    """Whether the database ended the statement for its timeout."""
    return getattr(cause, "sqlstate", None) == "57014" or getattr(cause, "args", ())[:1] in ((1969,), (3024,))
