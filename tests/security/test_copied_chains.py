"""Attack: a chain that was written in another database, under the same key, is copied into the trail."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from conftest import Database, fresh_sqlite
from reading import all_of, made
from usage_instrument import Settings, Tracker
from usage_instrument.audit.admin_chain import ADMIN_CHAIN
from usage_instrument.audit.chain import Chain
from usage_instrument.audit.checkpoint import make_checkpoint
from usage_instrument.audit.verify import Finding, verify
from usage_instrument.events import Access, Use
from usage_instrument.schema import Tables

KEY = "k" * 32
ADA, EVE = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)


def accessed(database: Database, user: uuid.UUID, *audits: Any) -> Tables:
    tables = made(database.engine())
    tracker = Tracker(database.url, Settings(audit_key=KEY, audit_timeout=30, flush_interval=3600))
    for audit in audits:
        tracker.track("open_vault", user=user, audit=audit)
    assert tracker.shutdown(30)
    return tables


def findings(database: Database, tables: Tables) -> tuple[Finding, ...]:
    with database.engine().connect() as connection:
        return verify(connection, tables, KEY).findings


def copied(source: Database, target: Database, tables: Tables) -> None:
    rows = [dict(row._mapping) for row in all_of(source.engine(), tables.access)]
    with target.engine().begin() as connection:
        connection.execute(sa.insert(tables.access), rows)


@pytest.mark.parametrize("audit", [True, "required"])
def test_a_chain_of_another_database_is_a_finding(database: Database, audit: Any, tmp_path: Path) -> None:
    tables = accessed(database, ADA, audit)
    assert findings(database, tables) == ()
    (tmp_path / "other").mkdir()
    with fresh_sqlite(tmp_path / "other") as other:
        accessed(other, EVE, audit, audit)
        assert findings(other, tables) == ()
        copied(other, database, tables)
    (found,) = findings(database, tables)
    (first,) = (row for row in all_of(database.engine(), tables.access) if row.user_id == EVE and row.number == 1)
    assert (found.kind, found.chain_id, found.number) == ("changed", first.chain_id, 1)


def test_the_admin_chain_of_another_database_is_a_finding(sqlite: Database, tmp_path: Path) -> None:
    tables = accessed(sqlite, ADA, True)
    (tmp_path / "other").mkdir()
    with fresh_sqlite(tmp_path / "other") as other:
        accessed(other, EVE, True)
        with other.engine().begin() as connection:
            make_checkpoint(connection, tables, KEY)
            connection.execute(sa.delete(tables.access).where(tables.access.c.chain_id != ADMIN_CHAIN))
        copied(other, sqlite, tables)
    (found,) = findings(sqlite, tables)
    assert (found.chain_id, found.number) == (ADMIN_CHAIN, 1)


def test_chains_of_the_release_before_verify(database: Database) -> None:
    tables = made(database.engine())
    chain = Chain(KEY)
    use = Use("open_vault", ADA, None, 0, Access(uuid.uuid4(), "success", 1_700_000_000_000_000))
    with database.engine().begin() as connection:
        for _ in range(2):
            rows = chain.rows([use], "web")
            connection.execute(sa.insert(tables.access), rows)
            chain.appended(rows)
    accessed(database, EVE, True)
    with database.engine().begin() as connection:
        make_checkpoint(connection, tables, KEY)
    assert findings(database, tables) == ()


def test_without_the_table_a_chain_begins_as_those_of_the_release_before(sqlite: Database) -> None:
    tables = made(sqlite.engine())
    tables.trail.drop(sqlite.engine())
    tracker = Tracker(sqlite.url, Settings(audit_key=KEY, audit_timeout=30, flush_interval=3600))
    for audit in (True, "required"):
        tracker.track("open_vault", user=ADA, audit=audit)
    assert tracker.shutdown(30)
    assert findings(sqlite, tables) == ()


def test_all_processes_take_one_id(database: Database) -> None:
    tables = made(database.engine())
    for audit in ("required", True):
        accessed(database, ADA, audit)
    (row,) = all_of(database.engine(), tables.trail)
    with database.engine().begin() as connection:  # as the role of an app may
        connection.execute(sa.insert(tables.trail).values(id=0, trail_id=uuid.uuid4(), created_at=row.created_at))
    assert findings(database, tables) == ()
    assert len({row.chain_id for row in all_of(database.engine(), tables.access)}) == 2
    with database.engine().begin() as connection:
        connection.execute(sa.update(tables.trail).values(trail_id=uuid.uuid4()))
    assert [found.number for found in findings(database, tables)] == [1, 1], "each begins with it"
