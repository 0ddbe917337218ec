"""The gate: an answer that was lost, a refusal that is none of its own rows, and who waits together."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import all_of, made
from usage_instrument import AuditUnavailable, Settings, Tracker
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
