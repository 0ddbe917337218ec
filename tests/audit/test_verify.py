"""The trail is consistent, or the first row that does not is named."""

from __future__ import annotations

import datetime as dt
import secrets
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Database
from reading import made
from usage_instrument.audit.admin_chain import ADMIN_CHAIN
from usage_instrument.audit.chain import Chain, first_link
from usage_instrument.audit.checkpoint import Checkpoint, make_checkpoint
from usage_instrument.audit.verify import Verification, verify
from usage_instrument.schema import Tables

from .trails import SECOND, START, accesses, append

CHAINS = (700, 400, 90, 10)
ROWS = sum(CHAINS)
MANY = 10_000


class Trail(NamedTuple):
    connection: sa.Connection
    tables: Tables
    chains: list[Chain]
    checkpoint: Checkpoint

    def verified(self, checkpoint: Checkpoint | None = None) -> Verification:
        return verify(self.connection, self.tables, None, checkpoint)


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trail]:
    engine = sa.create_engine(f"sqlite:///{tmp_path_factory.mktemp('trail') / 'usage.db'}")
    tables = made(engine)
    chains = [Chain(None) for _ in CHAINS]
    with engine.begin() as connection:
        for number, chain in zip(CHAINS, chains, strict=True):
            append(connection, tables, chain, accesses(number))
    with engine.begin() as connection:
        checkpoint = make_checkpoint(connection, tables)
    with engine.connect() as connection:
        yield Trail(connection, tables, chains, checkpoint)
    engine.dispose()


def test_untouched_rows_hold(trail: Trail) -> None:
    assert trail.verified(trail.checkpoint) == Verification(ROWS + 1, len(CHAINS) + 1, ())


def test_ten_thousand_rows_hold(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    with engine.begin() as connection:
        append(connection, tables, Chain(None), accesses(MANY))
        assert verify(connection, tables) == Verification(MANY, 1, ())


CHANGES: dict[str, Any] = {
    "occurred_at": dt.datetime(2020, 1, 1, 0, 0, 0, 1),
    "access_id": uuid.UUID(int=1),
    "user_id": uuid.UUID(int=77),
    "actor_id": uuid.UUID(int=78),
    "feature_name": "something_else",
    "outcome": "unheard of",
    "request_id": "another",
    "service": "another",
    "metadata": '{"drawer": "é"}',
    "seal": "0" * 32,
    "link": "0" * 64,
}


@pytest.mark.parametrize("column", CHANGES)
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, ROWS - 1))
def test_any_changed_column_of_any_row_is_found(trail: Trail, column: str, at: int) -> None:
    chain, number = _place(trail, at)
    with trail.connection.begin_nested() as savepoint:
        _change(trail, chain, number, {column: CHANGES[column]})
        found = trail.verified(trail.checkpoint).findings
        savepoint.rollback()
    assert [(each.kind, each.chain_id, each.number) for each in found] == [("changed", chain, number)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, ROWS - 1))
def test_any_removed_row_is_found(trail: Trail, at: int) -> None:
    chain, number = _place(trail, at)
    with trail.connection.begin_nested() as savepoint:
        trail.connection.execute(sa.delete(trail.tables.access).where(_is(trail, chain, number)))
        found = trail.verified(trail.checkpoint).findings
        savepoint.rollback()
    assert [(each.kind, each.chain_id, each.number) for each in found] == [("removed", chain, number)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, ROWS - 1), link=st.sampled_from(["copied", "random"]))
def test_any_inserted_row_is_found(trail: Trail, at: int, link: str) -> None:
    """The rows behind it are moved, so that no number is missing or there twice."""
    chain, number = _place(trail, at)
    access = trail.tables.access
    with trail.connection.begin_nested() as savepoint:
        row = dict(trail.connection.execute(sa.select(access).where(_is(trail, chain, number))).mappings().one())
        for sign in (-1, 1):  # not at once, as they would meet each other
            behind = (access.c.chain_id == chain) & (access.c.number >= number if sign < 0 else access.c.number < 0)
            moved = -access.c.number - 1 if sign < 0 else -access.c.number
            trail.connection.execute(sa.update(access).where(behind).values(number=moved))
        forged = {
            **row,
            "link": row["link"] if link == "copied" else secrets.token_hex(32),
            "user_id": uuid.UUID(int=66),
        }
        trail.connection.execute(sa.insert(access), forged)
        found = trail.verified(trail.checkpoint).findings
        savepoint.rollback()
    assert [(each.chain_id, each.number) for each in found] == [(chain, number)]
    assert found[0].kind == "inserted"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, ROWS - 1), other=st.integers(0, ROWS - 1), links=st.booleans())
def test_any_two_swapped_rows_are_found(trail: Trail, at: int, other: int, links: bool) -> None:
    chain, number = _place(trail, at)
    its, place = _place(trail, other)
    if (chain, number) == (its, place):
        return
    access = trail.tables.access
    kept = {"chain_id", "number"} | (set() if links else {"link"})
    with trail.connection.begin_nested() as savepoint:
        rows = [
            dict(trail.connection.execute(sa.select(access).where(_is(trail, *where))).mappings().one())
            for where in ((chain, number), (its, place))
        ]
        for where, row in zip(((chain, number), (its, place)), reversed(rows), strict=True):
            _change(trail, *where, {name: value for name, value in row.items() if name not in kept})
        found = trail.verified(trail.checkpoint).findings
        savepoint.rollback()
    if chain == its:
        assert [(each.kind, each.chain_id, each.number) for each in found] == [("reordered", chain, min(number, place))]
    else:
        assert {(each.chain_id, each.number) for each in found} == {(chain, number), (its, place)}


def test_a_chain_that_is_gone_is_missed_by_a_checkpoint(trail: Trail) -> None:
    gone = trail.chains[3].chain_id
    with trail.connection.begin_nested() as savepoint:
        trail.connection.execute(sa.delete(trail.tables.access).where(trail.tables.access.c.chain_id == gone))
        assert trail.verified().findings == ()  # nothing in the database tells of it
        found = trail.verified(trail.checkpoint).findings
        savepoint.rollback()
    assert [(each.kind, each.chain_id) for each in found] == [("removed", gone)]


def test_a_chain_that_is_written_anew_is_found_by_a_checkpoint(trail: Trail) -> None:
    """A role that may change the database can make links where there is no key."""
    access, old = trail.tables.access, trail.chains[3].chain_id
    forged = Chain(None)
    forged.chain_id, fresh = old, Chain(None)
    fresh.chain_id = old

    fresh.link = first_link(None, old)
    with trail.connection.begin_nested() as savepoint:
        trail.connection.execute(sa.delete(access).where(access.c.chain_id == old))
        append(trail.connection, trail.tables, fresh, accesses(10, START + SECOND))
        assert trail.verified().findings == ()
        found = trail.verified(trail.checkpoint).findings
        savepoint.rollback()
    assert [(each.kind, each.chain_id, each.number) for each in found] == [("changed", old, 10)]


def test_a_checkpoint_of_another_database_is_told(trail: Trail) -> None:
    other = Checkpoint(trail.checkpoint.made_at, {})
    (found,) = trail.verified(other).findings
    assert found.chain_id == ADMIN_CHAIN
    assert "no record of this checkpoint" in found.detail


def test_a_checkpoint_survives_its_export(trail: Trail) -> None:
    assert Checkpoint.from_json(trail.checkpoint.to_json()) == trail.checkpoint


KEY = "k" * 32


def test_with_a_key_nobody_else_makes_a_link(database: Database) -> None:
    engine = database.engine()
    tables = made(engine)
    chain, forger = Chain(KEY), Chain(None)
    with engine.begin() as connection:
        append(connection, tables, chain, accesses(20))
    with engine.begin() as connection:
        assert verify(connection, tables, KEY) == Verification(20, 1, ())
        assert len(verify(connection, tables).findings) == 1
        forger.chain_id, forger.number, forger.link = chain.chain_id, chain.number, chain.link
        append(connection, tables, forger, accesses(1))
        (found,) = verify(connection, tables, KEY).findings
    assert (found.kind, found.number) == ("changed", 21)


def _place(trail: Trail, at: int) -> tuple[uuid.UUID, int]:
    """A row of the ten thousand, by its chain and number."""
    for chain in trail.chains:
        if at < chain.number:
            return chain.chain_id, at + 1
        at -= chain.number
    raise AssertionError(at)


def _is(trail: Trail, chain: uuid.UUID, number: int) -> sa.ColumnElement[bool]:
    access = trail.tables.access
    return sa.and_(access.c.chain_id == chain, access.c.number == number)


def _change(trail: Trail, chain: uuid.UUID, number: int, values: dict[str, Any]) -> None:
    trail.connection.execute(sa.update(trail.tables.access).where(_is(trail, chain, number)).values(values))
