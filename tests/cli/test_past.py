"""`usage-instrument demo --rows`: a past of any size, consistent in itself, with what it says is in it."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import made
from usage_instrument.audit.anomalies import Search, anomalies
from usage_instrument.audit.verify import verify
from usage_instrument.cli.demo import past, trail

from .test_demo import rows, run


@pytest.mark.parametrize("number", [1, 30, 2_000])
def test_a_past_is_as_large_as_asked(sqlite: Database, number: int) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    truths = past.fill(engine, tables, number)
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.usage)) == number
        by_history = sa.select(sa.func.sum(tables.history.c.usage_count))
        assert connection.scalar(by_history) == connection.scalar(sa.select(sa.func.sum(tables.usage.c.usage_count)))
        assert (
            connection.scalar(sa.select(tables.usage.c.user_id).order_by(tables.usage.c.id).limit(1))
            == truths.power_user
        )


def test_the_command_says_what_is_in_it(tmp_path: Path) -> None:
    done = run(tmp_path, "--yes", "--rows", "3000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3,000 rows" in done.stdout
    for truth in (past.SPIKE, past.DEAD, past.RETIRED, past.NEVER, *past.RELATED, past.VARIED, past.FELL, past.SILENT):
        assert truth in done.stdout
    database = tmp_path / "usage-demo.db"
    assert rows(database, "SELECT count(*) FROM feature_usage") == [(3000,)]
    assert rows(database, "PRAGMA foreign_key_check") == []
    assert rows(database, f"SELECT count(*) FROM feature_usage WHERE feature_name = '{past.NEVER}'") == [(0,)]
    last = f"SELECT max(last_used) < datetime('now', '-89 days') FROM feature_usage WHERE feature_name = '{past.DEAD}'"
    assert rows(database, last) == [(1,)]


@pytest.mark.parametrize("ago", range(7))
def test_its_trail_stands_out_only_where_it_says_whatever_the_weekday(sqlite: Database, ago: int) -> None:
    engine = sqlite.engine()
    tables, today = made(engine), dt.date(2026, 3, 8) - dt.timedelta(days=ago)
    with engine.begin() as connection:
        people = [uuid.uuid4() for _ in range(trail.STAFF)]
        known = trail.fill(connection, tables, people, today, random.Random(7))
        month = Search(today - dt.timedelta(days=27), today + dt.timedelta(days=1))
        assert [each[:4] for each in anomalies(connection, tables, month)] == [*known]
        assert verify(connection, tables, None).findings == ()
