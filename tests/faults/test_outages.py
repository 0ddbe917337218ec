"""The database is away: at the start, midway, at the end, at full rate. What is kept is exact, and the rest is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import flooder
import leaver
from captures import INTERVAL, Captures, assert_exact, assert_left_nothing
from conftest import Database, wide
from pipeline.recovering import recover
from proxy import Proxy, through, url_through
from reading import all_of, balanced, made, total
from usage_instrument import Settings, Tracker

OUTAGE = float(os.environ.get("USAGE_TEST_OUTAGE", "1"))
"""Seconds of full rate."""
NOISE = 16 * 2**20
"""Bytes by which a process's memory may differ from one second to the next."""
JOURNALS = pytest.mark.parametrize("journal", [False, True], ids=["memory", "journal"])


def place_of(journal: bool, directory: Path) -> str | None:
    return str(directory / "journal") if journal else None


@JOURNALS
def test_the_database_is_away_at_the_start_and_midway(journal: bool, server: Database, tmp_path: Path) -> None:
    engine = server.engine()
    tables = made(engine)
    place = place_of(journal, tmp_path)
    with through(server) as proxy:
        tracker = Tracker(url_through(proxy, server.url), Settings(flush_interval=INTERVAL, journal=place))
        with Captures(tracker) as captures:
            for _ in range(2):
                proxy.refuse()
                failures, written = tracker.stats().retries + 3, tracker.stats().written
                while tracker.stats().retries < failures:
                    tracker.flush(INTERVAL)
                assert balanced(tracker.stats())
                proxy.mend()
                while tracker.stats().written == written:
                    tracker.flush(INTERVAL)
        assert_exact(engine, tables, tracker, captures.uses)
        assert_left_nothing(engine, tables, tracker)
    assert place is None or list(Path(place).iterdir()) == []


# ---- at the end


@pytest.mark.parametrize(
    ("driver", "journal"),
    [("psycopg", False), wide("psycopg", True), ("asyncpg", True), wide("pymysql", True)],
)
def test_an_exit_does_not_wait_for_an_answer(
    driver: str, journal: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    backend = "mariadb" if driver == "pymysql" else "postgresql"
    database: Database = request.getfixturevalue(backend)
    engine = database.engine()
    tables = made(engine)
    with through(database) as proxy:
        url = sa.make_url(url_through(proxy, database.url)).set(drivername=f"{backend}+{driver}")
        text, place = url.render_as_string(hide_password=False), place_of(journal, tmp_path)
        with Child(leaver.__file__, text, place or "") as child:
            assert child.heard() == "True"
            proxy.blackhole()
            said = child.last_words()
        assert proxy.swallowed > 0
        assert "5 uses left in the journal" in said if journal else "5 uses unwritten" in said
        proxy.mend()
        assert total(engine, tables) == 1
        if place is not None:
            recover(text, Path(place))
            assert total(engine, tables) == 6
            assert list(Path(place).iterdir()) == []


class Child:
    """A process to talk to, line by line."""

    def __init__(self, *command: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, *command], stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def heard(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def last_words(self) -> str:
        """What it writes to stderr, told to go on, before it ends well; that it has to do soon."""
        errors = self._process.communicate("\n", timeout=30)[1]
        assert self._process.returncode == 0, errors
        return errors


# ---- at full rate


class Flooded:
    """What a flood left behind."""

    def __init__(self, child: Child, proxy: Proxy) -> None:
        assert child.heard() == "true"
        proxy.refuse()
        child.go()
        self.memory: list[int] = json.loads(child.heard())
        proxy.mend()
        child.go()
        self.stats: dict[str, Any] = json.loads(child.heard())
        assert self.stats["flushed"]
        assert self.stats["shut_down"]

    @property
    def growth(self) -> int:
        """Bytes of memory that the last two thirds of the outage took on top of the first."""
        third = len(self.memory) // 3
        return max(self.memory[third:]) - max(self.memory[:third])


def flooded(database: Database, journal: str) -> Flooded:
    with through(database) as proxy:
        command = flooder.__file__, url_through(proxy, database.url), journal, str(OUTAGE)
        with Child(*command) as child:
            return Flooded(child, proxy)


def test_an_outage_at_full_rate_is_exact_with_a_journal(postgresql: Database, tmp_path: Path) -> None:
    engine = postgresql.engine()
    tables = made(engine, user_id_type="integer")
    found = flooded(postgresql, str(tmp_path))
    stats = found.stats
    assert stats["written"] == stats["captured"] > flooder.MAX_PENDING, stats
    assert stats["pending"] == stats["dropped"] == stats["rejected"] == 0
    assert total(engine, tables) == stats["captured"]
    assert len(all_of(engine, tables.usage)) > flooder.MAX_PENDING
    assert all_of(engine, tables.losses) == []
    assert all_of(engine, tables.writers) == []
    assert list(tmp_path.iterdir()) == []
    assert found.growth < NOISE


def test_an_outage_at_full_rate_without_a_journal_loses_what_it_says(mariadb: Database) -> None:
    engine = mariadb.engine()
    tables = made(engine, user_id_type="integer")
    found = flooded(mariadb, "")
    stats = found.stats
    assert stats["captured"] == stats["written"] + stats["dropped"]
    assert stats["pending"] == stats["rejected"] == 0
    assert stats["dropped"] > 0
    assert total(engine, tables) == stats["written"]
    assert len(all_of(engine, tables.usage)) <= flooder.MAX_PENDING + 1
    losses = all_of(engine, tables.losses)
    assert {row.reason for row in losses} == {"memory full"}
    assert sum(row.uses for row in losses) == stats["dropped"]
    assert all_of(engine, tables.writers) == []
    assert found.growth < NOISE
