"""What the command says of a wrong setting, a wrong place and a plain terminal: one line, and the fix."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from conftest import Database
from reading import made
from usage_instrument import Settings, Tracker
from usage_instrument.cli.app import app
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.schema import create_all

COMMAND = Path(sys.executable).with_name("usage-instrument")
WRONG = {
    "AUDIT_KEY": "short",
    "ENABLED": "maybe",
    "FLUSH_INTERVAL": "abc",
    "HISTORY": "year",
    "JOURNAL": "/nonexistent/journal",
    "MAX_PENDING": "-1",
    "PRIVACY_KEY": "x",
    "SCHEMA": "a b",
    "USER_ID_TYPE": "number",
    "USERS": "people",
}
COMMANDS = [
    "top", "unused", "doctor", "db check", "db upgrade --dry-run", "journal status", "prune --dry-run", "audit show",
    "audit verify", "export 7", "opt-out 7",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_setting_ends_in_a_traceback(command: str, sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    made(sqlite.engine(), user_id_type="integer")
    for name, value in WRONG.items():
        with monkeypatch.context() as patch:
            patch.setenv(f"USAGE_INSTRUMENT_{name}", value)
            done = CliRunner().invoke(app, [*command.split(), "--url", sqlite.url])
        assert done.exception is None or isinstance(done.exception, SystemExit), (name, done.exception)
        assert "Traceback" not in done.output
        assert done.output.strip()


def test_tables_in_another_schema_are_found_there(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA analytics")
        create_all(connection, schema="analytics")
    fix = "pass --schema analytics, schema='analytics', or set $USAGE_INSTRUMENT_SCHEMA"
    for command, code in (("top", 2), ("db check", 1), ("db views", 2)):
        done = CliRunner().invoke(app, [*command.split(), "--url", postgresql.url])
        assert (done.exit_code, "db create" in done.output) == (code, False), done.output
        assert fix in " ".join(done.output.split()), done.output
    assert CliRunner().invoke(app, ["top", "--url", postgresql.url, "--schema", "analytics"]).exit_code == 0
    reader: Any = Dashboard(engine, authorize=lambda _: True)._reader
    with pytest.raises(Exception, match="There is no table") as caught:
        reader.read(lambda connection, tables: None)
    assert fix in " ".join(caught.value.advice)  # type: ignore[attr-defined]


def test_deleted_rows_are_no_wrong_key(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    key = "k" * 32
    tracker = Tracker(sqlite.url, Settings(audit_key=key))
    for _ in range(4):
        tracker.track("open_vault", user=uuid.UUID(int=2**64), audit="required")
    assert tracker.shutdown()

    def verify(its_key: str) -> str:
        monkeypatch.setenv("USAGE_INSTRUMENT_AUDIT_KEY", its_key)
        done = CliRunner().invoke(app, ["audit", "verify", "--url", sqlite.url])
        assert done.exit_code == 1, done.output
        return done.output

    hint = "AUDIT_KEY the key that they were written with?"
    assert hint in verify("x" * 32)
    with engine.begin() as connection:
        connection.execute(tables.access.update().where(tables.access.c.number == 4).values(feature_name="other"))
    assert hint not in verify(key)
    with engine.begin() as connection:
        connection.execute(tables.access.delete().where(tables.access.c.number == 2))
    assert hint not in verify(key)


def test_a_plain_terminal_has_plain_bars(sqlite: Database) -> None:
    tables = made(sqlite.engine())
    with sqlite.engine().begin() as connection:
        for table, when in ((tables.usage, "last_used"), (tables.history, "bucket_start")):
            connection.execute(table.insert().values({"feature_name": "f", "usage_count": 3, when: sa.func.now()}))
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [str(COMMAND), "trend", "--since", "1d", "--url", sqlite.url]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=True)
    assert "#" * 40 in done.stdout
    assert "\\u" not in done.stdout
