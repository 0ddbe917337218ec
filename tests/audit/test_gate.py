"""The gate: an answer that was lost, a refusal that is none of its own rows, and who waits together."""

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
from usage_instrument.audit.gate import Gate
from usage_instrument.audit.verify import verify
from usage_instrument.schema import Tables


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
    commit, attempts = Gate._commit, iter([first])

    def once(self: Gate, rows: Any) -> None:
        attempt = next(attempts, None)
        if attempt is None:
            commit(self, rows)
            return
        attempt(commit, self, rows)
        raise lost()

    monkeypatch.setattr(Gate, "_commit", once)


def test_a_row_whose_answer_was_lost_is_there_once(
    database: Database, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(monkeypatch, lambda commit, gate, rows: commit(gate, rows))
    tracker = Tracker(database.url, Settings())
    tracker.track("open_vault", audit="required")
    tracker.track("open_vault", audit="required")
    assert tracker.shutdown()
    first, second = all_of(database.engine(), tables.access)
    assert first.chain_id == second.chain_id
    assert {first.number, second.number} == {1, 2}
    assert holds(database, tables)


def test_a_row_of_somebody_elses_in_its_place_is_not_taken_for_ones_own(database: Database, tables: Tables) -> None:
    one, other = Tracker(database.url, Settings()), Tracker(database.url, Settings())
    one.track("open_vault", audit="required")
    for tracker in (one, other):  # nothing of ours makes two with one chain
        tracker._gate._chain = Chain(None)
        tracker._gate._chain.chain_id = uuid.UUID(int=7)
    one.track("open_vault", audit="required")
    with pytest.raises(AuditUnavailable):
        other.track("open_vault", audit="required")
    other.track("open_vault", audit="required")
    assert one.shutdown()
    assert other.shutdown()
    assert len(all_of(database.engine(), tables.access)) == 3


def test_a_row_that_another_rule_refuses_is_not_taken_for_one_that_is_there(
    database: Database, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.access.drop(database.engine())
    tables.access.append_constraint(sa.CheckConstraint("feature_name <> 'open_vault'", name="not_the_vault"))
    tables.access.create(database.engine())
    losing(monkeypatch, lambda commit, gate, rows: None)
    tracker = Tracker(database.url, Settings(audit_timeout=0.5))
    with pytest.raises(AuditUnavailable):
        tracker.track("open_vault", audit="required")
    tracker.shutdown()
    assert all_of(database.engine(), tables.access) == []


def test_who_waits_together_is_in_one_chain(database: Database, tables: Tables) -> None:
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


# ---- who commits


def committing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that commit, one after the other."""
    commit, threads = Gate._commit, []

    def noted(self: Gate, rows: Any) -> None:
        threads.append(threading.get_ident())
        commit(self, rows)

    monkeypatch.setattr(Gate, "_commit", noted)
    return threads


def test_a_caller_commits_by_itself_once_there_is_a_connection(
    server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = made(server.engine())
    threads = committing(monkeypatch)
    tracker = Tracker(server.url, Settings())
    for _ in range(3):
        tracker.track("open_vault", audit="required")
    assert [thread == threading.get_ident() for thread in threads] == [False, True, True]
    asyncio.run(tracker.atrack("open_vault", audit="required"))
    assert threads[-1] == threads[0], "an event loop is not held up"
    tracker.track("open_vault", audit="required")
    assert tracker.shutdown()
    rows = all_of(server.engine(), tables.access)
    assert sorted(row.number for row in rows) == [1, 2, 3, 4, 5]
    assert len({row.chain_id for row in rows}) == 1
    assert holds(server, tables)


@pytest.mark.parametrize("given", ["a host that keeps no connections", "an async driver", "a file"])
def test_a_caller_does_not_commit_by_itself_by(
    postgresql: Database, sqlite: Database, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    database = sqlite if given == "a file" else postgresql
    made(database.engine())
    threads = committing(monkeypatch)
    engine = sa.create_engine(database.url, poolclass=sa.NullPool)
    url = database.async_url if given == "an async driver" else database.url
    tracker = Tracker(engine if "host" in given else url, Settings())
    for _ in range(3):
        tracker.track("open_vault", audit="required")
    assert threading.get_ident() not in threads
    assert tracker.shutdown()


@pytest.mark.parametrize("was_committed", [True, False])
def test_what_a_caller_could_not_commit_the_thread_goes_on_with(
    server: Database, monkeypatch: pytest.MonkeyPatch, was_committed: bool
) -> None:
    tables = made(server.engine())
    tracker = Tracker(server.url, Settings())
    tracker.track("open_vault", audit="required")
    losing(monkeypatch, lambda commit, gate, rows: commit(gate, rows) if was_committed else None)
    for _ in range(2):
        tracker.track("open_vault", audit="required")
    assert tracker.shutdown()
    rows = all_of(server.engine(), tables.access)
    assert sorted(row.number for row in rows) == [1, 2, 3]
    assert len({row.chain_id for row in rows}) == 1
    assert holds(server, tables)


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


class Stop(BaseException):
    """What a signal handler raises."""


def test_who_is_interrupted_leaves_the_turn_to_others(server: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = made(server.engine())
    tracker = Tracker(server.url, Settings())
    tracker.track("open_vault", audit="required")

    def interrupted(commit: Any, gate: Gate, rows: Any) -> None:
        commit(gate, rows)
        raise Stop

    losing(monkeypatch, interrupted)
    with pytest.raises(Stop):
        tracker.track("open_vault", audit="required")
    tracker.track("open_vault", audit="required")
    assert tracker.shutdown()
    rows = all_of(server.engine(), tables.access)
    assert len(rows) == 3, "the attempt stands, and did not happen"
    assert len({row.chain_id for row in rows}) == 2
    assert holds(server, tables)


def test_a_turn_that_nobody_gives_back_is_made_anew(server: Database) -> None:
    """As after an exception between two bytecodes, of a signal handler."""
    tables = made(server.engine())
    tracker = Tracker(server.url, Settings(audit_timeout=1))
    tracker.track("open_vault", audit="required")
    assert tracker._gate._turn.acquire(False)
    refused = 0
    while True:
        try:
            tracker.track("open_vault", audit="required")
            break
        except AuditUnavailable:
            refused += 1
    assert refused
    assert tracker.shutdown()
    rows = all_of(server.engine(), tables.access)
    assert len({row.chain_id for row in rows}) == 2
    assert holds(server, tables)


def test_a_signal_handler_has_no_turn_and_its_shutdown_does_not_wait(
    server: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(server.engine())
    tracker = Tracker(server.url, Settings(audit_timeout=30, shutdown_timeout=30))
    tracker.track("open_vault", audit="required")
    said = []

    def handler(commit: Any, gate: Gate, rows: Any) -> None:
        with pytest.raises(AuditUnavailable, match="signal handler") as refused:
            tracker.track("close_vault", audit="required")
        said.append(str(refused.value))
        assert tracker._gate.close(30).answer
        commit(gate, rows)

    losing(monkeypatch, handler)
    tracker.track("open_vault", audit="required")
    assert len(said) == 1
    assert tracker.shutdown()


@pytest.mark.parametrize("pooled", [False, True])
def test_statements_are_prepared_where_no_pooler_is_in_between(
    postgresql: Database, pooler: sa.URL, pooled: bool
) -> None:
    made(postgresql.engine())
    url = pooler.set(drivername="postgresql+psycopg") if pooled else postgresql.url
    tracker = Tracker(url, Settings())
    for _ in range(5):
        tracker.track("open_vault", audit="required")
    connector: Any = tracker._gate._connector
    prepared = connector.run(
        lambda connection: connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar()
    )
    assert (prepared > 0) is not pooled
    assert tracker.shutdown()
