"""kill -9 at any instant: the table ends with every acknowledged use, exactly once.

$USAGE_TEST_KILLS is the number of processes that are killed: few by default, many in `scripts/faults`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import all_of, made, total
from victims import IN_FLIGHT, Victims, exposed, left, recover, wait_until_dead

KILLS = int(os.environ.get("USAGE_TEST_KILLS", "12"))
AT_ONCE = 4


@pytest.fixture
def victims(postgresql: Database, tmp_path: Path) -> Iterator[Victims]:
    made(postgresql.engine())
    victims = Victims(postgresql.url, tmp_path)
    yield victims
    victims.close()


def test_nothing_is_lost_and_nothing_doubled(victims: Victims, postgresql: Database) -> None:
    engine = postgresql.engine()
    tables = made(engine)
    dice = random.Random()
    before = 0
    for killed in range(AT_ONCE, KILLS + 1, AT_ONCE):
        pids = [victims.start() for _ in range(AT_ONCE)]
        for pid in pids:
            # The first instants as often as the rest: there, a process makes its files.
            time.sleep(dice.choice((0.02, 0.1, 0.4, 1.6)) * dice.random())
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            wait_until_dead(pid)
        if killed % (5 * AT_ONCE) == 0:
            killer = recover(postgresql.url, victims.journal)
            time.sleep(2.0 * dice.random())
            killer.kill()
            killer.communicate()
        if killed % (5 * AT_ONCE) == 0 or killed > KILLS - AT_ONCE:
            recovering = recover(postgresql.url, victims.journal)
            output, errors = recovering.communicate()
            assert recovering.returncode == 0, output + errors
            unacknowledged = total(engine, tables) + exposed(engine, tables) - victims.acknowledged
            assert 0 <= unacknowledged - before <= IN_FLIGHT * 5 * AT_ONCE, f"after {killed} kills"
            before = unacknowledged
    assert left(victims.journal) == []
    # A recovery that was killed between the last file and the row leaves the row, which is pruned in time.
    assert len(all_of(engine, tables.writers)) <= KILLS // (5 * AT_ONCE)
    assert all_of(engine, tables.losses) == []
    history = sa.select(sa.func.sum(tables.history.c.usage_count))
    with engine.connect() as connection:
        assert connection.scalar(history) == total(engine, tables)
    assert victims.acknowledged > KILLS


def test_kills_of_processes_and_of_their_collector(postgresql: Database, tmp_path: Path) -> None:
    """In any order; for a while none or two collectors live."""
    engine = postgresql.engine()
    tables = made(engine)
    kills = KILLS if "USAGE_TEST_KILLS" in os.environ else 6
    victims = Victims(postgresql.url, tmp_path, "collector")
    dice = random.Random()
    apps, collectors, killed = [victims.start() for _ in range(2)], [victims.start("collector")], 0
    while killed < kills:
        time.sleep(dice.choice((0.02, 0.1, 0.4)) * dice.random())
        living, kind = (apps, "") if dice.random() < 0.5 else (collectors, "collector")
        if len(living) < 2 and dice.random() < 0.5:
            living.append(victims.start(kind))
        elif living:
            pid = living.pop(dice.randrange(len(living)))
            os.kill(pid, signal.SIGKILL)
            wait_until_dead(pid)
            killed += 1
    for pid in (*apps, *collectors):
        os.kill(pid, signal.SIGKILL)
        wait_until_dead(pid)
    victims.close()
    command = [str(Path(sys.executable).with_name("usage-instrument")), "collect", "--once"]
    done = subprocess.run(
        [*command, "--journal", str(victims.journal), "--url", postgresql.url], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    acknowledged = victims.acknowledged
    assert 0 <= total(engine, tables) + exposed(engine, tables) - acknowledged <= IN_FLIGHT * (kills + 2)
    assert acknowledged > kills
    history = sa.select(sa.func.sum(tables.history.c.usage_count))
    with engine.connect() as connection:
        assert connection.scalar(history) == total(engine, tables)
    assert all_of(engine, tables.losses) == []
    assert [path.name for path in left(victims.journal)] == ["collector"]


def test_racing_recoverers_share_the_work(victims: Victims, postgresql: Database) -> None:
    engine = postgresql.engine()
    tables = made(engine)
    pids = [victims.start() for _ in range(8)]
    deadline = time.monotonic() + 60
    while victims.acknowledged < 4_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        wait_until_dead(pid)
    racing = [recover(postgresql.url, victims.journal) for _ in range(3)]
    answers: list[Any] = [process.communicate() for process in racing]
    assert [process.returncode for process in racing] == [0, 0, 0], answers
    unacknowledged = total(engine, tables) + exposed(engine, tables) - victims.acknowledged
    assert 0 <= unacknowledged <= IN_FLIGHT * len(pids)
    assert left(victims.journal) == []
