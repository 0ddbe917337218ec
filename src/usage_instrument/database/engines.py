"""The package's own engine, built from a URL or from the host's engine, and never shared with the host."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, exc
from sqlalchemy.pool import NullPool, QueuePool

from usage_instrument.errors import ConfigurationError

from .connections import AsyncConnector, HeldConnector, SyncConnector
from .connections import Connector as Connector
from .urls import Database as Database
from .urls import is_in_memory as is_in_memory
from .urls import masked as masked
from .urls import named as named
from .urls import parse as parse
from .urls import scrubbed as scrubbed
from .urls import url_of as url_of

CONNECT_TIMEOUT = 5
"""Seconds to wait for a connection, unless the URL sets it."""
_ANSWER_TIMEOUT = 15.0
"""Seconds to wait for an answer, unless there is a `statement_timeout`."""
GRACE = 5.0
"""Seconds that an answer may take after the server has ended the statement."""
_LIBPQ = {"connect_timeout": CONNECT_TIMEOUT, "tcp_user_timeout": 15_000, "client_encoding": "utf8"}
_DRIVER_TIMEOUTS: dict[str, dict[str, Any]] = {
    # Without them a network that drops packets blocks the writer until the kernel gives up, which takes minutes.
    # A prepared statement stays in its session, which a connection pooler gives to other clients. A database or role
    # with another client_encoding would refuse most characters.
    "psycopg": {**_LIBPQ, "prepare_threshold": None},
    "psycopg_async": {**_LIBPQ, "prepare_threshold": None},
    "psycopg2": _LIBPQ,
    "asyncpg": {
        "timeout": CONNECT_TIMEOUT,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: "",  # the unnamed statement, which the next one replaces
    },
    "pymysql": {"connect_timeout": CONNECT_TIMEOUT},
    "mysqldb": {"connect_timeout": CONNECT_TIMEOUT},
    "aiomysql": {"connect_timeout": CONNECT_TIMEOUT},
    "asyncmy": {"connect_timeout": CONNECT_TIMEOUT},
}
_ANSWER_TIMEOUTS = dict.fromkeys(("pymysql", "mysqldb"), ("read_timeout", "write_timeout"))
"""The drivers with an answer timeout of their own, which also holds while connecting."""
_LEGACY_TRANSACTION_CONTROL = -1  # of sqlite3, in Python 3.12 and later
_RECYCLE = 600
"""Seconds after which a connection is replaced: reads on a former primary go on without an error."""
_EXTRAS = {
    "psycopg": "postgresql",
    "asyncpg": "asyncpg",
    "pymysql": "mysql",
    "aiosqlite": "aiosqlite",
}
"""The extra of this package that installs a driver."""
_RECOMMENDED = {
    "postgresql": ("postgresql+psycopg", "postgresql"),
    "mysql": ("mysql+pymysql", "mysql"),
    "mariadb": ("mariadb+pymysql", "mysql"),
}
"""The scheme and extra to recommend for a URL without a driver, or with one that no extra installs."""
_PACKAGES = {"mysql": "mysql-connector-python", "mysqldb": "mysqlclient", "psycopg2": "psycopg2-binary"}
FOREIGN_KEYS = "foreign_keys"
"""The parameter of a SQLite URL that has our connections enforce foreign keys, as connections of other databases do."""
_REPLACED_OPTIONS = {
    *("isolation_level", "schema_translate_map"),  # see `own_engine` and `schema_translate_map`
    *("postgresql_readonly", "postgresql_deferrable"),
    *("stream_results", "yield_per", "max_row_buffer"),  # a cursor of the server needs a transaction
}
"""Execution options of the host's engine that ours does not take."""


def connect(database: Database, statement_timeout: float | None = None, connections: int = 1) -> Connector:
    """A connector with a pool of its own, of `connections` unless the host's engine sets another size.

    With a `statement_timeout`, in seconds, `run` fails if an answer takes much longer; it is then for one thread at a
    time. Raises ConfigurationError, also for a missing driver.
    """
    answer_timeout = statement_timeout + GRACE if statement_timeout else None
    driver_timeout = _ANSWER_TIMEOUT if statement_timeout is None else answer_timeout
    engine = own_engine(database, connections, driver_timeout)
    kind = AsyncConnector if engine.dialect.is_async else SyncConnector
    return _for(database, kind(engine, answer_timeout))


def connect_committing(database: Database, answer_timeout: float) -> Connector:
    """As `connect`, with AUTOCOMMIT and without any statement that the caller does not send.

    A connection that has been closed by the server fails at its next statement.
    """
    engine = own_engine(database, answer_timeout=answer_timeout, probes=False)
    # Once per connection: SQLAlchemy sets and resets the execution option around every use, a round trip each.
    event.listen(engine, "connect", lambda driver, _: engine.dialect.set_isolation_level(driver, "AUTOCOMMIT"))
    if engine.dialect.is_async:
        return _for(database, AsyncConnector(engine, answer_timeout))
    if engine.dialect.driver == "psycopg" and isinstance(parse(database), URL):
        event.listen(engine, "connect", _prepare_statements)
    # A NullPool is the host's decision against open connections; SQLite has no connection to save.
    may_hold = engine.dialect.name != "sqlite" and not isinstance(engine.pool, NullPool)
    return _for(database, (HeldConnector if may_hold else SyncConnector)(engine, answer_timeout))


def _for(database: Database, connector: Connector) -> Connector:
    connector.may_create_file = not isinstance(database, str | URL)  # the host's engine may have its own creator
    return connector


def _prepare_statements(driver: Any, _: object) -> None:
    """Prepare repeated statements, which makes a commit a sixth cheaper, unless there is a connection pooler.

    Behind a pooler the backend's own process id differs from the one that the connection reported.
    """
    if driver.prepare_threshold is None:
        with driver.cursor() as cursor:
            (process,) = cursor.execute("SELECT pg_backend_pid()").fetchone()
        if process == driver.info.backend_pid:
            driver.prepare_threshold = 2


def own_engine(
    database: Database, connections: int = 1, answer_timeout: float | None = _ANSWER_TIMEOUT, *, probes: bool = True
) -> Engine:
    """An engine like the host's with a pool of its own; for an AsyncEngine, its sync engine.

    Without `probes`, connections are neither pinged nor rolled back, unless the host's engine does so.
    """
    database = parse(database)
    if isinstance(database, URL):
        engine = _engine_of_url(database, connections, answer_timeout, probes)
    else:
        engine = _engine_like(database)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _note_file)
        event.listen(engine, "checkout", _refuse_former_file)
    return engine


def _engine_like(database: Any) -> Engine:
    # The pool of an AsyncEngine binds connections to the host's event loop.
    theirs = database if isinstance(database, Engine) else database.sync_engine
    engine = Engine(theirs.pool.recreate(), theirs.dialect, theirs.url, hide_parameters=theirs.hide_parameters)
    options = theirs.get_execution_options()
    engine.update_execution_options(**{name: options[name] for name in options if name not in _REPLACED_OPTIONS})
    if engine.dialect.name in {"mysql", "mariadb"}:
        # An AUTOCOMMIT of the host's would commit each statement of a batch. The other dialects set it per transaction.
        event.listen(engine, "connect", lambda driver, _: engine.dialect.set_isolation_level(driver, "READ COMMITTED"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _leave_transactions_alone)
    return engine


def _leave_transactions_alone(driver: Any, _: object) -> None:
    """Undo `autocommit=False` of sqlite3 (Python 3.12 and later), which begins transactions before any statement."""
    if hasattr(driver, "run_async"):
        driver.run_async(_leave_transactions_of_aiosqlite_alone)
    elif getattr(driver, "autocommit", None) is False:
        driver.rollback()
        driver.autocommit = _LEGACY_TRANSACTION_CONTROL


async def _leave_transactions_of_aiosqlite_alone(connection: Any) -> None:
    # aiosqlite has no public name for it. The attribute may be set on the connection's own thread only.
    wrapped = getattr(connection, "_conn", None)
    if getattr(wrapped, "autocommit", None) is False:
        await connection.rollback()
        await connection._execute(setattr, wrapped, "autocommit", _LEGACY_TRANSACTION_CONTROL)


def _note_file(driver: Any, record: Any) -> None:
    """Keep which file a connection has open: it goes on writing to one that was deleted or replaced by a backup."""
    with contextlib.closing(driver.cursor()) as cursor:
        cursor.execute("PRAGMA database_list")
        record.info["path"] = next(row[2] for row in cursor.fetchall() if row[1] == "main")
    record.info["file"] = _identity(record.info["path"])


def _refuse_former_file(_: object, record: Any, __: object) -> None:
    """Have the pool open another connection if the path leads to another file by now."""
    if _identity(record.info["path"]) != record.info["file"]:
        raise exc.DisconnectionError("the file was replaced")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - one call a flush
    except OSError:
        return None
    return status.st_dev, status.st_ino


def schema_translate_map(database: Database | None) -> Mapping[str | None, str | None]:
    """The option of the host's engine, which `Tables.translated` applies: `{None: "tenant_a"}`."""
    sync_engine: Any = getattr(database, "sync_engine", database)
    if not isinstance(sync_engine, Engine):
        return {}
    return sync_engine.get_execution_options().get("schema_translate_map") or {}


def _enforcing_foreign_keys(driver: Any, _: object) -> None:
    with contextlib.closing(driver.cursor()) as cursor:
        cursor.execute("PRAGMA foreign_keys = ON")


def _engine_of_url(url: URL, connections: int, answer_timeout: float | None, probes: bool) -> Engine:
    if url.get_backend_name() == "sqlite" and FOREIGN_KEYS in url.query:  # which sqlite3 does not know
        plain = url.difference_update_query([FOREIGN_KEYS])
        if url.query[FOREIGN_KEYS] != "on":
            raise ConfigurationError(
                f"{FOREIGN_KEYS}= in a SQLite URL is 'on': write sqlite:///usage.db?{FOREIGN_KEYS}=on"
            )
        engine = _engine_of_url(plain, connections, answer_timeout, probes)
        event.listen(engine, "connect", _enforcing_foreign_keys)
        return engine
    try:
        driver = url.get_dialect().driver
        timeouts = _timeouts(driver, url, answer_timeout)
        options: dict[str, Any] = {"pool_pre_ping": probes, "pool_recycle": _RECYCLE}
        if not probes:
            options["pool_reset_on_return"] = None
        if url.get_dialect().is_async:
            import greenlet  # noqa: F401 - SQLAlchemy 2.0 misses it at the first flush only
            from sqlalchemy.ext.asyncio import create_async_engine

            return create_async_engine(url, connect_args=timeouts, **options).sync_engine
        if url.get_backend_name() == "sqlite":
            options["pool_pre_ping"] = False
        else:
            options |= {"poolclass": QueuePool, "pool_size": connections, "max_overflow": 1}
        return create_engine(url, connect_args=timeouts, **options)
    except exc.NoSuchModuleError:
        raise ConfigurationError(
            f"no such database or driver: {url.drivername!r}; "
            "it looks like postgresql+psycopg (not postgres), mysql+pymysql or sqlite"
        ) from None
    except ImportError as error:
        module = (error.name or url.get_driver_name()).partition(".")[0].lower()
        extra = _EXTRAS.get(url.get_driver_name() if module == "greenlet" else module)
        fix = f'pip install "usage-instrument[{extra}]"' if extra else f"pip install {_PACKAGES.get(module, module)}"
        recommended = _RECOMMENDED.get(url.get_backend_name())
        if "+" not in url.drivername and recommended is not None:
            fix = _write(*recommended)
        elif extra is None and recommended is not None and not url.get_dialect().is_async:
            fix = f"{_write(*recommended)}, or {fix}"
        raise ConfigurationError(f"the driver of {url.drivername!r} is not installed: {fix}") from None
    except (exc.ArgumentError, ValueError) as error:
        raise ConfigurationError(scrubbed(f"the database URL is wrong: {error}", url)) from None


def _write(scheme: str, extra: str) -> str:
    return f'write {scheme}://… and pip install "usage-instrument[{extra}]"'


def _timeouts(driver: str, url: URL, answer: float | None = None) -> dict[str, Any]:
    timeouts = _DRIVER_TIMEOUTS.get(driver, {})
    if answer is not None:
        timeouts = {**timeouts, **dict.fromkeys(_ANSWER_TIMEOUTS.get(driver, ()), math.ceil(answer))}
    return {name: value for name, value in timeouts.items() if name not in url.query}
