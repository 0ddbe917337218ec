"""`usage-instrument prune`, as an operator runs it."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from conftest import Database, UsersDatabase
from reading import all_of, made
from usage_instrument.cli.app import app
from usage_instrument.database.ledger import utcnow
from usage_instrument.pipeline.journal import Directory
from usage_instrument.schema import Tables

DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)


def prune(database: Database, *options: str, **variables: str) -> Result:
    return CliRunner().invoke(app, ["prune", "--url", database.url, *options], env=variables)


def table(database: Database, *options: str) -> list[tuple[str, int, str]]:
    done = prune(database, *options, "--format", "json")
    assert done.exit_code == 0, done.output
    return [(row["what"], row["rows"], row["status"]) for row in json.loads(done.stdout)]


def filled(users: UsersDatabase) -> tuple[sa.Engine, Tables, dt.datetime]:
    """Hours of a user and of nobody, of today and of 10, 100 and 500 days ago; a writer long dead."""
    engine, tables, now = users.engine, made(users.engine), utcnow()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    rows: list[dict[str, Any]] = [
        {"user_id": user, "feature_name": "f", "usage_count": 2, "bucket_start": today - days * DAY + hour * HOUR}
        for user in (None, users.user_ids[0])
        for days in (0, 10, 100, 500)
        for hour in ((0, 1, 2) if days else (0,))
    ]
    key = {"experiment": "page", "variant": "new"}
    seen = [
        {**key, "unit": f"{first} {last}", "first_exposed_at": now - first * DAY, "last_exposed_at": now - last * DAY}
        for first, last in ((500, 450), (500, 100), (10, 1))
    ]
    of_day = {"feature_name": "a", "dimension": "d", "dimension_value": "v"}
    sliced = [{**of_day, "bucket_start": today - ago * DAY} for ago in (500, 401, 400, 0)]
    dead = {"writer_id": uuid.uuid4(), "started_at": now - 500 * DAY, "heartbeat_at": now - 500 * DAY}
    with engine.begin() as connection:
        connection.execute(tables.history.insert(), rows)
        connection.execute(tables.exposures.insert(), seen)
        connection.execute(tables.dimensions.insert(), sliced)
        connection.execute(tables.writers.insert().values(dead))
        connection.execute(tables.losses.insert().values(day=(now - 500 * DAY).date(), reason="memory full", uses=1))
    return engine, tables, today


def test_it_says_what_would_go_then_what_went(users_database: UsersDatabase) -> None:
    engine, tables, today = filled(users_database)
    database = users_database.database
    history = f"history from before {today - 400 * DAY:%Y-%m-%d}"
    hours = f"hours from before {today - 30 * DAY:%Y-%m-%d}, summed up to days"
    exposures = f"exposures, the last one before {today - 400 * DAY:%Y-%m-%d}"
    writers = "writers silent for 400 days"
    would = table(database, "--hours-to-days", "30d", "--dry-run")
    dimensions = f"dimensions from before {today - 400 * DAY:%Y-%m-%d}"
    found = [(history, 6), (hours, 4), (exposures, 1), (dimensions, 2), (writers, 1)]
    assert would == [(*each, "would be deleted") for each in found]
    assert table(database, "--hours-to-days", "30d", "--dry-run") == would
    assert table(database, "--hours-to-days", "30d") == [(*each, "deleted") for each in found]
    assert {row.unit for row in all_of(engine, tables.exposures)} == {"500 100", "10 1"}
    assert {row.bucket_start for row in all_of(engine, tables.dimensions)} == {today - 400 * DAY, today}
    rows = {(row.user_id, row.bucket_start): row.usage_count for row in all_of(engine, tables.history)}
    assert len(rows) == 10
    for user in (None, users_database.user_ids[0]):
        assert rows[user, today - 100 * DAY] == 6
        assert [rows[user, today - 10 * DAY + hour * HOUR] for hour in range(3)] == [2, 2, 2]
    assert all_of(engine, tables.writers) == []
    assert len(all_of(engine, tables.losses)) == 1
    people = prune(database, "--older-than", "2w")
    assert people.exit_code == 0
    assert f"history from before {today - 14 * DAY:%Y-%m-%d}" in people.stdout
    assert len(all_of(engine, tables.history)) == 8


def test_it_knows_the_settings(users_database: UsersDatabase, tmp_path: Path) -> None:
    engine, tables, today = filled(users_database)
    (writer,) = all_of(engine, tables.writers)
    Directory.create(str(tmp_path), writer.writer_id, "a database").release()
    done = prune(
        users_database.database,
        USAGE_INSTRUMENT_HISTORY_RETENTION="60d",
        USAGE_INSTRUMENT_JOURNAL=str(tmp_path),
    )
    assert done.exit_code == 0, done.output
    assert {row.bucket_start for row in all_of(engine, tables.history)} >= {today, today - 10 * DAY}
    assert len(all_of(engine, tables.history)) == 8
    assert all_of(engine, tables.writers) == [writer]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--older-than", "soon"], "--older-than is 12h, 30d or 4w, not 'soon'"),
        (["--hours-to-days", "-3d"], "--hours-to-days is 12h, 30d or 4w, not '-3d'"),
        ([], "there is no table feature_usage: run `usage-instrument db create`"),
    ],
)
def test_what_it_cannot_do_is_one_line(sqlite: Database, options: list[str], says: str) -> None:
    with sqlite.engine().begin() as connection:
        connection.exec_driver_sql("CREATE TABLE another (id INTEGER)")
    done = prune(sqlite, *options)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"usage-instrument: {says}")


def test_days_become_months(users_database: UsersDatabase) -> None:
    """By the option or the setting, as the dry run says; never a part of a month."""
    engine, tables, today = filled(users_database)
    first = (today - 95 * DAY).replace(day=1)
    month = (first - DAY).replace(day=1)
    rows = [{"feature_name": "g", "bucket_start": month + days * DAY, "usage_count": 3} for days in (0, 1, 9)]
    with engine.begin() as connection:
        connection.execute(tables.history.insert(), rows)
    database = users_database.database
    days = f"days from before {first:%Y-%m-%d}, summed up to months"
    kept = f"history from before {(today - 400 * DAY).replace(day=1):%Y-%m-%d}"
    would = {what: rows for what, rows, _ in table(database, "--days-to-months", "95d", "--dry-run")}
    did = {what: rows for what, rows, _ in table(database, "--days-to-months", "95d")}
    assert did == would
    assert did[days] == 2 + 6 * (first > today - 100 * DAY)
    assert kept in did
    g = tables.history.c.feature_name == "g"
    with engine.connect() as connection:
        found = connection.execute(sa.select(tables.history).where(g)).all()
    assert [(row.bucket_start, row.usage_count) for row in found] == [(month, 9)]
    by_setting = json.loads(prune(database, "--format", "json", USAGE_INSTRUMENT_HISTORY_MONTHS_AFTER="95d").stdout)
    assert {"what": days, "rows": 0, "status": "deleted"} in by_setting
    refused = prune(database, "--days-to-months", "89d")
    assert refused.exit_code == 2
    assert "--days-to-months is at least 90d, not 89d" in refused.stderr
