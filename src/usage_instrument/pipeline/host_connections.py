"""The connections of the host's that take rows of the outbox: SQLAlchemy's and Django's, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Dialect, Engine, exc
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from usage_instrument.database import engines

_DJANGO: dict[str, Callable[..., Dialect]] = {
    "postgresql": PGDialect,
    "mysql": MySQLDialect,
    "sqlite": SQLiteDialect,
}
"""The dialects by Django's `vendor`."""
_DEADLOCK = 1213
"""MySQL's error that ends the transaction; any other leaves it as it was before the statement."""


class HostConnection(Protocol):
    """A connection with an open transaction."""

    dialect: Dialect
    survives: bool
    """Whether a statement that fails leaves the transaction as it was."""
    errors: type[Exception]
    """What the driver raises."""

    def savepoint(self) -> AbstractContextManager[object]:
        """A savepoint, which is rolled back if its body raises."""

    def execute(self, text: str, rows: Sequence[Any]) -> None:
        """Run a statement once for each row of parameters."""

    def is_lost(self, error: Exception) -> bool:
        """Whether the error ended the transaction, although the connection survives others."""


class SqlAlchemyConnection:
    """A Connection."""

    errors: type[Exception] = exc.SQLAlchemyError

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect
        self.survives = connection.dialect.name == "sqlite"

    def savepoint(self) -> AbstractContextManager[object]:
        """As HostConnection.savepoint."""
        return self._connection.begin_nested()

    def execute(self, text: str, rows: Sequence[Any]) -> None:
        """As HostConnection.execute."""
        # One row alone needs no executemany, which takes some drivers a round trip more.
        self._connection.exec_driver_sql(text, list(rows) if len(rows) > 1 else rows[0])

    def is_lost(self, error: Exception) -> bool:
        """As HostConnection.is_lost."""
        return False


class DjangoConnection:
    """A connection of Django's within `atomic()`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.dialect = _django_dialect(connection.vendor)
        self.survives = connection.vendor != "postgresql"
        self.errors: type[Exception] = Exception  # also what an execute_wrapper of the host's raises

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """As HostConnection.savepoint."""
        connection = self._connection
        savepoint = connection.savepoint()
        try:
            yield
        except BaseException:
            connection.savepoint_rollback(savepoint)
            connection.savepoint_commit(savepoint)  # else it stays until the end
            raise
        connection.savepoint_commit(savepoint)

    def execute(self, text: str, rows: Sequence[Any]) -> None:
        """As HostConnection.execute."""
        with self._connection.cursor() as cursor:
            if len(rows) > 1:
                cursor.executemany(text, rows)
            else:
                cursor.execute(text, rows[0])

    def is_lost(self, error: Exception) -> bool:
        """As HostConnection.is_lost."""
        return error.args[:1] == (_DEADLOCK,) and self._connection.vendor == "mysql"


@cache
def _django_dialect(vendor: str) -> Dialect:
    return _DJANGO[vendor](paramstyle="format")


def adapt(connection: Any) -> HostConnection:
    """The connection behind the interface."""
    return SqlAlchemyConnection(connection) if isinstance(connection, Connection) else DjangoConnection(connection)


def key_of(bind: Any) -> Hashable:
    """What decides on the database of an Engine, Connection or connection of Django's, whose settings tests change."""
    if isinstance(bind, Engine | Connection):
        return bind.engine
    settings = bind.settings_dict
    return bind.vendor, settings["NAME"], settings["HOST"], settings["PORT"]


def is_at(key: Any, database: engines.Database) -> bool:
    """Whether a key of `key_of` is of that database, as far as the names of both say."""
    try:
        found = _django_url(*key) if isinstance(key, tuple) else key
        return found is not None and _place(found) == _place(database)
    except Exception:  # an engine with a creator and no URL
        return False


def _place(database: engines.Database) -> str:
    return engines.named(database, None).replace("mariadb://", "mysql://", 1)


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
