"""Truncation: old rows go, the rest verifies, and no more than the record says may be missing."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from conftest import Database
from reading import made
from usage_instrument.audit.admin_chain import ADMIN_CHAIN
from usage_instrument.audit.chain import Chain
from usage_instrument.audit.checkpoint import make_checkpoint
from usage_instrument.audit.truncation import count_old, truncate
from usage_instrument.audit.verify import Verification, verify

from .trails import SECOND, START, accesses, append


def test_a_cut_is_recorded_and_the_rest_holds(database: Database) -> None:
    engine = database.engine()
    tables = made(engine)
    old, living = Chain(None), Chain(None)
    with engine.begin() as connection:
        append(connection, tables, old, accesses(30))
        append(connection, tables, living, accesses(50))
        checkpoint = make_checkpoint(connection, tables)
    before = dt.datetime(2023, 11, 14, 22, 13, 20) + dt.timedelta(seconds=40)
    with engine.connect() as connection:
        assert count_old(connection, tables, before) == 70
        connection.rollback()
        assert sum(truncate(connection, tables, before)) == 70
        assert sum(truncate(connection, tables, before)) == 0
        connection.rollback()
        append(connection, tables, living, accesses(5, START + 100 * SECOND))
        connection.commit()
        assert verify(connection, tables, None, checkpoint) == Verification(10 + 5 + 2, 2, ())
        connection.rollback()
        assert sum(truncate(connection, tables, before + dt.timedelta(days=9))) == 15
        assert verify(connection, tables, None, checkpoint).findings == ()


def test_more_than_the_cut_is_missed(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    chain = Chain(None)
    access = tables.access
    with engine.begin() as connection:
        append(connection, tables, chain, accesses(50))
    before = dt.datetime(2023, 11, 14, 22, 13, 20) + dt.timedelta(seconds=40)
    with engine.connect() as connection:
        assert sum(truncate(connection, tables, before)) == 40
        with connection.begin():
            connection.execute(sa.delete(access).where(access.c.number == 41))
            (found,) = verify(connection, tables).findings
            assert (found.kind, found.number) == ("removed", 41)
            connection.execute(sa.delete(access).where(access.c.chain_id == ADMIN_CHAIN))
            (found,) = verify(connection, tables).findings
            assert (found.kind, found.number) == ("removed", 1)
