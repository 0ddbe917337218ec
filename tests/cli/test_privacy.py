"""`usage-instrument forget`, `export`, `opt-out`, `opt-in`, `merge`, as an operator runs them."""

from __future__ import annotations

import csv
import io
import json
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from conftest import Database
from reading import all_of, counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.cli.app import app
from usage_instrument.privacy import erasure
from usage_instrument.schema import Tables

ADA, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)
KEY = "a secret of thirty-two characters, or more"


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "PATIENCE", 0.5)
    monkeypatch.setattr(erasure, "_MARGIN", 0.0)


def run(database: Database, *arguments: str, key: str = KEY, **variables: str) -> Result:
    said = {"USAGE_INSTRUMENT_PRIVACY_KEY": key, "USAGE_INSTRUMENT_AUDIT_TIMEOUT": "0.1", **variables}
    return CliRunner().invoke(app, [*arguments, "--url", database.url], env=said)


@pytest.fixture
def tables(database: Database) -> Tables:
    tables = made(database.engine())
    tracker = Tracker(database.url, Settings(flush_interval=3600, privacy_key=KEY))
    for user in (ADA, ADA, BOB):
        tracker.track("search", user=user)
        tracker.track("open_vault", user=user, audit=True)
    assert tracker.shutdown()
    return tables


def test_a_receipt_that_does_not_tell_who(database: Database, tables: Tables) -> None:
    done = run(database, "forget", str(ADA), "--format", "csv")
    assert done.exit_code == 0, done.output
    assert list(csv.DictReader(io.StringIO(done.stdout))) == [
        {"what": "feature_usage_outbox", "rows": "0", "status": "deleted"},
        {"what": "feature_usage", "rows": "2", "status": "deleted"},
        {"what": "feature_usage_history", "rows": "2", "status": "deleted"},
        {"what": "feature_usage_exposures", "rows": "0", "status": "deleted"},
        {"what": "feature_usage_dimensions", "rows": "0", "status": "deleted"},
        {"what": "audit trail", "rows": "2", "status": "pseudonymised"},
    ]
    assert str(ADA) not in done.output
    assert ADA.hex not in done.output
    assert counts(database.engine(), tables) == {("search", BOB): 1, ("open_vault", BOB): 1}


def test_the_trail_shows_the_pseudonym_and_verifies(database: Database, tables: Tables) -> None:
    assert run(database, "forget", str(ADA)).exit_code == 0
    assert "The trail is consistent" in run(database, "audit", "verify").stdout
    shown = json.loads(run(database, "audit", "show", "--feature", "open_vault", "--format", "json").stdout)
    whose = sorted(row["user_id"] for row in shown)
    assert whose[0] == str(BOB)
    assert whose[1] == whose[2]
    assert whose[1].startswith("forgotten:")
    assert len(whose[1]) == len("forgotten:") + 16
    assert "seal" not in shown[0]


def test_keeping_the_audit_trail(database: Database, tables: Tables) -> None:
    done = run(database, "forget", str(ADA), "--keep-audit", "--format", "json")
    assert {"what": "audit trail", "rows": 2, "status": "kept, as asked"} in json.loads(done.stdout)
    assert sum(row.user_id == ADA for row in all_of(database.engine(), tables.access)) == 2


def test_an_unknown_user_and_force(database: Database, tables: Tables) -> None:
    nobody = str(uuid.uuid4())
    done = run(database, "forget", nobody)
    assert (done.exit_code, done.stderr) == (
        2,
        "usage-instrument: there is no trace of this user; to forget them all the same, pass --force\n",
    )
    assert run(database, "forget", nobody, "--force").exit_code == 0


def test_a_journal_that_was_set_aside_is_told(sqlite: Database, tmp_path: Path) -> None:
    made(sqlite.engine())
    place = tmp_path / "journals"
    tracker = Tracker(sqlite.url, Settings(flush_interval=3600, journal=str(place)))
    tracker.track("search", user=ADA)
    (home,) = [path for path in place.iterdir() if not path.name.startswith(".")]
    (home / "parked").write_text("a reason\n")
    done = run(sqlite, "forget", str(ADA), "--journal", str(place), "--format", "json")
    assert done.exit_code == 1
    assert {"what": str(home), "rows": None, "status": "may still name the user"} in json.loads(done.stdout)
    assert "usage-instrument journal status" in done.stderr
    tracker.shutdown(0.5)


def test_the_data_of_a_user(database: Database, tables: Tables, tmp_path: Path) -> None:
    done = run(database, "export", str(ADA))
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert (data["user_id"], data["counted"]) == (str(ADA), True)
    assert {use["feature_name"]: use["usage_count"] for use in data["usage"]} == {"open_vault": 2, "search": 2}
    assert len(data["accesses"]) == 2
    file = tmp_path / "data.json"
    assert run(database, "export", str(ADA), "-o", str(file)).exit_code == 0
    assert json.loads(file.read_text())["usage"] == data["usage"]


def test_out_and_in(database: Database, tables: Tables) -> None:
    assert "Opted out" in run(database, "opt-out", str(ADA)).stdout
    assert json.loads(run(database, "export", str(ADA)).stdout)["counted"] is False
    assert "Opted in" in run(database, "opt-in", str(ADA)).stdout
    assert json.loads(run(database, "export", str(ADA)).stdout)["counted"] is True


def test_what_is_wrong_is_told_in_one_line(database: Database, tables: Tables) -> None:
    done = run(database, "forget", "no uuid")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "UUID" in done.stderr
    done = run(database, "opt-out", str(ADA), key="")
    assert done.exit_code == 2
    assert "privacy_key ($USAGE_INSTRUMENT_PRIVACY_KEY) is not set" in done.stderr


def test_a_guest_is_merged_once(database: Database, tables: Tables) -> None:
    done = run(database, "merge", str(ADA), str(BOB), "--format", "csv")
    assert done.exit_code == 0, done.output
    moved = [{"what": "feature_usage", "rows": "2"}, {"what": "feature_usage_history", "rows": "2"}]
    moved.append({"what": "feature_usage_exposures", "rows": "0"})
    moved.append({"what": "feature_usage_dimensions", "rows": "0"})
    moved.append({"what": "feature_usage_outbox", "rows": "0"})
    assert list(csv.DictReader(io.StringIO(done.stdout))) == moved
    assert counts(database.engine(), tables) == {("search", BOB): 3, ("open_vault", BOB): 3}
    again = run(database, "merge", str(ADA), str(BOB), "--format", "json")
    assert [row["rows"] for row in json.loads(again.stdout)] == [0, 0, 0, 0, 0]


def test_a_user_is_no_guest_unless_forced(database: Database, tables: Tables) -> None:
    engine = database.engine()
    users = sa.Table("users", sa.MetaData(), sa.Column("id", sa.Uuid, primary_key=True))
    users.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(users.insert().values(id=ADA))
    done = run(database, "merge", str(ADA), str(BOB))
    assert (done.exit_code, done.stderr) == (
        2,
        "usage-instrument: the guest is in the users table; to merge two users, pass --force\n",
    )
    assert run(database, "merge", str(ADA), str(BOB), "--force").exit_code == 0
    assert counts(engine, tables) == {("search", BOB): 3, ("open_vault", BOB): 3}


def test_nothing_is_merged_into_a_user_who_opted_out(database: Database, tables: Tables) -> None:
    assert run(database, "opt-out", str(BOB)).exit_code == 0
    done = run(database, "merge", str(ADA), str(BOB))
    assert done.exit_code == 1
    assert "the rows stay the guest's" in done.stderr
    assert counts(database.engine(), tables)["search", ADA] == 2
