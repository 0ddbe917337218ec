"""Few connections for many: a pooler that hands them on after each transaction, and a server that has none left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from captures import INTERVAL, Captures, assert_exact, assert_left_nothing
from conftest import Database
from reading import all_of, balanced, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.schema import Tables

LEFT_BEHIND = (
    # asyncpg sets `jit` back to what it was.
    "SELECT name, setting FROM pg_settings "
    "WHERE source = 'session' AND name <> 'client_encoding' AND setting IS DISTINCT FROM reset_val "
    "UNION ALL SELECT 'prepared', name FROM pg_prepared_statements"
)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_pooler_in_transaction_mode_is_fine(driver: str, pooler: sa.URL, postgresql: Database) -> None:
    engine = postgresql.engine()
    tables = made(engine)
    url = pooler.set(drivername=f"postgresql+{driver}")
    trackers = [Tracker(url, Settings(flush_interval=INTERVAL)) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        captures = [stack.enter_context(Captures(tracker)) for tracker in trackers]
        while min(tracker.stats().written for tracker in trackers) < 500:
            for tracker in trackers:
                assert tracker.flush(60), tracker.stats()
    for tracker, capture in zip(trackers, captures, strict=True):
        assert tracker.flush(60), tracker.stats()
        assert tracker.stats().written == capture.uses
        assert balanced(tracker.stats())
    assert total(engine, tables) == sum(capture.uses for capture in captures)
    others = sa.create_engine(pooler, poolclass=sa.NullPool, connect_args={"prepare_threshold": None})
    with contextlib.ExitStack() as stack:
        for _ in range(2):  # both at once
            other = stack.enter_context(others.connect())
            assert other.exec_driver_sql(LEFT_BEHIND).all() == []
    for tracker in trackers:
        assert tracker.shutdown(60), tracker.stats()
    assert all_of(engine, tables.writers) == []


@contextlib.contextmanager
def role_of_one_connection(engine: sa.Engine, tables: Tables) -> Iterator[sa.URL]:
    """The database's URL for a role that may have one connection, and use our tables."""
    role = f"role_of_{engine.url.database}"
    names = ", ".join(table.name for table in tables)
    rights = [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table.name} TO {role}" for table in tables]
    if engine.name == "postgresql":
        create = f"CREATE ROLE {role} LOGIN PASSWORD 'secret' CONNECTION LIMIT 1"
        rights = [f"GRANT ALL ON {names} TO {role}", f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"]
        drop = [f"DROP OWNED BY {role}", f"DROP ROLE {role}"]
    else:
        create = f"CREATE USER {role} IDENTIFIED BY 'secret' WITH MAX_USER_CONNECTIONS 1"
        drop = [f"DROP USER {role}"]
    with engine.begin() as connection:
        for statement in (create, *rights):
            connection.exec_driver_sql(statement)
    try:
        yield engine.url.set(username=role, password="secret")
    finally:
        with engine.begin() as connection:
            for statement in drop:
                connection.exec_driver_sql(statement)


def test_a_server_without_a_free_connection_is_waited_for(server: Database) -> None:
    engine = server.engine()
    tables = made(engine)
    with role_of_one_connection(engine, tables) as url:
        tracker = Tracker(url, Settings(flush_interval=3600))
        host = sa.create_engine(url, poolclass=sa.NullPool)
        for round_ in range(1, 4):
            tracker.track("f", user=None, metadata={"round": round_})
            with host.connect():
                while tracker.stats().last_error is None:
                    assert not tracker.flush(INTERVAL)
                assert "connections" in str(tracker.stats().last_error)
                while not balanced(tracker.stats()):  # what is on its way is in two figures for a moment
                    tracker.flush(INTERVAL)
            assert_exact(engine, tables, tracker, round_)
            tracker.shutdown(60)
        assert_left_nothing(engine, tables, tracker)
