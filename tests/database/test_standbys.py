"""A query that a standby ends is asked again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from psycopg.errors import SerializationFailure
from typer.testing import CliRunner

from conftest import Database
from reading import all_of, made
from usage_instrument.alerts import watch
from usage_instrument.alerts.findings import findings
from usage_instrument.cli import audit
from usage_instrument.cli.app import app
from usage_instrument.cli.database import ask
from usage_instrument.dashboard.errors import PageError
from usage_instrument.dashboard.reader import Reader
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.standbys import ATTEMPTS
from usage_instrument.schema import Tables

CONFLICT = "DO $$ BEGIN RAISE EXCEPTION 'conflict with recovery' USING ERRCODE = '{code}'; END $$"


@pytest.mark.parametrize(("code", "ends", "attempts"), [("40001", 2, 3), ("40001", 3, ATTEMPTS), ("42501", 1, 1)])
def test_a_conflict_is_asked_again_and_no_other_error(
    code: str, ends: int, attempts: int, postgresql: Database
) -> None:
    made(postgresql.engine())
    done: list[int] = []

    def work(connection: sa.Connection, tables: Tables) -> str:
        done.append(1)
        if len(done) <= ends:
            connection.exec_driver_sql(CONFLICT.format(code=code))
        return "answer"

    reader = Reader(postgresql.url, None, None)
    ways: tuple[Callable[[], str], ...] = (partial(ask, postgresql.url, None, work), partial(reader.read, work))
    for way in ways:
        done.clear()
        if ends < attempts:
            assert way() == "answer"
        else:
            with pytest.raises((typer.Exit, PageError)):
                way()
        assert len(done) == attempts


def ended_once(work: Callable[..., Any]) -> Callable[..., Any]:
    """As `work`, whose first call ends as a standby ends a query."""
    calls: list[int] = []

    def wrapped(*given: Any, **named: Any) -> Any:
        calls.append(1)
        found = work(*given, **named)
        if len(calls) == 1:
            raise sa.exc.OperationalError("SELECT", {}, SerializationFailure("conflict with recovery"))
        return found

    return wrapped


@pytest.mark.parametrize(
    ("command", "part"),
    [(["show"], "accesses"), (["anomalies"], "find_anomalies"), (["verify"], "verify_"), (["export"], "_write")],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_commands_that_read_the_trail_ask_again(
    command: list[str], part: str, postgresql: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(postgresql.engine())
    if command == ["export"]:
        monkeypatch.setattr(audit, part, ended_once(audit._write))
        done = CliRunner().invoke(app, ["audit", "export", "--format", "csv", "--url", postgresql.url])
        assert (done.exit_code, done.stdout.count("chain_id")) == (2, 1), "nothing is printed twice"
        assert "run this again with --output FILE" in done.stderr
        command = [*command, "--output", str(tmp_path / "trail.jsonl")]
    monkeypatch.setattr(audit, part, ended_once(getattr(audit, part)))
    done = CliRunner().invoke(app, ["audit", *command, "--url", postgresql.url])
    assert done.exit_code == 0, done.output


def test_rules_read_a_standby_and_the_state_is_on_the_primary(
    database: Database, postgresql: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = made(database.engine())
    if database.url != postgresql.url:
        made(postgresql.engine())
    with postgresql.engine().begin() as connection:
        lost = {"day": utcnow().date(), "service": "web", "reason": "memory full", "uses": 3}
        connection.execute(tables.losses.insert().values(lost))
    rules = tmp_path / "watch.toml"
    rules.write_text('[[rules]]\nname = "uses are lost"\nquestion = "losses"\n')
    monkeypatch.setattr(watch, "findings", ended_once(findings))
    options = ["watch", "--once", "--rules", str(rules), "--url", database.url, "--read-url", postgresql.url]
    for text in ("Begins: uses are lost (memory full): uses 3\n", ""):
        done = CliRunner().invoke(app, options)
        assert (done.exit_code, done.output) == (1, text), done.output
    assert [row.subject for row in all_of(database.engine(), tables.alerts)] == ["memory full"]
    with postgresql.engine().begin() as connection:
        connection.execute(tables.losses.delete())
    assert CliRunner().invoke(app, options).output.startswith("Ended: uses are lost")
    assert all_of(database.engine(), tables.alerts) == []
    # The environment's standby is of another database than --url alone.
    environment = {"USAGE_INSTRUMENT_READ_URL": "postgresql+psycopg://nobody@127.0.0.1:1/nothing"}
    assert CliRunner().invoke(app, options[:-2], env=environment).exit_code == 0
    failed = CliRunner().invoke(app, [*options[:-1], environment["USAGE_INSTRUMENT_READ_URL"]])
    assert failed.exit_code == 2
