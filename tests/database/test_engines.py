"""The writer's engine: its own pool over the host's listeners, no password in any text, and clear refusals."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import usage_instrument as usage
from conftest import Database
from reading import SQLALCHEMY, made
from usage_instrument.database import dialects, engines
from usage_instrument.database.connections import SyncConnector
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import top_features
from usage_instrument.runtime import log
from usage_instrument.schema import create_all, define_tables
from usage_instrument.settings import Settings
from usage_instrument.tracker import Tracker


def one(connection: sa.Connection) -> object:
    return connection.scalar(sa.text("SELECT 1"))


# ---- what a database is


@pytest.mark.parametrize("form", ["text", "url", "engine", "async text", "async engine"])
def test_every_form_of_a_database_is_connected_to(database: Database, form: str) -> None:
    makers: dict[str, Callable[[], Any]] = {
        "text": lambda: database.url,
        "url": lambda: sa.make_url(database.url),
        "engine": database.engine,
        "async text": lambda: database.async_url,
        "async engine": lambda: create_async_engine(database.async_url),
    }
    given = makers[form]()
    parsed = engines.parse(given)
    assert engines.url_of(parsed).get_backend_name() == engines.url_of(given).get_backend_name()
    connector = engines.connect(given)
    assert connector.dialect_name in {"sqlite", "postgresql", "mariadb"}
    try:
        assert [connector.run(one) for _ in range(3)] == [1, 1, 1]
    finally:
        connector.dispose()


def test_an_error_of_the_work_comes_through(database: Database) -> None:
    for url in (database.url, database.async_url):
        connector = engines.connect(url)
        with pytest.raises(sa.exc.DBAPIError):
            connector.run(lambda connection: connection.execute(sa.text("SELECT nonsense FROM nowhere")))
        with pytest.raises(ZeroDivisionError):
            connector.run(lambda connection: 1 // 0)
        assert connector.run(one) == 1
        connector.dispose()


@pytest.mark.parametrize("given", [5, None, object, b"sqlite:///x.db", ["sqlite:///x.db"]], ids=repr)
def test_what_is_no_database(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="the database is a URL, an Engine or an AsyncEngine, not "):
        engines.parse(given)


@pytest.mark.parametrize(
    "text",
    ["", "postgresql", "secret:pw@host/db", "postgresql://user:secret@host:port/db", "postgresql://user:x@h:secret/db"],
)
def test_a_url_that_cannot_be_parsed_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be parsed") as raised:
        engines.parse(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://user:sec@ret@h/db",
        sa.make_url("mysql+pymysql://user:sec@ret@h:1/db"),
        "sqlite://u:sec@ret@h",
    ],
)
def test_a_password_with_an_at_sign_shows_nowhere(url: str | sa.URL) -> None:
    with pytest.raises(ConfigurationError, match=r"percent-encode the password .*\(@ is %40\)") as info:
        engines.parse(url)
    assert "ret" not in str(info.value)


def test_a_sqlite_url_with_two_slashes_names_the_third() -> None:
    with pytest.raises(ConfigurationError, match=r"after three slashes, such as sqlite:///usage\.db"):
        engines.parse("sqlite://usage.db")


@pytest.mark.parametrize("url", ["nonsense://u:secret@h/db", "postgresql+nonsense://u:secret@h/db"])
def test_no_such_driver(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no such database or driver: .*nonsense") as raised:
        engines.connect(url)
    assert "secret" not in str(raised.value)


# ---- in-memory SQLite


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:name?mode=memory&cache=shared&uri=true",
        "sqlite+aiosqlite:///file:name?mode=memory&uri=true",
    ],
)
def test_in_memory_sqlite_is_refused_by_name_with_the_fix(url: str) -> None:
    create: Any = create_async_engine if "aiosqlite" in url else sa.create_engine
    given: Any
    for given in (url, sa.make_url(url), create(url, poolclass=sa.StaticPool)):
        with pytest.raises(ConfigurationError, match=r"^in-memory SQLite .*use a file, such as sqlite:///usage\.db"):
            engines.parse(given)
        with pytest.raises(ConfigurationError, match="in-memory SQLite"):
            Tracker(given)
        if isinstance(given, sa.Engine):
            given.dispose()


@pytest.mark.parametrize(
    "url", ["sqlite:///usage.db", "sqlite:////var/lib/memory/usage.db", "sqlite:///file:x.db?uri=true"]
)
def test_a_file_is_not_refused(url: str) -> None:
    parsed = engines.parse(url)
    assert isinstance(parsed, sa.URL)
    assert os.path.isabs((parsed.database or "").removeprefix("file:"))


# ---- passwords

SECRET = "s3cr3t"
SECRETS = [
    f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/db",
    f"postgresql+psycopg://127.0.0.1:1/db?user=u&password={SECRET}",
    f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/db?sslpassword={SECRET}&application_name=web",
    f"mariadb+pymysql://user:{SECRET}@127.0.0.1:1/db",
    f"mariadb+pymysql://127.0.0.1:1/db?user=u&passwd={SECRET}",
    f"postgresql+asyncpg://user:{SECRET}@127.0.0.1:1/db",
]


@pytest.mark.parametrize("url", SECRETS)
def test_no_password_in_any_text(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "usage_instrument")
    tracker = Tracker(url)
    connector = engines.connect(url)
    tracker.track("export")
    while "cannot write" not in caplog.text:  # said at the third failure
        log.reset()  # the writer of the case before may say it meanwhile, and then nobody does for a minute
        assert tracker.flush(0.1) is False
    stats = tracker.stats()
    tracker.shutdown(0)
    for text in (engines.masked(url), repr(tracker), str(connector), repr(stats), caplog.text):
        assert SECRET not in text
    assert "127.0.0.1" in engines.masked(url)
    assert "127.0.0.1" in repr(tracker)


def test_what_is_no_secret_stays_to_be_seen() -> None:
    assert (
        engines.masked("postgresql+psycopg://u:x@h/db?sslmode=require")
        == "postgresql+psycopg://u:***@h/db?sslmode=require"
    )


# ---- a driver that is not installed

ABSENT = """
import sys
CASES = {cases!r}
ABSENT = CASES[0][1]
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from usage_instrument import configure
from usage_instrument.errors import ConfigurationError
for url, ABSENT in CASES:
    for name in [name for name in sys.modules if name.partition(".")[0] == ABSENT]:
        del sys.modules[name]
    try:
        configure(url)
    except ConfigurationError as error:
        print(error)
"""


WRITE_POSTGRESQL = 'write postgresql+psycopg://… and pip install "usage-instrument[postgresql]"'


MISSING = [
    ("postgresql+psycopg://u:secret@h/db", "psycopg", 'pip install "usage-instrument[postgresql]"'),
    (
        "postgresql+psycopg2://u:secret@h/db",
        "psycopg2",
        f"{WRITE_POSTGRESQL}, or pip install psycopg2-binary",
    ),
    ("postgresql+pg8000://u:secret@h/db", "pg8000", f"{WRITE_POSTGRESQL}, or pip install pg8000"),
    ("postgresql://u:secret@h/db", "psycopg" if SQLALCHEMY >= (2, 1) else "psycopg2", WRITE_POSTGRESQL),
    ("postgresql+asyncpg://u:secret@h/db", "asyncpg", 'pip install "usage-instrument[asyncpg]"'),
    ("mysql+pymysql://u:secret@h/db", "pymysql", 'pip install "usage-instrument[mysql]"'),
    ("mariadb+pymysql://u:secret@h/db", "pymysql", 'pip install "usage-instrument[mysql]"'),
    ("sqlite+aiosqlite:///x.db", "aiosqlite", 'pip install "usage-instrument[aiosqlite]"'),
    ("postgresql+asyncpg://u:secret@h/db", "greenlet", 'pip install "usage-instrument[asyncpg]"'),
    ("sqlite+aiosqlite:///x.db", "greenlet", 'pip install "usage-instrument[aiosqlite]"'),
    ("mysql+asyncmy://u:secret@h/db", "asyncmy", "pip install asyncmy"),
    ("mysql://u:secret@h/db", "MySQLdb", 'write mysql+pymysql://… and pip install "usage-instrument[mysql]"'),
]


# SQLAlchemy looks for greenlet once a process.
@pytest.mark.parametrize(
    "cases",
    [[case for case in MISSING if case[1] != "greenlet"], *([case] for case in MISSING if case[1] == "greenlet")],
    ids=["drivers", "greenlet of asyncpg", "greenlet of aiosqlite"],
)
def test_a_missing_driver_names_what_to_install(cases: list[tuple[str, str, str]]) -> None:
    script = ABSENT.format(cases=[(url, absent) for url, absent, _ in cases])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    expected = [f"the driver of {url.partition(':')[0]!r} is not installed: {said}" for url, _, said in cases]
    assert done.stdout.splitlines() == expected


# ---- never the host's own


def test_a_hosts_engine_is_not_shared_and_its_listeners_are_kept(database: Database) -> None:
    engine = database.engine(pool_size=1, max_overflow=0)
    connected: list[int] = []
    sa.event.listen(engine, "connect", lambda *_: connected.append(threading.get_ident()))
    sent: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    dialled: list[object] = []
    sa.event.listen(engine, "do_connect", lambda *args: dialled.append(args[1]))
    connector = engines.connect(engine)
    with engine.connect() as theirs:  # the only one that its pool has
        theirs.execute(sa.text("SELECT 1"))
        before = len(connected), len(dialled)
        assert connector.run(one) == 1
        assert (len(connected), len(dialled)) == (before[0] + 1, before[1] + 1)
        ours = connector.run(lambda connection: connection.connection.dbapi_connection)
        assert ours is not theirs.connection.dbapi_connection
        assert connector.run(lambda connection: connection.engine) is not engine
        connector.dispose()
        assert theirs.scalar(sa.text("SELECT 2")) == 2, "ours is closed, theirs is not"
    assert sent == ["SELECT 1", "SELECT 2"], "statements of ours are none of the host's"


def test_an_engine_that_was_never_connected_will_do(database: Database) -> None:
    engine = database.engine()
    connector = engines.connect(engine)
    assert connector.run(one) == 1
    connector.dispose()
    with engine.connect() as connection:
        assert one(connection) == 1


def test_a_hosts_async_engine_is_not_shared_and_its_listeners_are_kept(database: Database) -> None:
    connected: list[int] = []

    async def host() -> None:
        engine = create_async_engine(database.async_url)
        sa.event.listen(engine.sync_engine, "connect", lambda *_: connected.append(threading.get_ident()))
        connector = engines.connect(engine)
        async with engine.connect() as theirs:
            await theirs.execute(sa.text("SELECT 1"))
            assert len(connected) == 1
            # In a thread, as the writer is: this loop is the host's.
            found: list[object] = []

            def write() -> None:
                found.append(connector.run(one))
                connector.dispose()

            thread = threading.Thread(target=write)
            thread.start()
            await asyncio.to_thread(thread.join)
            assert found == [1]
            assert len(connected) == 2
            assert connected[0] != connected[1]
            assert await theirs.scalar(sa.text("SELECT 2")) == 2
        await engine.dispose()

    asyncio.run(host())


def test_the_hosts_creator_is_kept(sqlite: Database) -> None:
    path = sa.make_url(sqlite.url).database
    assert path is not None
    made: list[object] = []

    def create() -> sqlite3.Connection:
        made.append(1)
        return sqlite3.connect(path, check_same_thread=False)

    engine = sa.create_engine(sqlite.url, creator=create)
    connector = engines.connect(engine)
    assert connector.run(one) == 1
    connector.dispose()
    engine.dispose()
    assert made


# ---- the engine of a URL


def test_a_url_gets_one_connection_and_timeouts_that_the_url_may_set() -> None:
    assert engines._timeouts("psycopg", sa.make_url("postgresql+psycopg://h/db"))["connect_timeout"] == 5
    assert "connect_timeout" not in engines._timeouts(
        "psycopg", sa.make_url("postgresql+psycopg://h/db?connect_timeout=9")
    )
    assert engines._timeouts("pysqlite", sa.make_url("sqlite:///x.db")) == {}


def test_connections_are_released_between_runs(database: Database) -> None:
    connector = engines.connect(database.url)
    assert isinstance(connector, SyncConnector)
    connector.run(one)
    pool = connector._engine.pool
    assert not isinstance(pool, sa.QueuePool) or pool.checkedout() == 0
    connector.dispose()


def test_the_flush_is_kept_out_of_traces(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    otel: Any = pytest.importorskip("opentelemetry.context")
    connector = engines.connect(sqlite.url)
    seen = connector.run(lambda connection: otel.get_value("suppress_instrumentation"))
    connector.dispose()
    assert seen is True
    assert otel.get_value("suppress_instrumentation") is None


# ---- the writer is a writer whatever the host's engine is


@pytest.mark.parametrize("kind", ["engine", "async engine", "execution option"])
def test_an_autocommit_of_the_hosts_makes_no_statement_a_transaction(database: Database, kind: str) -> None:
    setup = database.engine()
    made(setup)
    makers: dict[str, Callable[[], Any]] = {
        "engine": lambda: database.engine(isolation_level="AUTOCOMMIT"),
        "async engine": lambda: create_async_engine(database.async_url, isolation_level="AUTOCOMMIT"),
        "execution option": lambda: database.engine().execution_options(isolation_level="AUTOCOMMIT"),
    }
    tables = define_tables(sa.MetaData(), users=None)
    connector = engines.connect(makers[kind](), 10)
    dialect = dialects.get(connector.dialect_name)

    def roll_back(connection: sa.Connection) -> None:
        connection = dialect.begin(connection, Settings())
        connection.execute(tables.usage.insert().values(feature_name="search"))
        dialect.rollback(connection)

    connector.run(roll_back)
    connector.dispose()
    with setup.connect() as connection:
        assert connection.execute(sa.select(tables.usage)).all() == []


ENGINES: dict[str, dict[str, Callable[[Database], sa.Engine]]] = {
    "postgresql": {
        "read-only": lambda database: database.engine().execution_options(postgresql_readonly=True),
        "cursors of the server": lambda database: database.engine().execution_options(stream_results=True, yield_per=1),
        "a driver in autocommit": lambda database: database.engine(connect_args={"autocommit": True}),
        "serializable": lambda database: database.engine(isolation_level="SERIALIZABLE"),
        "without a reset": lambda database: database.engine(pool_reset_on_return=None),
    },
    "mariadb": {
        "cursors of the server": lambda database: database.engine().execution_options(stream_results=True),
        "a driver in autocommit": lambda database: database.engine(connect_args={"autocommit": True}),
        "serializable": lambda database: database.engine(isolation_level="SERIALIZABLE"),
    },
    "sqlite": {
        "a driver in autocommit": lambda database: database.engine(connect_args={"isolation_level": None}),
        "transactions by the driver": lambda database: database.engine(
            connect_args={"autocommit": False} if sys.version_info >= (3, 12) else {"isolation_level": "DEFERRED"}
        ),
        "immediate transactions": lambda database: database.engine(connect_args={"isolation_level": "IMMEDIATE"}),
    },
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in ENGINES for name in ENGINES[kind]])
def test_no_option_of_the_hosts_engine_stops_the_writer(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(kind)
    tables = made(database.engine())
    statements: list[str] = []
    engine = ENGINES[kind][name](database)
    if kind == "sqlite":
        sa.event.listen(engine, "connect", lambda driver, _: driver.set_trace_callback(statements.append))
    tracker = Tracker(engine, Settings(flush_interval=3600, audit_timeout=10))
    for _ in range(2):
        tracker.track("search", audit="required")
        assert tracker.flush(10), tracker.stats()
    assert tracker.count(None, "search") == 2
    assert tracker.shutdown(10)
    with database.engine().connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.access)) == 2
    first = next((number for number, text in enumerate(statements) if "INTO feature_usage " in text), None)
    if first is not None:  # SQLite refuses the first write of a transaction that has read
        begins = [text for text in statements[:first] if text.startswith("BEGIN")]
        assert begins[-1] == "BEGIN IMMEDIATE"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has no autocommit")
def test_no_autocommit_of_aiosqlite_stops_the_writer(sqlite: Database) -> None:
    made(sqlite.engine())
    tracker = Tracker(create_async_engine(sqlite.async_url, connect_args={"autocommit": False}))
    for _ in range(2):
        tracker.track("search", audit="required")
        assert tracker.flush(10), tracker.stats()
    assert tracker.count(None, "search") == 2
    assert tracker.shutdown(10)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_schema_translate_map_is_honoured(kind: str, is_async: bool, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(kind)
    tenant = "tenant_a" if kind == "postgresql" else f"{sa.make_url(database.url).database}_tenant"
    admin = database.engine()
    with admin.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {tenant}")
    try:
        create_all(admin, schema=tenant, users=None)
        made: Any = create_async_engine(database.async_url) if is_async else database.engine()
        translated = made.execution_options(schema_translate_map={None: tenant})
        tracker = Tracker(translated)
        user = uuid.UUID(int=7)
        for _ in range(2):
            tracker.track("search", user=user)
            assert tracker.flush(20), tracker.stats()
        assert tracker.count(user, "search") == 2
        tracker.shutdown(10)
        sync = database.engine().execution_options(schema_translate_map={None: tenant})
        with sync.connect() as connection:
            assert connection.execute(top_features()).all() == [("search", 2)]
    finally:
        if kind == "mariadb":
            with admin.begin() as connection:
                connection.exec_driver_sql(f"DROP SCHEMA {tenant}")


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_the_encoding_of_the_client_stops_nothing(driver: str, postgresql: Database) -> None:
    url = sa.make_url(postgresql.url).set(drivername=f"postgresql+{driver}")
    with postgresql.engine().begin() as connection:
        create_all(connection)
        connection.exec_driver_sql(f"ALTER DATABASE {url.database} SET client_encoding = 'LATIN1'")
    tracker = Tracker(url, Settings(flush_interval=3600))
    tracker.track("price in €", metadata={"currency": "€"}, audit=True)
    assert tracker.flush(10), tracker.stats()
    assert tracker.count(None, "price in €") == 1
    assert tracker.shutdown(10)
    assert tracker.stats().audited == 1


def test_a_text_that_the_hosts_driver_cannot_encode_is_refused_alone(postgresql: Database) -> None:
    with postgresql.engine().begin() as connection:
        create_all(connection)
        connection.exec_driver_sql(f"ALTER DATABASE {connection.engine.url.database} SET client_encoding = 'LATIN1'")
    tracker = Tracker(postgresql.engine(), Settings(flush_interval=3600))
    for feature in ("price in €", "price in $"):
        tracker.track(feature, audit=True)
    assert tracker.flush(10), tracker.stats()
    assert (tracker.stats().audited, tracker.stats().audit_lost) == (1, 1)
    assert tracker.shutdown(10)


def test_sql_safe_updates_stop_nothing(mariadb: Database) -> None:
    engine = mariadb.engine()
    made(engine)
    admin = engine.connect()
    admin.exec_driver_sql("SET GLOBAL sql_safe_updates = ON")
    try:
        usage.configure(mariadb.url, enabled=True, privacy_key="a secret of the host's own, long enough")
        user = uuid.UUID(int=7)
        for _ in range(2):
            usage.track("search", user=user)
            assert usage.flush(10), usage.stats()
        usage.opt_out(user)
        usage.opt_in(user)
        usage.merge(guest=user, user=uuid.UUID(int=8))
        usage.forget(user)
        usage.shutdown(10)
    finally:
        admin.exec_driver_sql("SET GLOBAL sql_safe_updates = OFF")
        admin.close()


@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite"])
def test_a_sqlite_url_may_ask_for_foreign_keys(driver: str, sqlite: Database) -> None:
    url = f"{driver}:///{sa.make_url(sqlite.url).database}"

    def enforced(given: str) -> Any:
        connector = engines.connect(given)
        try:
            return connector.run(lambda connection: connection.exec_driver_sql("PRAGMA foreign_keys").scalar())
        finally:
            connector.dispose()

    assert enforced(url) == 0
    assert enforced(f"{url}?foreign_keys=on") == enforced(f"{url}?timeout=9&foreign_keys=on") == 1
    with pytest.raises(ConfigurationError, match=r"write sqlite:///usage\.db\?foreign_keys=on"):
        engines.connect(f"{url}?foreign_keys=yes")
