"""An attacker who may only INSERT, as a compromised app may: no row stops verification, search, export or erasure."""

from __future__ import annotations

import datetime as dt
import json
import logging
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from conftest import Database
from reading import all_of, counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.audit.admin_chain import ADMIN_CHAIN
from usage_instrument.audit.checkpoint import make_checkpoint
from usage_instrument.audit.verify import verify
from usage_instrument.cli.app import app
from usage_instrument.database.suppressions import Key
from usage_instrument.errors import AuditError, ConfigurationError, UsageInstrumentError
from usage_instrument.privacy import erasure
from usage_instrument.schema import Tables

ADA, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)
KEY, PRIVACY_KEY = "k" * 32, "a secret of thirty-two characters, or more"
DEEP = "[" * 100_000 + "]" * 100_000

METADATA = {
    "no JSON": "no JSON",
    "NULL": None,
    "another shape": '{"cuts": [1, 2], "name": {}, "user": [], "actor": 3, "details": null, "digest": {}}',
    "a list": "[]",
    "deep": DEEP,
}


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure.Erasure, "_await_gates", lambda self, announced: None)  # no other process is there


def settings(**more: Any) -> Settings:
    given: dict[str, Any] = {"audit_key": KEY, "privacy_key": PRIVACY_KEY, "audit_timeout": 0.5, **more}
    return Settings(flush_interval=3600, **given)


def filled(database: Database) -> Tables:
    """Two accesses of Ada's, and a checkpoint in the admin chain."""
    tables = made(database.engine())
    tracker = Tracker(database.url, settings())
    for _ in range(2):
        tracker.track("open_vault", user=ADA, audit=True)
    assert tracker.shutdown(30)
    with database.engine().begin() as connection:
        make_checkpoint(connection, tables, KEY)
    return tables


def planted(
    database: Database, tables: Tables, feature: str, metadata: str | None, number: int = 2, seal: str = "0" * 32
) -> None:
    row = {
        "chain_id": ADMIN_CHAIN,
        "number": number,
        "occurred_at": dt.datetime(2026, 1, 1),
        "access_id": uuid.uuid4(),
        "feature_name": feature,
        "outcome": "success",
        "service": "",
        "metadata": metadata,
        "seal": seal,
        "link": "0" * 64,
    }
    with database.engine().begin() as connection:
        connection.execute(sa.insert(tables.access), row)


def run(database: Database, *arguments: str) -> Result:
    variables = {
        "USAGE_INSTRUMENT_AUDIT_KEY": KEY,
        "USAGE_INSTRUMENT_PRIVACY_KEY": PRIVACY_KEY,
        "USAGE_INSTRUMENT_AUDIT_TIMEOUT": "0.1",
    }
    return CliRunner().invoke(app, [*arguments, "--url", database.url], env=variables)


FEATURES = ("usage_instrument.cut", "usage_instrument.erasure", "usage_instrument.checkpoint")


@pytest.mark.parametrize(
    ("kind", "name"), [*(("sqlite", name) for name in METADATA), ("postgresql", "NULL"), ("mariadb", "deep")]
)
def test_a_planted_record_is_a_finding_and_stops_nothing(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(kind)
    tables = filled(database)
    for number, feature in enumerate(FEATURES, 2):
        planted(database, tables, feature, METADATA[name], number)
    with database.engine().connect() as connection:
        (finding,) = verify(connection, tables, KEY).findings
    assert (finding.chain_id, finding.number) == (ADMIN_CHAIN, 2)
    for format_ in ("json", "table", "csv"):
        done = run(database, "audit", "show", "--format", format_)
        assert done.exit_code == 0, done.output
    done = run(database, "audit", "export")
    assert len(done.stdout.splitlines()) == 6
    refused = run(database, "audit", "checkpoint")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert f"row 4 of the admin chain {ADMIN_CHAIN} is inconsistent" in refused.stderr


@pytest.mark.parametrize(
    ("kind", "number"),
    [("sqlite", 2), ("sqlite", 3), ("sqlite", 2**63 - 1), ("postgresql", 2**63 - 1), ("mariadb", 2**63 - 1)],
)
def test_nothing_is_built_on_a_planted_row(kind: str, number: int, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(kind)
    tables = filled(database)
    planted(database, tables, "usage_instrument.checkpoint", "{}", number)
    with database.engine().begin() as connection, pytest.raises(AuditError, match="is inconsistent"):
        make_checkpoint(connection, tables, KEY)
    tracker = Tracker(database.url, settings())
    with pytest.raises(UsageInstrumentError, match="is inconsistent, so nothing was recorded"):
        tracker.privacy.forget(ADA)
    assert counts(database.engine(), tables) == {("open_vault", ADA): 2}, "nothing was done"
    assert all_of(database.engine(), tables.suppressions) == []
    access = tables.access
    with database.engine().begin() as connection:
        connection.execute(sa.delete(access).where(access.c.chain_id == ADMIN_CHAIN, access.c.number == number))
    assert tracker.privacy.forget(ADA).pseudonymised == 2
    assert tracker.shutdown(30)


def test_a_planted_cut_does_not_hide_removed_rows(database: Database) -> None:
    tables = filled(database)
    (first, *_) = [row for row in all_of(database.engine(), tables.access) if row.number == 1]
    access = tables.access
    with database.engine().begin() as connection:
        connection.execute(sa.delete(access).where(access.c.chain_id == first.chain_id, access.c.number == 1))
    planted(database, tables, "usage_instrument.cut", json.dumps({"cuts": {first.chain_id.hex: [1, first.link]}}))
    with database.engine().connect() as connection:
        findings = verify(connection, tables, KEY).findings
    assert {(finding.kind, finding.chain_id) for finding in findings} >= {("removed", first.chain_id)}


@pytest.mark.parametrize("seal", [DEEP, "{" * 100_000, '{"salts": 1, "digests": {"user": []}, "names": []}', '{"a": 1'])
def test_a_planted_seal_is_a_finding(database: Database, seal: str) -> None:
    tables = filled(database)
    planted(database, tables, "open_vault", None, 1_000, seal)
    with database.engine().connect() as connection:
        assert len(verify(connection, tables, KEY).findings) == 1
    assert run(database, "audit", "show", "--format", "json").exit_code == 0


def test_an_erasure_undone_from_a_backup_is_a_finding(database: Database) -> None:
    tables = filled(database)
    access = tables.access
    backup = [dict(row._mapping) for row in all_of(database.engine(), access) if row.user_id == ADA]
    tracker = Tracker(database.url, settings())
    assert tracker.privacy.forget(ADA).pseudonymised == 2
    assert tracker.shutdown(30)
    with database.engine().begin() as connection:
        assert verify(connection, tables, KEY).findings == ()
        for row in backup:
            where = sa.and_(access.c.chain_id == row["chain_id"], access.c.number == row["number"])
            connection.execute(sa.update(access).where(where).values(row))
    with database.engine().connect() as connection:
        (finding,) = verify(connection, tables, KEY).findings
    assert finding.detail == "its erased parts differ from the recorded erasures"


def test_a_foreign_suppression_stops_nobody_else(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    tables = made(database.engine())
    tracker = Tracker(database.url, settings(audit_timeout=30))
    tracker.privacy.opt_out(BOB)
    foreign = {"user_hash": Key("x" * 32).hash_of(ADA), "state": "forgotten", "key_id": "0" * 16}
    own = {"user_hash": "no hexadecimal digits", "state": "forgotten", "key_id": Key(PRIVACY_KEY).id}
    future = {"user_hash": "00" * 32, "state": "forgotten", "key_id": Key(PRIVACY_KEY).id}
    with database.engine().begin() as connection:
        for row in (foreign, own, future):
            changed_at = dt.datetime(9999 if row is future else 2026, 1, 1)
            connection.execute(sa.insert(tables.suppressions), {**row, "changed_at": changed_at})
    with caplog.at_level(logging.WARNING, "usage_instrument"):
        for user in (ADA, BOB):
            tracker.track("search", user=user)
        tracker.track("open_vault", user=ADA, audit="required")
        assert tracker.flush(30)
    assert counts(database.engine(), tables) == {("search", ADA): 1, ("open_vault", ADA): 1}
    assert "2 rows of another privacy_key: ignored" in caplog.text
    tracker.privacy.opt_out(ADA)  # after a row of the year 9999
    tracker.track("search", user=ADA)
    assert tracker.shutdown(30)
    assert counts(database.engine(), tables)["search", ADA] == 1


def test_a_malformed_row_of_the_right_key_stops_nobody(sqlite: Database) -> None:
    tables = made(sqlite.engine())
    planted_suppression(sqlite, tables, Key(PRIVACY_KEY).id, user_hash="no hexadecimal digits")
    tracker = Tracker(sqlite.url, settings())
    tracker.track("search", user=ADA)
    assert tracker.shutdown(30), tracker.stats()
    assert counts(sqlite.engine(), tables) == {("search", ADA): 1}


@pytest.mark.parametrize("command", [["create"], ["upgrade", "--yes"]])
def test_a_foreign_suppression_stops_nobody_in_a_database_that_knows_its_key(
    sqlite: Database, command: list[str]
) -> None:
    tables = made(sqlite.engine())
    assert run(sqlite, "db", *command).exit_code == 0
    planted_suppression(sqlite, tables, "0" * 16)
    tracker, other = (Tracker(sqlite.url, settings(privacy_key=key)) for key in (PRIVACY_KEY, "z" * 32))
    for each in (tracker, other):
        each.track("search", user=ADA)
    assert tracker.shutdown(30), tracker.stats()
    assert not other.shutdown(1), "its key is not the one of the database"
    assert counts(sqlite.engine(), tables) == {("search", ADA): 1}


def planted_suppression(database: Database, tables: Tables, key_id: str, user_hash: str = "00" * 32) -> None:
    row = {"user_hash": user_hash, "state": "forgotten", "key_id": key_id, "changed_at": dt.datetime(2026, 1, 1)}
    with database.engine().begin() as connection:
        connection.execute(sa.insert(tables.suppressions), row)


def test_a_process_with_a_key_of_its_own_writes_nothing(sqlite: Database) -> None:
    tables = made(sqlite.engine())
    Tracker(sqlite.url, settings()).privacy.opt_out(ADA)
    other = Tracker(sqlite.url, settings(privacy_key="z" * 32))
    other.track("search", user=ADA)
    assert not other.flush(1)
    assert counts(sqlite.engine(), tables) == {}
    other.shutdown(0.1)


@pytest.mark.parametrize("key", [" " * 40, "\t" * 33, " " * 20 + "short" + " " * 20])
@pytest.mark.parametrize("name", ["privacy_key", "audit_key"])
def test_a_key_of_spaces_is_refused(name: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is a secret of at least 32 characters"):
        Settings(**{name: key})  # type: ignore[arg-type]


def test_rows_deleted_under_the_right_key_are_not_called_a_wrong_key(sqlite: Database) -> None:
    tables = made(sqlite.engine())
    tracker = Tracker(sqlite.url, settings(audit_timeout=30))
    for _ in range(2):
        tracker.track("open_vault", user=ADA, audit="required")
    assert tracker.shutdown(30)
    with sqlite.engine().begin() as connection:
        connection.execute(sa.delete(tables.access).where(tables.access.c.outcome == "attempted"))
        connection.execute(sa.delete(tables.access).where(tables.access.c.number == 1))
    done = run(sqlite, "audit", "verify")
    assert "USAGE_INSTRUMENT_AUDIT_KEY" not in done.stderr
