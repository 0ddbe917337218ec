"""`usage-instrument doctor`: it finds what is wrong, names the fix, and changes nothing."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from commands import in_one_process
from conftest import Database, UsersDatabase
from reading import all_of, made
from usage_instrument.cli.app import app
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.months import move_first_day


def diagnosed(database: Database, *options: str, code: int = 0) -> dict[str, list[Any]]:
    """The findings by what was looked at."""
    done = CliRunner().invoke(app, ["doctor", "--url", database.url, "--format", "json", *options])
    assert done.exit_code == code, done.output
    found: dict[str, list[Any]] = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["check"], []).append(finding)
    return found


def states(found: dict[str, list[Any]]) -> dict[str, set[str]]:
    return {check: {finding["state"] for finding in findings} for check, findings in found.items()}


def test_all_is_well(users_database: UsersDatabase) -> None:
    database, engine = users_database.database, users_database.engine
    tables = made(engine)
    with engine.begin() as connection:
        connection.execute(
            tables.catalog.insert().values(feature_name="export", declared_at=utcnow(), last_declared_at=utcnow())
        )
    found = diagnosed(database)
    assert {state for check, its in states(found).items() if check != "time zone" for state in its} == {"ok"}
    assert "users.id" in found["tables"][0]["finding"]
    for table in (tables.usage, tables.history, tables.writers, tables.losses):
        assert all_of(engine, table) == []


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_numbers_of_rows_that_run_out_are_told_in_time(kind: str, request: pytest.FixtureRequest) -> None:
    database = request.getfixturevalue(kind)
    tables = made(database.engine())
    for id_, has_warning in ((2**30 - 1, False), (2**30 + 2**29, True)):
        with database.engine().begin() as connection:
            connection.execute(tables.usage.insert().values(id=id_, feature_name=str(id_)))
        assert ("ids" in diagnosed(database)) is has_warning
    assert "75% of the numbers" in diagnosed(database)["ids"][0]["finding"]
    assert "db upgrade --id-type bigint" in diagnosed(database)["ids"][0]["what_to_do"]
    with database.engine().begin() as connection:
        tables.usage.metadata.drop_all(connection)
    made(database.engine(), id_type="bigint")
    assert "ids" not in diagnosed(database)


def test_a_time_zone_that_is_not_utc_is_told(mariadb: Database) -> None:
    made(mariadb.engine())
    found = diagnosed(mariadb)  # the server's own is -05:00
    assert states(found)["time zone"] == {"warning"}
    assert "UTC" in found["time zone"][0]["what_to_do"]


def test_no_tables(database: Database) -> None:
    database.engine().connect().close()
    found = diagnosed(database, code=1)
    assert states(found) == {"database": {"ok"}, "tables": {"BAD"}}
    assert "usage-instrument db create" in found["tables"][0]["what_to_do"]


def test_the_setting_for_other_user_ids_is_named(sqlite: Database) -> None:
    made(sqlite.engine(), user_id_type="integer")
    assert "user_id_type='integer' in the app" in diagnosed(sqlite)["tables"][0]["finding"]


def test_what_is_missing_is_named(database: Database) -> None:
    tables, engine = made(database.engine()), database.engine()
    tables.losses.drop(engine)
    found = diagnosed(database, code=1)
    assert "feature_usage_losses does not exist" in found["tables"][0]["finding"]
    assert found["tables"][0]["what_to_do"] == "run `usage-instrument db create`"


def test_a_role_that_may_only_read(postgresql: Database) -> None:
    engine = postgresql.engine()
    made(engine)
    role = f"reader_{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        reader = Database("postgresql", sa.make_url(postgresql.url).set(username=role).render_as_string(False))
        found = diagnosed(reader)
        assert states(found)["privileges"] == {"warning"}
        assert "permission denied" in found["privileges"][0]["finding"]
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_silent_writers_and_losses_are_told(database: Database) -> None:
    tables, engine = made(database.engine()), database.engine()
    long_ago, now = utcnow() - dt.timedelta(hours=5), utcnow()
    with engine.begin() as connection:
        for beat in (long_ago, now):
            connection.execute(
                tables.writers.insert().values(
                    writer_id=uuid.uuid4(), service="web", started_at=long_ago, heartbeat_at=beat
                )
            )
        connection.execute(tables.losses.insert().values(day=now.date(), reason="memory full", uses=1500))
        old = now.date() - dt.timedelta(days=30)
        connection.execute(tables.losses.insert().values(day=old, reason="in doubt", uses=1))
    found = diagnosed(database)
    assert [finding["state"] for finding in found["writers"]] == ["ok", "warning"]
    assert "1 active writer" in found["writers"][0]["finding"]
    assert "1 silent without a clean exit" in found["writers"][1]["finding"]
    assert [finding["finding"] for finding in found["losses"]] == ["1,500 uses lost in the last 7 days: memory full"]
    assert states(found)["catalogue"] == {"warning"}


def test_a_dead_journal_is_told(sqlite: Database, tmp_path: Path) -> None:
    made(sqlite.engine())
    place = tmp_path / "journal"
    assert "no process kept a journal" in diagnosed(sqlite, "--journal", str(place))["journal"][0]["finding"]
    program = (
        "import os, signal, sys, usage_instrument as usage\n"
        "usage.configure(sys.argv[1], journal=sys.argv[2], flush_interval=3600)\n"
        "usage.track('export', count=3)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", program, sqlite.url, str(place)], check=False, env=os.environ)
    assert died.returncode == -signal.SIGKILL
    found = diagnosed(sqlite, "--journal", str(place))["journal"]
    assert [finding["state"] for finding in found] == ["ok", "warning"]
    assert "is dead and left 3 uses" in found[1]["finding"]
    (path,) = place.iterdir()
    path.chmod(0o770)
    found = diagnosed(sqlite, "--journal", str(place))["journal"]
    assert [finding["state"] for finding in found] == ["ok", "warning"]
    assert f"is dead: {path} is writable for others" in found[1]["finding"]


def test_a_database_that_is_away_is_one_line() -> None:
    done = CliRunner().invoke(app, ["doctor", "--url", "postgresql+psycopg://me:secret@127.0.0.1:1/nowhere"])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize("form", ["table", "markdown", "csv"])
def test_people_read_it_too(sqlite: Database, form: str) -> None:
    made(sqlite.engine())
    done = CliRunner().invoke(app, ["doctor", "--url", sqlite.url, "--format", form])
    assert done.exit_code == 0
    assert "this role can write (tried, and rolled back)" in done.output


APP = """
import os

import usage_instrument as usage
from fastapi import FastAPI
from usage_instrument.integrations.fastapi import instrument

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
instrument(app)

@app.get("/events")
def list_events(): ...

@usage.tracks("report_made")
def report(): ...

def create_app():
    usage.configure("sqlite:///usage.db", users=None)
    return app

def broken():
    raise LookupError("no configuration")
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "calendar_app.py").write_text(APP)
    (tmp_path / "half_app.py").write_text("import library_that_is_not_installed")
    (tmp_path / "wrong_app.py").write_text("1 / 0")
    (tmp_path / "silent_app.py").write_text("port = 0\nassert port")
    return tmp_path


def test_what_an_app_will_count_is_listed_without_a_database(host: Path) -> None:
    unconfigured, configured = in_one_process(
        [
            ["doctor", "--app", "calendar_app:app"],
            ["doctor", "--app", "calendar_app:create_app()", "--format", "json"],
        ],
        host,
    )
    assert unconfigured.returncode == 0
    assert "list_events" in unconfigured.stdout
    assert "nothing is counted yet: the app has not called usage_instrument.configure()" in unconfigured.stderr
    assert (configured.returncode, configured.stderr) == (0, "")
    rows = json.loads(configured.stdout)
    assert {row.pop("user_source").partition(":")[0] for row in rows} == {"unknown"}
    assert rows == [
        {"method": "GET", "route": "/events", "feature": "list_events", "why": "the name of the route"},
        {
            "method": "",
            "route": "",
            "feature": "report_made",
            "why": "@tracks on calendar_app:report, from any caller",
        },
    ]
    assert not (host / "usage.db").exists()


ABSENT = {
    "calendar_app": "--app is module:app, or module:create_app() for a factory, not 'calendar_app'",
    "calendar_app:ap": "calendar_app has no 'ap'; did you mean 'app'?",
    "calendar_app:create_app": "for a factory, pass 'calendar_app:create_app()'",
    "calendar_app:broken()": "calendar_app:broken() cannot be made: LookupError: no configuration",
    "calendar_app.views:app": "there is no module 'calendar_app.views' here",
    "nowhere:app": "there is no module 'nowhere' here: run this where your server starts",
    "half_app:app": "half_app cannot be imported: No module named 'library_that_is_not_installed'",
    "wrong_app:app": "wrong_app cannot be imported: ZeroDivisionError: division by zero",
    "silent_app:app": "silent_app.py:2)",
}


def test_an_app_that_is_not_there_is_one_line(host: Path) -> None:
    asked = in_one_process([["doctor", "--app", name] for name in ABSENT], host)
    for done, (name, said) in zip(asked, ABSENT.items(), strict=True):
        assert done.returncode == 2, name
        assert done.stderr.startswith("usage-instrument: "), name
        assert said in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


def test_the_first_day_of_the_history_is_named(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    assert "months" not in diagnosed(sqlite)
    with engine.begin() as connection:
        move_first_day(connection, tables, dt.datetime.fromisoformat("2025-03-01"))
    found = diagnosed(sqlite)
    assert "the history has days since 2025-03-01, and months before" in str(found["months"])
