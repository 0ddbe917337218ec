"""The writer's own engine, sync or async, built from a URL or from the host's engine and never shared with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, create_engine, event, exc, make_url
from sqlalchemy.pool import NullPool, QueuePool

from usage_instrument.errors import ConfigurationError

from .connections import AsyncConnector, HeldConnector, SyncConnector
from .connections import Connector as Connector
from .urls import Database as Database
from .urls import masked as masked
from .urls import named as named
from .urls import url_of as url_of

if TYPE_CHECKING:
    pass

CONNECT_TIMEOUT = 5
"""Seconds to wait for a connection, where the URL does not say."""
_ANSWER_TIMEOUT = 15.0
"""Seconds to wait for an answer, where nobody says how long a statement may take."""
GRACE = 5.0
"""Seconds that an answer may be on its way after the server has ended a statement by itself."""
_DRIVER_TIMEOUTS: dict[str, dict[str, Any]] = {
    # A network that swallows packets must not hold the writer for longer than the kernel's patience, which is minutes.
    # What is prepared stays in a session, which a pooler hands to others.
    "psycopg": {"connect_timeout": CONNECT_TIMEOUT, "tcp_user_timeout": 15_000, "prepare_threshold": None},
    "psycopg_async": {"connect_timeout": CONNECT_TIMEOUT, "tcp_user_timeout": 15_000, "prepare_threshold": None},
    "psycopg2": {"connect_timeout": CONNECT_TIMEOUT, "tcp_user_timeout": 15_000},
    "asyncpg": {
        "timeout": CONNECT_TIMEOUT,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: "",  # the one without a name, which is replaced by the next
    },
    "pymysql": {"connect_timeout": CONNECT_TIMEOUT},
    "mysqldb": {"connect_timeout": CONNECT_TIMEOUT},
    "aiomysql": {"connect_timeout": CONNECT_TIMEOUT},
    "asyncmy": {"connect_timeout": CONNECT_TIMEOUT},
}
_ANSWER_TIMEOUTS = dict.fromkeys(("pymysql", "mysqldb"), ("read_timeout", "write_timeout"))
"""The drivers that have one themselves, which holds already while a connection is being made."""
_EXTRAS = {
    "psycopg": "postgresql",
    "psycopg2": "postgresql",
    "asyncpg": "asyncpg",
    "pymysql": "mysql",
    "aiosqlite": "sqlite-async",
    "greenlet": "asyncpg",
}
_OURS = {
    "postgresql": ("postgresql+psycopg", "postgresql"),
    "mysql": ("mysql+pymysql", "mysql"),
    "mariadb": ("mariadb+pymysql", "mysql"),
}
"""What to write instead of a URL without a driver, which means one that is harder to install."""
_PACKAGES = {"mysqldb": "mysqlclient"}


def parse(database: Database) -> Database:
    """The same database, its URL parsed. Raises ConfigurationError for what no writer can use."""
    database = _parsed(database)
    url = url_of(database)
    if "@" in (url.host or ""):
        # What stands before it belongs to the password, so the URL is not repeated, here or anywhere.
        raise ConfigurationError("percent-encode the password of the database URL (@ is %40): it has more than one @")
    if url.get_backend_name() == "sqlite" and url.host:
        raise ConfigurationError("a SQLite URL names its file after three slashes, such as sqlite:///usage.db")
    if url.get_backend_name() == "sqlite" and _in_memory(url):
        raise ConfigurationError(
            "in-memory SQLite lives in one connection, and the writer has its own: use a file, such as sqlite:///usage.db"
        )
    return database


def is_in_memory(database: Database) -> bool:
    """Whether it is a SQLite that ends with its one connection. Raises ConfigurationError for what is no database."""
    url = url_of(_parsed(database))
    return url.get_backend_name() == "sqlite" and _in_memory(url)


def _parsed(database: Database) -> Database:
    if not isinstance(database, str):
        return database
    try:
        return make_url(database)
    except (exc.ArgumentError, ValueError):  # the latter for a port that is none
        # The text may hold a password, so it is not repeated.
        raise ConfigurationError(
            "the database URL cannot be parsed; it looks like postgresql+psycopg://user:password@host/name"
        ) from None


def _in_memory(url: URL) -> bool:
    name = url.database or ""
    return name in {"", ":memory:", "file::memory:"} or ":memory:" in name or url.query.get("mode") == "memory"


def connect(database: Database, statement_timeout: float | None = None, connections: int = 1) -> Connector:
    """A connector of one's own to a database, which keeps so many connections at most, unless the host's engine says
    otherwise. Raises ConfigurationError, also when the driver is not installed.

    If the server ends statements after `statement_timeout` seconds, one whose answer takes much longer than that fails;
    such a connector is for one thread at a time.
    """
    patience = statement_timeout + GRACE if statement_timeout else None
    own = own_engine(database, connections, _ANSWER_TIMEOUT if statement_timeout is None else patience)
    return AsyncConnector(own, patience) if own.dialect.is_async else SyncConnector(own, patience)


def connect_committing(database: Database, patience: float) -> Connector:
    """As `connect`, where each statement is a transaction of its own, and fails if its answer takes longer than that
    many seconds. Nothing is asked but what the caller asks: a connection that has ended shows at its next statement.
    """
    engine = own_engine(database, answer_timeout=patience, probes=False)
    # Once a connection: the option of the same name is set and reset around every use, and each is a round trip.
    event.listen(engine, "connect", lambda driver, _: engine.dialect.set_isolation_level(driver, "AUTOCOMMIT"))
    if engine.dialect.is_async:
        return AsyncConnector(engine, patience, lingers=True)
    if engine.dialect.driver == "psycopg" and isinstance(parse(database), URL):
        event.listen(engine, "connect", _prepare)
    # A host that keeps no connections, or a file, is taken at its word.
    keeps = engine.dialect.name != "sqlite" and not isinstance(engine.pool, NullPool)
    return HeldConnector(engine, patience) if keeps else SyncConnector(engine, patience, lingers=True)


def _prepare(driver: Any, _: object) -> None:
    """Have statements prepared that come again, which spares the server a sixth of a commit, where no pooler is in
    between: each of those tells of a process that is not the one it answers by."""
    if driver.prepare_threshold is None:
        with driver.cursor() as cursor:
            (process,) = cursor.execute("SELECT pg_backend_pid()").fetchone()
        if process == driver.info.backend_pid:
            driver.prepare_threshold = 2


def own_engine(
    database: Database, connections: int = 1, answer_timeout: float | None = _ANSWER_TIMEOUT, *, probes: bool = True
) -> Engine:
    """An engine of one's own to a database, as `connect` makes it; of an AsyncEngine, the sync one inside. Without
    `probes`, no connection is asked whether it lives, nor rolled back, unless the host's engine says otherwise."""
    database = parse(database)
    if isinstance(database, Engine):
        return Engine(database.pool.recreate(), database.dialect, database.url)
    if isinstance(database, URL):
        return _own_engine(database, connections, answer_timeout, probes)
    # An AsyncEngine; its pool ties connections to the host's event loop, so the copy has a pool of its own too.
    theirs = database.sync_engine  # type: ignore[union-attr]
    return Engine(theirs.pool.recreate(), theirs.dialect, theirs.url)


def _own_engine(url: URL, connections: int, answer_timeout: float | None, probes: bool) -> Engine:
    try:
        driver = url.get_dialect().driver
        timeouts = _timeouts(driver, url, answer_timeout)
        options: dict[str, Any] = {"pool_pre_ping": probes}
        if not probes:
            options["pool_reset_on_return"] = None
        if url.get_dialect().is_async:
            # create_async_engine needs greenlet; say so before the first flush does.
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
        extra = _EXTRAS.get(module)
        fix = f'pip install "usage-instrument[{extra}]"' if extra else f"pip install {_PACKAGES.get(module, module)}"
        ours = _OURS.get(url.drivername)
        if ours is not None:
            fix = f'write {ours[0]}://… and pip install "usage-instrument[{ours[1]}]"'
        raise ConfigurationError(f"the driver of {url.drivername!r} is not installed: {fix}") from None
    except (exc.ArgumentError, ValueError) as error:
        raise ConfigurationError(f"the database URL is wrong: {error}") from None


def _timeouts(driver: str, url: URL, answer: float | None = None) -> dict[str, Any]:
    timeouts = _DRIVER_TIMEOUTS.get(driver, {})
    if answer is not None:
        timeouts = {**timeouts, **dict.fromkeys(_ANSWER_TIMEOUTS.get(driver, ()), math.ceil(answer))}
    return {name: value for name, value in timeouts.items() if name not in url.query}
