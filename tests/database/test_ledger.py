"""The ledger: a batch applies once, after its writer has registered, and not over a new suppression."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import made
from usage_instrument.database.ledger import Ledger
from usage_instrument.database.suppressions import announce
from usage_instrument.schema import Tables
from usage_instrument.typing import UNSET


@pytest.fixture
def engine(sqlite: Database) -> sa.Engine:
    return sqlite.engine()


@pytest.fixture
def tables(engine: sa.Engine) -> Tables:
    return made(engine)


def test_a_batch_advances_once(engine: sa.Engine, tables: Tables) -> None:
    ledger = Ledger(tables, "web")
    with engine.begin() as connection:
        assert ledger.position(connection) is UNSET
        assert not ledger.advance(connection, 1), "not registered"
        ledger.register(connection)
        ledger.register(connection)  # an earlier attempt whose answer was lost
        ledger.suppression = ledger.live_suppression(connection)
        assert [ledger.advance(connection, number) for number in (1, 1)] == [True, False]
        ledger.number = 1
        assert [ledger.advance(connection, number) for number in (3, 2)] == [True, False]
        ledger.number = 4
        assert not ledger.advance(connection, 5), "a batch that was acknowledged is missing"
        assert ledger.position(connection) == 3
        ledger.retire(connection)
        assert (ledger.position(connection), ledger.live_suppression(connection)) == (UNSET, None)


def test_a_suppression_stops_the_next_batch_of_every_writer(engine: sa.Engine, tables: Tables) -> None:
    ledgers = [Ledger(tables, "web"), Ledger(tables, "worker")]
    with engine.begin() as connection:
        for ledger in ledgers:
            ledger.register(connection)
            ledger.suppression = ledger.live_suppression(connection)
        announce(connection, tables)
        assert [ledger.advance(connection, 1) for ledger in ledgers] == [False, False]
        for ledger in ledgers:
            ledger.suppression = ledger.live_suppression(connection)
        assert [ledger.advance(connection, 1) for ledger in ledgers] == [True, True]


def test_a_heartbeat_moves_only_its_own_row(engine: sa.Engine, tables: Tables) -> None:
    first, second = Ledger(tables, "web"), Ledger(tables, "web")
    beat = sa.select(tables.writers.c.heartbeat_at).where(tables.writers.c.writer_id == second.writer_id)
    with engine.begin() as connection:
        first.register(connection)
        second.register(connection)
        before = connection.scalars(beat).one()
        first.beat(connection)
        assert connection.scalars(beat).one() == before
        second.beat(connection)
        assert connection.scalars(beat).one() > before
