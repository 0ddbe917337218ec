"""The databases that the tests run on: a fresh, empty one a test, of each real kind."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import itertools
import os
import signal
import ssl
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import pytest
import sqlalchemy as sa

import servers

if TYPE_CHECKING:
    import psycopg

    from usage_instrument import Tracker
    from usage_instrument.pipeline.pipeline import Pipeline

T = TypeVar("T")
Make: TypeAlias = "Callable[..., Tracker]"

_numbers = itertools.count(1)


def writing_pipeline(tracker: Tracker) -> Pipeline:
    """The pipeline of a tracker that writes itself."""
    from usage_instrument.pipeline.pipeline import Pipeline

    pipeline = tracker._pipeline
    assert isinstance(pipeline, Pipeline)
    return pipeline


def _work_in_memory() -> None:
    """Keep the tests' files in memory: a table is made there in a tenth of the time. Not where $TMPDIR says otherwise,
    where there is little room, or where no program may run."""
    memory = "/dev/shm"
    if "TMPDIR" not in os.environ and os.access(memory, os.W_OK):
        found = os.statvfs(memory)
        if found.f_bavail * found.f_frsize >= 4 * 2**30 and not found.f_flag & getattr(os, "ST_NOEXEC", 0):
            os.environ["TMPDIR"] = tempfile.tempdir = memory


def _let_servers_hear_ctrl_c() -> None:
    """A shell starts its background jobs, such as a test run, deaf to SIGINT, and so all that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _keep_byte_code() -> None:
    """Compile each module once, not in every process that a test starts: that is a third of the time of all tests."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def _build_the_command_line_once() -> None:
    """Let Typer's runner of tests keep the commands that it makes of an app, which takes it 30 ms each time."""
    if importlib.util.find_spec("typer"):  # not with the oldest frameworks
        from typer import main, testing

        vars(testing)["_get_command"] = functools.cache(main.get_command)


def _without_deadlines() -> None:
    """Let no example of Hypothesis fail for a busy machine. Its profile of CI has no deadline as it is."""
    if "CI" not in os.environ and importlib.util.find_spec("hypothesis"):  # not with the oldest frameworks
        from hypothesis import settings

        settings.register_profile("default", deadline=None)
        settings.load_profile("default")


_DATABASES = {"sqlite", "postgresql", "mariadb"}
_EACH_DATABASE = (
    *("acceptance/", "audit/", "database/", "privacy/", "queries/", "test_"),
    *("cli/test_db.py", "pipeline/test_outbox.py", "pipeline/test_retention.py", "pipeline/test_store.py"),
    *("faults/test_locks.py", "security/test_add_only_role.py", "security/test_alike_ids.py"),
)
"""The tests of what differs between databases, by the beginnings of their paths."""
_ANY_DATABASE = ("queries/test_anywhere.py",)
"""Exceptions: what runs a Select does so whatever its SQL is."""


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark a test that is not of _EACH_DATABASE as `wide` but on one database. The name of the test chooses it among
    those that are installed, so that each has its share of every folder."""
    alike: dict[str, dict[str, pytest.Item]] = {}
    for item in items:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        on_each = path.startswith(_EACH_DATABASE) and path not in _ANY_DATABASE
        if on_each or not hasattr(item, "callspec") or item.get_closest_marker("wide"):
            continue
        values = item.callspec.params.values()
        name = next((each for each in values if isinstance(each, str) and each in _DATABASES), None)
        if name is not None:
            alike.setdefault(item.nodeid.replace(name, ""), {})[name] = item
    installed = servers.installed()
    for test, variants in alike.items():
        names = [name for name in variants if name in installed] or [*variants]
        chosen = names[zlib.crc32(test.encode()) % len(names)]
        for name, item in variants.items():
            if name != chosen:
                item.add_marker("wide")


def wide(*values: object) -> Any:
    """The values of a parameter with which a test repeats what it proves with others."""
    return pytest.param(*values, marks=pytest.mark.wide)


def pytest_collection_finish() -> None:
    """Spare the collector of garbage what stays to the end: it took seconds of each process to visit that."""
    gc.enable()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or what is left is finalized after its modules


# These tests write for real, which under pytest has to be asked for.
os.environ.setdefault("USAGE_INSTRUMENT_ENABLED", "1")
_work_in_memory()
_keep_byte_code()
_let_servers_hear_ctrl_c()
gc.disable()  # until all is imported
_build_the_command_line_once()
_without_deadlines()
# Where the mcp package is installed, eventlet's own resolver of names imports trio, which eventlet's sockets break.
os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
# The MariaDB driver makes a TLS context for each connection; to load all certificates of the system takes 30 ms.
ssl.SSLContext.load_default_certs = lambda *_: None  # type: ignore[method-assign]


@dataclass(frozen=True)
class Database:
    """An empty database of a real server, or a SQLite file."""

    name: Literal["sqlite", "postgresql", "mariadb"]
    url: str
    _engines: list[sa.Engine] = field(default_factory=list, compare=False)

    @property
    def async_url(self) -> str:
        """The same database by an async driver."""
        drivers = {"sqlite:": "sqlite+aiosqlite:", "+psycopg:": "+asyncpg:", "+pymysql:": "+aiomysql:"}
        for sync, other in drivers.items():
            if sync in self.url:
                return self.url.replace(sync, other, 1)
        raise AssertionError(self.url)

    def engine(self, **options: Any) -> sa.Engine:
        """An engine that is disposed of at the test's end."""
        engine = sa.create_engine(self.url, **options)
        if self.name == "sqlite":
            sa.event.listen(engine, "connect", _enforce_foreign_keys)
        self._engines.append(engine)
        return engine

    def close(self) -> None:
        for engine in self._engines:
            engine.dispose()


def _enforce_foreign_keys(connection: Any, _: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


@dataclass(frozen=True)
class UsersDatabase:
    """A database with a `users` table, and the ids in it."""

    database: Database
    engine: sa.Engine
    users: sa.Table
    user_ids: list[uuid.UUID]


def entered(start: Callable[[], contextlib.AbstractContextManager[T]], stack: contextlib.ExitStack) -> T:
    """What a server's context yields; without its programs, the test is skipped."""
    try:
        return stack.enter_context(start())
    except servers.Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs every real database: {missing}")
        pytest.skip(f"{missing}; install it to run this test")


@pytest.fixture(scope="session")
def _servers() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def postgresql_server(_servers: contextlib.ExitStack) -> int:
    # Databases that live for some tests need no tidying, which takes a tenth of the server's time.
    return entered(functools.partial(servers.postgresql, autovacuum=False), _servers)


@pytest.fixture(scope="session")
def mariadb_server(_servers: contextlib.ExitStack) -> int:
    return entered(servers.mariadb, _servers)


def reset_package_state() -> None:
    """Forget what a test configured: whatever the package keeps for the whole process is put back here."""
    default = sys.modules.get("usage_instrument._default")
    if default is not None:  # not imported: nothing is kept
        default.reset()
    log = sys.modules.get("usage_instrument.runtime.log")
    if log is not None:
        log.reset()


@contextlib.contextmanager
def _lent(database: Database) -> Iterator[Database]:
    try:
        yield database
    finally:
        try:
            reset_package_state()  # now, while the tracker still has a database to write its last to
        finally:
            database.close()


class _PostgreSQLDatabases:
    """Databases of one server, each lent to one test at a time.

    To empty one takes a tenth of the CPU time of making one. A test that changes more than the tables of the schema
    `public` costs its database.
    """

    USES = 40  # then a new one: the catalogs keep the rows of what was dropped

    def __init__(self, port: int) -> None:
        self._port = port
        self._empty: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def lend(self) -> Iterator[Database]:
        name, uses = self._empty.pop() if self._empty else (self._made(), 0)
        try:
            place = f"postgresql+psycopg://{servers.USER}:{servers.PASSWORD}@127.0.0.1:{self._port}/"
            with _lent(Database("postgresql", place + name)) as database:
                yield database
        finally:
            if uses + 1 < self.USES and self._emptied(name):
                self._empty.append((name, uses + 1))
            else:
                with self._session() as session:
                    session.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _made(self) -> str:
        name = f"test_{next(_numbers)}"
        with self._session() as session:
            session.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def _emptied(self, name: str) -> bool:
        """Whether the database is as new."""
        import psycopg

        try:
            with self._session(name) as session:
                session.execute("SET lock_timeout = '10s'")
                if session.execute(_ENDED).fetchone() != (True,) or session.execute(_CHANGED).fetchone() != (False,):
                    return False
                session.execute("DROP SCHEMA public CASCADE")
                session.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
                session.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
                return True
        except psycopg.Error:
            return False

    def _session(self, name: str = "postgres") -> psycopg.Connection[Any]:
        """A session of the superuser, in which each statement is a transaction."""
        import psycopg  # not with the oldest frameworks

        return psycopg.connect(
            host="127.0.0.1",
            port=self._port,
            user=servers.USER,
            password=servers.PASSWORD,
            dbname=name,
            autocommit=True,
        )


_ENDED = """
SELECT coalesce(bool_and(pg_terminate_backend(pid, 5000)), true) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_CHANGED = """
SELECT EXISTS (SELECT FROM pg_namespace WHERE oid >= 16384 AND nspname <> 'public' AND nspname !~ '^pg_(toast_)?temp_')
  OR EXISTS (SELECT FROM pg_extension WHERE oid >= 16384)
  OR EXISTS (SELECT FROM pg_event_trigger)
  OR EXISTS (SELECT FROM pg_publication)
  OR EXISTS (SELECT FROM pg_default_acl)
  OR EXISTS (SELECT FROM pg_largeobject_metadata)
  OR EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = mine.oid)
  OR mine.datacl IS NOT NULL
  OR current_setting('server_version_num')::int < 150000  -- its schema `public` has other privileges
FROM pg_database AS mine WHERE mine.datname = current_database()
"""
_postgresql_databases = functools.cache(_PostgreSQLDatabases)


def fresh_postgresql(port: int) -> contextlib.AbstractContextManager[Database]:
    """An empty database of the server at that port, for as long as the context lasts."""
    return _postgresql_databases(port).lend()


@contextlib.contextmanager
def fresh_mariadb(port: int) -> Iterator[Database]:
    """An empty database of the server at that port, for as long as the context lasts."""
    place = f"mariadb+pymysql://{servers.USER}:{servers.PASSWORD}@127.0.0.1:{port}/"
    admin = sa.create_engine(f"{place}mysql", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    name = f"test_{next(_numbers)}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        with _lent(Database("mariadb", f"{place}{name}?charset=utf8mb4")) as database:
            yield database
    finally:
        with admin.connect() as connection:  # a connection left in a transaction is said
            connection.exec_driver_sql(f"SET STATEMENT lock_wait_timeout = 10 FOR DROP DATABASE {name}")


def fresh_sqlite(directory: Path) -> contextlib.AbstractContextManager[Database]:
    """An empty file in that directory."""
    path = directory / "usage.db"
    path.touch()
    return _lent(Database("sqlite", f"sqlite:///{path}"))


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with fresh_sqlite(tmp_path) as database:
        yield database


@pytest.fixture
def postgresql(postgresql_server: int) -> Iterator[Database]:
    with fresh_postgresql(postgresql_server) as database:
        yield database


@pytest.fixture
def mariadb(mariadb_server: int) -> Iterator[Database]:
    with fresh_mariadb(mariadb_server) as database:
        yield database


@pytest.fixture
def citus() -> Iterator[Database]:
    """A schema of the test's on the coordinator that `$USAGE_TEST_CITUS_URL` names, as it distributes schemas."""
    url = os.environ.get("USAGE_TEST_CITUS_URL")
    if not url:
        pytest.skip("no Citus: USAGE_TEST_CITUS_URL is the URL of a coordinator's superuser, with psycopg")
    schema = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL citus.enable_schema_based_sharding TO on")
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    try:
        place = sa.make_url(url).update_query_dict({"options": f"-csearch_path={schema}"})
        with _lent(Database("postgresql", place.render_as_string(hide_password=False))) as database:
            yield database
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def pooler(postgresql: Database) -> Iterator[sa.URL]:
    """PostgreSQL by way of a pooler, which hands two connections from one transaction to the next."""
    url = sa.make_url(postgresql.url)
    with contextlib.ExitStack() as stack:
        yield url.set(port=entered(lambda: servers.pgbouncer(url.port or 0, connections=2), stack))


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Database:
    """A database that is reached by a network, which breaks."""
    found: Database = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a tracker that writes when it is asked to, and ends with the test."""
    from usage_instrument import Settings, Tracker

    trackers: list[Tracker] = []

    def make(database: Database, **settings: Any) -> Tracker:
        trackers.append(Tracker(database.url, Settings(flush_interval=3600, **settings)))
        return trackers[-1]

    yield make
    for tracker in trackers:
        tracker.shutdown(10)


@pytest.fixture
def users_database(database: Database) -> UsersDatabase:
    """The database with five users in a `users` table."""
    return with_users(database)


def with_users(database: Database) -> UsersDatabase:
    """An empty database, given five users in a `users` table."""
    engine = database.engine()
    users = sa.Table(
        "users", sa.MetaData(), sa.Column("id", sa.Uuid, primary_key=True), sa.Column("name", sa.String(50))
    )
    users.metadata.create_all(engine)
    ids = [uuid.UUID(int=number + 2**64) for number in range(1, 6)]
    with engine.begin() as connection:
        connection.execute(users.insert(), [{"id": id_, "name": f"user {n}"} for n, id_ in enumerate(ids)])
    return UsersDatabase(database, engine, users, ids)


@pytest.fixture(autouse=True)
def _within_one_hour() -> None:
    """No short test sees an hour end, or a day: uses are counted by day and by hour, and periods are of whole ones."""
    left = 3600 - time.time() % 3600
    if left < 5:
        time.sleep(left)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are waited for, however busy this machine is; the test of the other case sets its own."""
    monkeypatch.setattr("usage_instrument.dashboard.page_jobs.SOON", 60)


@pytest.fixture(autouse=True)
def _reset_package_state() -> Iterator[None]:
    """No test leaves a configured tracker behind, nor does a module that configures one as it is imported."""
    reset_package_state()
    yield
    reset_package_state()
