"""Several processes write the same keys: every count exact, no batch lost, nothing surfaced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import all_of, made

PROCESSES, KEYS = 3, 200
FLUSHES = int(os.environ.get("USAGE_TEST_FLUSHES", "20"))


@pytest.mark.parametrize("name", ["postgresql", "mariadb", "sqlite"])
def test_racing_writers_are_exact(name: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(name)
    flushes = FLUSHES if name != "sqlite" else min(FLUSHES, 10)
    engine = database.engine()
    tables = made(engine, users=None, user_id_type="integer")
    script = Path(__file__).with_name("racing.py")
    racers = [
        subprocess.Popen(
            [sys.executable, script, database.url, str(seed), str(flushes), str(KEYS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed in range(PROCESSES)
    ]
    said = [racer.communicate(timeout=300)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * PROCESSES, said
    assert said == [""] * PROCESSES
    rows = all_of(engine, tables.usage)
    assert len(rows) == KEYS
    assert {row.usage_count for row in rows} == {PROCESSES * flushes}
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.sum(tables.history.c.usage_count))) == PROCESSES * flushes * KEYS
    assert all_of(engine, tables.writers) == []
