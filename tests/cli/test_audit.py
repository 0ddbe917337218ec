"""`usage-instrument audit`, as an auditor runs it; and a role that may only add to it."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from conftest import Database
from reading import all_of, made
from usage_instrument import Settings, Tracker
from usage_instrument.audit.chain import Chain
from usage_instrument.cli.app import app
from usage_instrument.errors import UsageInstrumentError
from usage_instrument.events import Access, Use
from usage_instrument.schema import Tables

ADA, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)
KEY = "a secret of thirty-two characters"


def audit(database: Database, *arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(app, ["audit", *arguments, "--url", database.url], env=variables)


def shown(database: Database, *arguments: str) -> list[dict[str, Any]]:
    done = audit(database, "show", *arguments, "--format", "json")
    assert done.exit_code == 0, done.output
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_an_output_that_fails_is_no_fault_of_the_database(sqlite: Database, tmp_path: Path) -> None:
    filled(sqlite)
    done = audit(sqlite, "export", "--output", str(tmp_path / "nowhere" / "trail.jsonl"))
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    assert sqlite.url not in done.stderr
    command = [str(Path(sys.executable).with_name("usage-instrument")), "audit", "export", "--url", sqlite.url]
    reader, writer = os.pipe()
    os.close(reader)
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=unbuffered, check=False, timeout=60)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")


def filled(database: Database, **settings: Any) -> Tables:
    engine = database.engine()
    tables = made(engine)
    tracker = Tracker(database.url, Settings(flush_interval=0, service="web", audit_timeout=60, **settings))

    @tracker.tracks("open_vault", audit=True, metadata=["drawer"])
    def open_vault(drawer: int) -> None:
        if drawer > 3:
            raise PermissionError

    with tracker.as_user(ADA):
        open_vault(1)
    with tracker.as_user(BOB, actor=ADA), pytest.raises(PermissionError):
        open_vault(4)
    tracker.track("read_report", audit="required")
    assert tracker.shutdown(60)
    return tables


def test_who_accessed_what(database: Database) -> None:
    filled(database)
    everything = shown(database)
    assert [row["feature_name"] for row in everything] == ["read_report", "open_vault", "open_vault"]
    (denied,) = shown(database, "--outcome", "denied")
    assert (denied["user_id"], denied["actor_id"]) == (str(BOB), str(ADA))
    assert denied["metadata"] == {"drawer": 4}
    assert shown(database, "--actor", str(ADA)) == [denied]
    (ada,) = shown(database, "--user", str(ADA), "--feature", "open_vault", "--since", "1h")
    assert ada["outcome"] == "success"
    (nobody,) = shown(database, "--user", "anonymous")
    assert nobody["feature_name"] == "read_report"
    assert shown(database, "--until", "2020-01-01") == []
    assert len(shown(database, "--limit", "2")) == 2
    table = audit(database, "show", "--user", str(uuid.uuid4()))
    assert (table.exit_code, table.stdout) == (0, "No access matches.\n")


def test_the_trail_as_a_file(database: Database, tmp_path: Path) -> None:
    tables = filled(database)
    kept = tmp_path / "trail.jsonl"
    done = audit(database, "export", "--output", str(kept))
    assert "3 rows written" in done.stderr
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert {row["feature_name"] for row in rows} == {"open_vault", "read_report"}
    assert set(rows[0]) == set(tables.access.c.keys())
    some = audit(database, "export", "--format", "csv", "--user", str(BOB))
    (row,) = csv.DictReader(io.StringIO(some.stdout))
    assert (row["actor_id"], row["outcome"], row["metadata"]) == (str(ADA), "denied", '{"drawer":4}')


def test_the_trail_holds_until_somebody_changes_it(database: Database, tmp_path: Path) -> None:
    tables = filled(database, audit_key=KEY)
    variables = {"USAGE_INSTRUMENT_AUDIT_KEY": KEY}
    checkpoint = tmp_path / "checkpoint.json"
    assert audit(database, "checkpoint", "-o", str(checkpoint), **variables).exit_code == 0
    for options in ([], ["--checkpoint", str(checkpoint)]):
        done = audit(database, "verify", *options, **variables)
        assert (done.exit_code, done.stdout) == (0, "The trail is consistent: 4 rows in 3 chains.\n"), done.output
    without = audit(database, "verify")
    assert without.exit_code == 1
    assert "USAGE_INSTRUMENT_AUDIT_KEY the key" in without.stderr
    access = tables.access
    with database.engine().begin() as connection:
        connection.execute(sa.update(access).where(access.c.outcome == "denied").values(outcome="success"))
    done = audit(database, "verify", "--format", "json", **variables)
    assert done.exit_code == 1
    (finding,) = json.loads(done.stdout)
    assert (finding["what"], finding["number"]) == ("changed", 2)


def test_a_cut_is_recorded_and_the_rest_holds(database: Database) -> None:
    tables = filled(database)
    engine, access = database.engine(), tables.access
    # As time passes: what is older than a year, written by a chain of its own.
    chain, then = Chain(None), dt.datetime.now(dt.UTC) - dt.timedelta(days=500)
    old = Use("open_vault", ADA, None, 0, Access(uuid.uuid4(), "success", int(then.timestamp() * 1e6)))
    with engine.begin() as connection:
        connection.execute(sa.insert(access), chain.rows([old], "web"))
    would = audit(database, "cut", "--older-than", "400d", "--dry-run", "--format", "json")
    assert [(row["rows"], row["status"]) for row in json.loads(would.stdout)] == [(1, "would be deleted")]
    gone = audit(database, "cut", "--older-than", "400d", "--format", "json")
    assert [(row["rows"], row["status"]) for row in json.loads(gone.stdout)] == [(1, "deleted")]
    assert len(all_of(engine, access)) == 4  # three, and the record of the cut
    assert audit(database, "verify").exit_code == 0


def test_no_table_no_trail(database: Database) -> None:
    tables = made(database.engine())
    tables.access.drop(database.engine())
    for command in (["show"], ["export"], ["verify"], ["checkpoint"], ["cut", "--older-than", "1d"]):
        done = audit(database, *command)
        assert done.exit_code == 2
        assert "feature_usage_access does not exist" in done.stderr
        assert "usage-instrument db create" in done.stderr


@pytest.mark.parametrize("content", ["", "{}"])
def test_another_file_is_no_checkpoint(sqlite: Database, tmp_path: Path, content: str) -> None:
    made(sqlite.engine())
    file = tmp_path / "checkpoint.json"
    file.write_text(content)
    done = audit(sqlite, "verify", "--checkpoint", str(file))
    assert done.exit_code == 2
    assert "this is no checkpoint" in done.stderr


# ---- a role that may only add


@pytest.fixture
def role(server: Database) -> Iterator[str]:
    name = f"writes_{uuid.uuid4().hex[:12]}"
    engine = server.engine(isolation_level="AUTOCOMMIT")
    postgresql = server.name == "postgresql"
    with engine.connect() as connection:
        login = "LOGIN PASSWORD 'secret'" if postgresql else "IDENTIFIED BY 'secret'"
        connection.exec_driver_sql(f"CREATE {'ROLE' if postgresql else 'USER'} {name} {login}")
    yield name
    with engine.connect() as connection:
        if postgresql:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP {'ROLE' if postgresql else 'USER'} {name}")


def test_a_role_that_may_only_add_to_the_trail(server: Database, role: str) -> None:
    made_by_owner = CliRunner().invoke(app, ["db", "create", "--url", server.url, "--audit-role", role])
    assert made_by_owner.exit_code == 0, made_by_owner.output
    statements = [line for line in made_by_owner.stdout.splitlines() if line.startswith(("GRANT", "REVOKE"))]
    engine = server.engine(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    url = sa.make_url(server.url).set(username=role, password="secret")
    tables = made(engine)
    tracker = Tracker(url, Settings(flush_interval=0))
    tracker.track("open_vault", audit="required")
    tracker.track("open_vault", audit=True)
    assert tracker.shutdown(), tracker.stats()
    assert len(all_of(engine, tables.access)) == 2
    (count,) = all_of(engine, tables.usage)
    assert count.usage_count == 2
    theirs = sa.create_engine(url, poolclass=sa.NullPool)
    forbidden = [sa.select(tables.access), sa.delete(tables.access), sa.update(tables.access).values(outcome="failed")]
    for statement_ in forbidden:
        with theirs.connect() as connection, pytest.raises(sa.exc.DBAPIError, match=r"denied"):
            connection.execute(statement_)


def test_such_a_role_forgets_nobody_by_half(server: Database, role: str) -> None:
    done = CliRunner().invoke(app, ["db", "create", "--url", server.url, "--audit-role", role])
    engine = server.engine(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for line in done.stdout.splitlines():
            if line.startswith(("GRANT", "REVOKE")):
                connection.execute(sa.text(line))
    url = sa.make_url(server.url).set(username=role, password="secret")
    tables = made(engine)
    tracker = Tracker(url, Settings(flush_interval=0, privacy_key=KEY))
    tracker.track("open_vault", user=ADA, audit=True)
    assert tracker.flush(30)
    with pytest.raises(UsageInstrumentError, match="nothing was done, as this role may not read the audit trail"):
        tracker.privacy.forget(ADA)
    assert (len(all_of(engine, tables.usage)), len(all_of(engine, tables.suppressions))) == (1, 0)
    receipt = tracker.privacy.forget(ADA, keep_audit=True)
    assert (receipt.deleted["feature_usage"], receipt.kept) == (1, None)
    tracker.shutdown()
    owner = Tracker(server.url, Settings(flush_interval=0, privacy_key=KEY, audit_timeout=0.1))
    assert owner.privacy.forget(ADA).pseudonymised == 1
    owner.shutdown()


def test_a_database_without_roles_says_so(sqlite: Database) -> None:
    done = CliRunner().invoke(app, ["db", "create", "--url", sqlite.url, "--audit-role", "app"])
    assert done.exit_code == 2
    assert "role" in done.stderr


# ---- for auditors


def test_unresolved_attempts(database: Database) -> None:
    tables = made(database.engine())
    ended, cut_short = uuid.uuid4(), uuid.uuid4()
    moment = 1_700_000_000_000_000
    uses = [
        Use("open_vault", ADA, None, 0, Access(ended, "attempted", moment)),
        Use("open_vault", ADA, None, 0, Access(cut_short, "attempted", moment)),
        Use("open_vault", ADA, None, 0, Access(ended, "success", moment)),
    ]
    with database.engine().begin() as connection:
        connection.execute(sa.insert(tables.access), Chain(None).rows(uses, "web"))
    (row,) = shown(database, "--unresolved")
    assert row["access_id"] == str(cut_short)


def test_long_metadata_is_cut_in_a_table_and_formulas_are_text_in_csv(sqlite: Database) -> None:
    tables = made(sqlite.engine())
    long = json.dumps({"numbers": list(range(500))})
    uses = [Use("=1+1", None, long, 0, Access(uuid.uuid4(), "success", 1_700_000_000_000_000))]
    with sqlite.engine().begin() as connection:
        connection.execute(sa.insert(tables.access), Chain(None).rows(uses, "web"))
    assert max(map(len, audit(sqlite, "show").stdout.splitlines())) < 400
    assert shown(sqlite)[0]["metadata"] == json.loads(long)
    (row,) = csv.DictReader(io.StringIO(audit(sqlite, "export", "--format", "csv").stdout))
    assert (row["feature_name"], row["metadata"]) == ("'=1+1", long)
