"""The connections of the host's that take rows of the outbox: SQLAlchemy's and Django's, behind one interface."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Dialect, Engine, exc
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from usage_instrument.database import dialects, urls
from usage_instrument.database.driver_errors import Fault

_DJANGO: dict[str, Callable[..., Dialect]] = {
    "postgresql": PGDialect,
    "mysql": MySQLDialect,
    "sqlite": SQLiteDialect,
}
"""The dialects by Django's `vendor`."""
_SAVEPOINT = "usage_instrument"
_UNDO = f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}; RELEASE SAVEPOINT {_SAVEPOINT}"
_IN_TRANSACTION = 2
"""libpq's status of a transaction in which no statement has failed."""


class TransactionEndedError(Exception):
    """A savepoint could not be rolled back: its transaction has ended with the statement."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        """The statement's."""


class HostConnection(Protocol):
    """A connection with an open transaction."""

    dialect: Dialect

    def execute(self, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run a statement once for each row of parameters."""

    def execute_in_savepoint(self, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """As execute, and leave the transaction as it was if that fails.

        Raises TransactionEndedError if the savepoint cannot be rolled back.
        """

    def scalar(self, query: str) -> Any:
        """The only value of a query."""


class SqlAlchemyConnection:
    """A Connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect

    def execute_in_savepoint(self, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """As HostConnection.execute_in_savepoint."""
        try:
            if len(rows) == 1 and self._execute_by_driver(text, rows[0]):
                return
        except self.dialect.loaded_dbapi.Error as error:
            raise exc.DBAPIError(text, None, error) from error
        except TransactionEndedError as ended:
            raise TransactionEndedError(self._as_by_sqlalchemy(text, ended.error)) from ended
        with self._savepoint():
            self.execute(text, rows)

    def _as_by_sqlalchemy(self, text: str, error: Exception) -> Exception:
        """The error of a statement that SQLAlchemy did not run, as the host would see it of its own: it may look for
        its class, and rolls back. A connection that is lost is invalidated, as its ROLLBACK would fail."""
        driver: Any = self.dialect.loaded_dbapi
        if not isinstance(error, driver.Error):
            return error
        connection = self._connection
        is_lost = self.dialect.is_disconnect(error, connection.connection, None)
        wrapped: Exception = exc.DBAPIError.instance(
            text, None, error, driver.Error, connection_invalidated=is_lost, dialect=self.dialect
        )
        if is_lost:
            connection.invalidate(error)
        return wrapped

    def _execute_by_driver(self, text: str, row: Any) -> bool:
        """Run a statement within a savepoint in as few steps as the driver allows; False if it is another driver, or
        has not begun."""
        cursor = self._binding_cursor()
        if cursor is not None:
            _execute_in_one_trip(cursor, text, row)
            return True
        if not self._is_asyncpg_in_transaction():
            return False
        with self._open_savepoint():
            self._connection.connection.cursor().execute(text, row)  # SQLAlchemy's, which keeps prepared statements
        return True

    def _binding_cursor(self) -> Any:
        """A cursor of a driver of PostgreSQL's that binds parameters, so that it sends several statements at once."""
        found = self._connection.connection
        driver: Any = found.driver_connection
        if self.dialect.driver == "psycopg" and self.dialect.is_async:
            return _AwaitedCursor(found.dbapi_connection, sys.modules["psycopg"].AsyncClientCursor(driver))
        if self.dialect.driver == "psycopg":
            return sys.modules["psycopg"].ClientCursor(driver)
        return driver.cursor() if self.dialect.driver == "psycopg2" else None

    def _is_asyncpg_in_transaction(self) -> bool:
        # SQLAlchemy begins with its first statement.
        driver: Any = self._connection.connection.driver_connection
        return self.dialect.driver == "asyncpg" and bool(driver.is_in_transaction())

    @contextmanager
    def _open_savepoint(self) -> Iterator[None]:
        """A savepoint by the driver alone, in one round trip. The COMMIT that is next releases it."""
        run: Any = self._connection.connection.dbapi_connection.run_async  # type: ignore[union-attr]
        run(lambda driver: driver.execute(f"SAVEPOINT {_SAVEPOINT}"))
        try:
            yield
        except Exception as error:
            try:
                run(lambda driver: driver.execute(_UNDO))
            except Exception:
                raise TransactionEndedError(error) from error
            raise

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        connection = self._connection
        if self.dialect.name == "sqlite" and not getattr(connection.connection.driver_connection, "in_transaction", 1):
            connection.exec_driver_sql("BEGIN")  # which the driver puts off; else RELEASE would be the COMMIT
        savepoint = connection.begin_nested()
        try:
            yield
        except Exception as error:
            try:
                savepoint.rollback()
            except Exception:
                raise TransactionEndedError(error) from error
            raise
        savepoint.commit()

    def execute(self, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """As HostConnection.execute."""
        # One row alone needs no executemany, which takes some drivers a round trip more.
        self._connection.exec_driver_sql(text, list(rows) if len(rows) > 1 else rows[0])

    def scalar(self, query: str) -> Any:
        """As HostConnection.scalar."""
        return self._connection.exec_driver_sql(query).scalar()


class DjangoConnection:
    """A connection of Django's within `atomic()`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.dialect = _django_dialect(connection.vendor)

    def execute_in_savepoint(self, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """As HostConnection.execute_in_savepoint."""
        if len(rows) == 1 and self.dialect.name == "postgresql":
            with self._connection.cursor() as cursor:
                if hasattr(cursor, "mogrify"):  # not with the option `server_side_binding`
                    _execute_in_one_trip(cursor, text, rows[0])
                    return
        with self._savepoint():
            self.execute(text, rows)

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        connection = self._connection
        savepoint = connection.savepoint()
        try:
            yield
        except Exception as error:
            try:
                connection.savepoint_rollback(savepoint)
                connection.savepoint_commit(savepoint)  # else it stays until the end
            except Exception:
                raise TransactionEndedError(error) from error
            raise
        connection.savepoint_commit(savepoint)

    def execute(self, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """As HostConnection.execute."""
        with self._connection.cursor() as cursor:
            if len(rows) > 1:
                cursor.executemany(text, rows)
            else:
                cursor.execute(text, rows[0])

    def scalar(self, query: str) -> Any:
        """As HostConnection.scalar."""
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]


class _AwaitedCursor:
    """A cursor of psycopg's AsyncConnection, whose statements SQLAlchemy awaits."""

    def __init__(self, adapted: Any, cursor: Any) -> None:
        self._adapted = adapted
        self._cursor = cursor
        self.connection = cursor.connection

    def execute(self, text: str, parameters: Any = None) -> None:
        """As the cursor's."""
        self._adapted.run_async(lambda _: self._cursor.execute(text, parameters))


def _execute_in_one_trip(cursor: Any, text: str, row: Any) -> None:
    """Run a statement within a savepoint of PostgreSQL's, in one round trip: the driver binds the parameters, as a
    server that binds them takes one statement at a time."""
    # As text, which drivers quote in half the time that they take for a UUID or a datetime.
    plain = [value if value is None or type(value) is int else str(value) for value in row]
    try:
        cursor.execute(f"SAVEPOINT {_SAVEPOINT}; {text}; RELEASE SAVEPOINT {_SAVEPOINT}", plain)
    except Exception as error:
        if cursor.connection.info.transaction_status == _IN_TRANSACTION:  # the driver has refused a value
            raise
        try:
            cursor.execute(_UNDO)
        except Exception:
            raise TransactionEndedError(error) from error
        raise


def aborts(host: HostConnection) -> bool:
    """Whether a statement that fails outside of a savepoint aborts the transaction."""
    return _dialect(host).aborts_transaction


def is_aborted(host: HostConnection, error: Exception) -> bool:
    """Whether the transaction had been aborted before the statement: a COMMIT will roll it back."""
    return _dialect(host).is_aborted(_wrapped(error))


def is_ended(host: HostConnection, error: Exception) -> bool:
    """Whether the error has ended the transaction."""
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    return _dialect(host).is_ended(_wrapped(error), host.scalar)


def fault_of(host: HostConnection, error: Exception) -> Fault | None:
    """The class of a database's error; None for another exception."""
    if _driver_error(error) is error and not isinstance(error, exc.DBAPIError):
        return None
    return _dialect(host).classify(_wrapped(error))


def _dialect(host: HostConnection) -> dialects.Dialect:
    return dialects.get(host.dialect.name)


def _wrapped(error: Exception) -> exc.DBAPIError:
    return error if isinstance(error, exc.DBAPIError) else exc.DBAPIError(None, None, _driver_error(error))


def _driver_error(error: Exception) -> BaseException:
    """What SQLAlchemy or Django has wrapped."""
    return getattr(error, "orig", None) or error.__cause__ or error


@cache
def _django_dialect(vendor: str) -> Dialect:
    return _DJANGO[vendor](paramstyle="format")


def adapt(connection: Any) -> HostConnection:
    """The connection behind the interface."""
    return SqlAlchemyConnection(connection) if isinstance(connection, Connection) else DjangoConnection(connection)


def key_of(bind: Any) -> Hashable:
    """What decides on the database, the role and the options of an Engine, Connection or connection of Django's, whose
    settings tests change."""
    if isinstance(bind, Engine):
        return bind
    if isinstance(bind, Connection):
        return bind.engine
    settings = bind.settings_dict
    return bind.vendor, settings["NAME"], settings["HOST"], settings["PORT"], settings["USER"], bind.alias


def is_same(key: Any, database: Any) -> bool:
    """Whether a key of `key_of` is the configured engine, or one with other options and the same pool."""
    configured = getattr(database, "sync_engine", database)
    return isinstance(key, Engine) and isinstance(configured, Engine) and key.pool is configured.pool


def place_of(key: Any) -> str | None:
    """The database of an engine or URL, or of a key of `key_of`, without credentials.

    None if the URL does not name it: SQLite in memory, an engine with a `creator`, a service of libpq.
    """
    try:
        is_djangos = isinstance(key, tuple) and not isinstance(key, URL)  # which is a tuple, too
        found = _django_url(*key[:4]) if is_djangos else urls.url_of(key)
        if found is None or not found.database or urls.is_in_memory(found):
            return None
        return urls.named(found, None).replace("mariadb://", "mysql://", 1)
    except Exception:  # of settings that Django does not take either
        return None


def _django_url(vendor: str, name: Any, host: str, port: str | int) -> URL | None:
    """As the integration's `database_url` names it; None without a name, which a service of libpq then has."""
    if vendor not in _DJANGO or not name:
        return None
    if vendor == "sqlite":
        return URL.create("sqlite", database=str(name))
    is_socket = host.startswith("/")
    query = {"host": host} if is_socket and vendor == "postgresql" else {}
    return URL.create(
        vendor,
        host=None if is_socket else host or None,
        port=int(port) if port else None,
        database=str(name),
        query=query,
    )
