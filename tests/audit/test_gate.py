"""The gate on real databases: lost answers, rows of others, groups, drivers. Its states: test_gate_states.py."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import all_of, made
from usage_instrument import AuditUnavailable, Settings, Tracker
from usage_instrument.audit.chain import Chain
from usage_instrument.audit.insert import AccessInsert
from usage_instrument.audit.verify import verify
from usage_instrument.schema import Tables, define_tables


class Lost(Exception):
    """What a driver raises whose connection ended before the answer came."""


def lost() -> sa.exc.OperationalError:
    return sa.exc.OperationalError("INSERT", {}, Lost("the connection has ended"))


@pytest.fixture
def tables(database: Database) -> Tables:
    return made(database.engine())


def holds(database: Database, tables: Tables) -> bool:
    with database.engine().connect() as connection:
        return verify(connection, tables).findings == ()


def losing(monkeypatch: pytest.MonkeyPatch, first: Callable[..., Any]) -> None:
    """Have the first attempt end by `first`, and then without an answer."""
    insert, attempts = AccessInsert.run, iter([first])

    def once(self: AccessInsert, connection: sa.Connection, rows: Any) -> None:
        attempt = next(attempts, None)
        if attempt is None:
            insert(self, connection, rows)
            return
        attempt(insert, self, connection, rows)
        raise lost()

    monkeypatch.setattr(AccessInsert, "run", once)


def test_a_row_whose_answer_was_lost_is_there_once(
    database: Database, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(monkeypatch, lambda insert, *arguments: insert(*arguments))
    tracker = Tracker(database.url, Settings())
    tracker.track("open_vault", audit="required")
    tracker.track("open_vault", audit="required")
    assert tracker.shutdown()
    first, second = all_of(database.engine(), tables.access)
    assert first.chain_id == second.chain_id
    assert {first.number, second.number} == {1, 2}
    assert holds(database, tables)


def test_a_duplicate_at_the_first_attempt_refuses_the_call(database: Database, tables: Tables) -> None:
    one, other = Tracker(database.url, Settings()), Tracker(database.url, Settings())
    one.track("open_vault", audit="required")
    for tracker in (one, other):  # nothing of ours makes two with one chain
        tracker._gates[-1]._chain = Chain(None)
        tracker._gates[-1]._chain.chain_id = uuid.UUID(int=7)
    one.track("open_vault", audit="required")
    with pytest.raises(AuditUnavailable):
        other.track("open_vault", audit="required")
    other.track("open_vault", audit="required")
    assert one.shutdown()
    assert other.shutdown()
    assert len(all_of(database.engine(), tables.access)) == 3


def test_a_constraint_of_the_host_is_no_duplicate(
    database: Database, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.access.drop(database.engine())
    strict = define_tables(sa.MetaData(), users=None).access  # not the table of all tests
    strict.append_constraint(sa.CheckConstraint("feature_name <> 'open_vault'", name="not_the_vault"))
    strict.create(database.engine())
    losing(monkeypatch, lambda *arguments: None)
    tracker = Tracker(database.url, Settings(audit_timeout=0.5))
    with pytest.raises(AuditUnavailable):
        tracker.track("open_vault", audit="required")
    tracker.shutdown()
    assert all_of(database.engine(), tables.access) == []


def test_the_error_of_the_database_is_named() -> None:
    pytest.importorskip("psycopg")
    tracker = Tracker("postgresql+psycopg://app@127.0.0.1:1/app", Settings(audit_timeout=0.3))
    # The gate may give the call up first, or the caller itself.
    with pytest.raises(AuditUnavailable, match=r"could not be recorded: .*refused"):
        tracker.track("open_vault", audit="required")
    tracker.shutdown()


def test_callers_that_wait_together_are_in_one_chain(database: Database, tables: Tables) -> None:
    tracker = Tracker(database.url, Settings(audit_timeout=30))
    ready = threading.Barrier(8)

    def call(number: int) -> None:
        ready.wait()
        for _ in range(10):
            tracker.track("open_vault", user=uuid.UUID(int=number + 1), audit="required")

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tracker.shutdown()
    rows = all_of(database.engine(), tables.access)
    assert len({row.access_id for row in rows}) == 80
    assert sorted(row.number for row in rows) == list(range(1, 81))
    assert len({row.chain_id for row in rows}) == 1
    assert holds(database, tables)
    assert tracker.stats().audited == 80


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_by_every_driver(database: Database, tables: Tables, driver: str) -> None:
    tracker = Tracker(database.url if driver == "sync" else database.async_url, Settings())
    tracker.track("open_vault", audit="required")
    assert tracker.shutdown()
    assert len(all_of(database.engine(), tables.access)) == 1


def test_a_connection_that_ended_in_between_is_made_anew(server: Database) -> None:
    engine = server.engine()
    tables = made(engine)
    tracker = Tracker(server.url, Settings())
    for _ in range(2):
        tracker.track("open_vault", audit="required")
        with engine.connect() as connection:
            end_others(connection)
    tracker.track("open_vault", audit="required")
    assert tracker.shutdown()
    assert len(all_of(engine, tables.access)) == 3
    assert holds(server, tables)


def end_others(connection: sa.Connection) -> None:
    """End all other connections to this database."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return
    theirs = "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
    for (number,) in connection.exec_driver_sql(theirs).all():
        connection.exec_driver_sql(f"KILL {number:d}")


@pytest.mark.parametrize("pooled", [False, True])
def test_statements_are_prepared_where_no_pooler_is_in_between(
    postgresql: Database, pooler: sa.URL, pooled: bool
) -> None:
    made(postgresql.engine())
    url = pooler.set(drivername="postgresql+psycopg") if pooled else postgresql.url
    tracker = Tracker(url, Settings())
    for _ in range(5):
        tracker.track("open_vault", audit="required")
    connector: Any = tracker._gates[-1]._connector
    prepared = connector.run(
        lambda connection: connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar()
    )
    assert (prepared > 0) is not pooled
    assert tracker.shutdown()


def test_an_awaited_call_and_a_sync_one_share_a_chain(database: Database, tables: Tables) -> None:
    tracker = Tracker(database.url, Settings())
    tracker.track("open_vault", audit="required")
    asyncio.run(tracker.atrack("open_vault", audit="required"))
    assert tracker.shutdown()
    first, second = all_of(database.engine(), tables.access)
    assert first.chain_id == second.chain_id


def test_a_sync_call_in_an_event_loop_is_refused_at_once(sqlite: Database) -> None:
    made(sqlite.engine())
    tracker = Tracker(sqlite.url, Settings())

    async def main() -> None:
        tracker.track("open_vault", audit="required")

    with pytest.raises(AuditUnavailable, match="event loop"):
        asyncio.run(main())
