"""Connections: which one work runs on, and which errors discard it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from conftest import Database
from usage_instrument import Settings, Tracker
from usage_instrument.database import dialects, engines
from usage_instrument.database.connections import Connector
from usage_instrument.errors import SchemaError
from usage_instrument.schema import create_all

PROCESS = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT connection_id()"}


def process(connection: sa.Connection) -> int:
    return int(connection.scalar(sa.text(PROCESS[connection.engine.dialect.name])) or 0)


@pytest.fixture(params=["url", "async url", "engine", "held"])
def connector(request: pytest.FixtureRequest, server: Database) -> Iterator[Connector]:
    make: dict[str, Callable[[], Connector]] = {
        "url": lambda: engines.connect(server.url, 10),
        "async url": lambda: engines.connect(server.async_url, 10),
        "engine": lambda: engines.connect(server.engine(pool_pre_ping=True), 10),
        "held": lambda: engines.connect_committing(server.url, 10),
    }
    found = make[request.param]()
    yield found
    found.dispose()


def test_questions_are_not_compiled_by_postgresql_in_their_transaction_alone(postgresql: Database) -> None:
    with postgresql.engine().connect() as connection:
        before = connection.scalar(sa.text("SELECT current_setting('jit')"))
        connection.rollback()
        dialects.get("postgresql").begin_read_only(connection, 30)
        assert connection.scalar(sa.text("SELECT current_setting('jit')")) == "off"
        connection.rollback()
        assert connection.scalar(sa.text("SELECT current_setting('jit')")) == before


@pytest.mark.parametrize(
    ("own", "cache", "work_mem"),
    [("4MB", "4GB", "128MB"), ("4MB", "64GB", "128MB"), ("4MB", "512MB", "16MB"), ("1GB", "4GB", "1GB")],
)
def test_questions_have_memory_as_the_cache_of_the_server_has(
    postgresql: Database, own: str, cache: str, work_mem: str
) -> None:
    current = sa.text("SELECT current_setting('work_mem')")
    with postgresql.engine().connect() as connection:
        connection.exec_driver_sql(f"SET work_mem = '{own}'")
        connection.exec_driver_sql(f"SET effective_cache_size = '{cache}'")
        connection.commit()
        dialects.get("postgresql").begin_read_only(connection, 30)
        assert connection.scalar(current) == work_mem
        connection.rollback()
        assert connection.scalar(current) == own
        connection.invalidate()


def test_a_read_only_answer_discards_the_connection(connector: Connector, server: Database) -> None:
    with server.engine().begin() as connection:
        connection.exec_driver_sql("CREATE TABLE written (n INT)")
    before = connector.run(process)
    assert connector.run(process) == before

    def write_on_a_former_primary(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY") if (
            server.name == "postgresql"
        ) else connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
        connection.commit()
        connection.exec_driver_sql("INSERT INTO written VALUES (1)")

    with pytest.raises(sa.exc.DBAPIError):
        connector.run(write_on_a_former_primary)
    assert connector.run(process) != before
    connector.run(lambda connection: connection.exec_driver_sql("INSERT INTO written VALUES (1)"))


@pytest.mark.parametrize(
    ("what", "error"), [("search_path = app", "does not exist"), ("role = writers", "permission denied")]
)
def test_a_setting_of_the_role_reaches_the_next_attempt(what: str, error: str, postgresql: Database) -> None:
    """A session reads it when it begins: the corrected role would not help a connection that a pool keeps."""
    url = sa.make_url(postgresql.url)
    role, writers = f"role_of_{url.database}", f"writers_of_{url.database}"
    schema = "app" if "app" in what else "public"
    with postgresql.engine().begin() as admin:
        if schema == "app":
            admin.exec_driver_sql("CREATE SCHEMA app")
        create_all(admin, schema=None if schema == "public" else schema)
        admin.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        admin.exec_driver_sql(f"CREATE ROLE {writers} ROLE {role}")
        admin.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {role}, {writers}")
        admin.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
        admin.exec_driver_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {writers}")
        admin.exec_driver_sql(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {writers}")
        if schema == "public":
            admin.exec_driver_sql(f"ALTER ROLE {role} NOINHERIT")
    tracker = Tracker(url.set(username=role, password="secret"), Settings(flush_interval=3600))
    try:
        tracker.track("f")
        assert not tracker.flush(30)
        assert error in str(tracker.stats().last_error)
        with postgresql.engine().begin() as admin:
            admin.exec_driver_sql(f"ALTER ROLE {role} SET {what.replace('writers', writers)}")
        assert tracker.flush(30), tracker.stats()
        assert tracker.shutdown(30)
    finally:
        with postgresql.engine().begin() as admin:
            for each in (role, writers):
                admin.exec_driver_sql(f"DROP OWNED BY {each}")
                admin.exec_driver_sql(f"DROP ROLE {each}")


def test_an_ordinary_error_keeps_the_connection(server: Database) -> None:
    connector = engines.connect(server.url, 10)
    before = connector.run(process)
    with server.engine().begin() as connection:
        connection.exec_driver_sql("CREATE TABLE one (n INT PRIMARY KEY)")
    with pytest.raises(sa.exc.IntegrityError):
        connector.run(lambda connection: connection.exec_driver_sql("INSERT INTO one VALUES (1), (1)"))
    with pytest.raises(ZeroDivisionError):
        connector.run(lambda connection: 1 // 0)
    assert connector.run(process) == before
    connector.dispose()


@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite"])
def test_a_missing_file_is_not_created(tmp_path: Path, driver: str) -> None:
    path = tmp_path / "missing.db"
    connector = engines.connect(f"{driver}:///{path}")
    with pytest.raises(SchemaError, match=r"there is no file .*missing\.db: run `usage-instrument db create`"):
        connector.run(lambda connection: None)
    assert not path.exists()
    connector.may_create_file = True
    connector.run(lambda connection: connection.exec_driver_sql("SELECT 1"))
    connector.dispose()


def test_a_relative_path_is_that_of_configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.chdir(first)
    sa.create_engine("sqlite:///usage.db").connect().close()
    database = engines.parse("sqlite:///usage.db")
    monkeypatch.chdir(second)
    connector = engines.connect(database)
    connector.run(lambda connection: connection.exec_driver_sql("CREATE TABLE here (n INT)"))
    connector.dispose()
    assert os.listdir(second) == []
    assert (first / "usage.db").stat().st_size > 0
