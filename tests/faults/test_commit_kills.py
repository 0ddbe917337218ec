"""kill -9 around COMMIT: by the outbox, a use counts exactly if its row is committed. By a hook, one whose transaction
was rolled back never counts, and one whose transaction was committed is lost at most in the moment before the hook.
Two-phase transactions take hooks: what a killed process had prepared, anybody may commit, and its use is lost.

$USAGE_TEST_COMMIT_KILLS is the number of processes that are killed on each database.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

import buyer
from conftest import Database
from pipeline.recovering import recover
from reading import all_of, counts, made
from usage_instrument import Settings, Tracker
from victims import left, wait_until_dead

KILLS = int(os.environ.get("USAGE_TEST_COMMIT_KILLS", "3"))
AT_ONCE = 3


def move(url: str) -> None:
    """What any process does that writes: look into the outbox."""
    tracker = Tracker(url, Settings(user_id_type="integer"))
    tracker._outbox_grew()
    assert tracker.shutdown(60)


def wait_for_purchase(engine: sa.Engine, pid: int) -> None:
    ids = buyer.PURCHASES.c.id
    first = sa.select(ids).where(ids >= pid * buyer.MOST, ids < (pid + 1) * buyer.MOST).limit(1)
    deadline = time.monotonic() + 60
    while True:
        with engine.connect() as connection:
            if connection.scalar(first) is not None:
                return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def elsewhere(url: str, place: Path) -> str:
    """Another database, or another name of the same one: a session of it takes the hook."""
    return f"sqlite:///{place / 'shop.db'}" if url.startswith("sqlite") else url.replace("127.0.0.1", "localhost")


def end_prepared(engine: sa.Engine, dice: random.Random) -> None:
    """Commit or roll back what the dead have prepared, as an administrator does."""
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")  # MariaDB ends no other transaction within one
        for transaction in connection.recover_twophase():
            end = dice.choice((connection.commit_prepared, connection.rollback_prepared))
            end(transaction, recover=True)


KINDS = ("sqlite", "postgresql", "mariadb")


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *((kind, way) for kind in KINDS for way in ("outbox", "hook")),
        ("postgresql", "django"),
        ("postgresql", "two phases"),
        ("mariadb", "two phases"),
    ],
)
def test_what_is_committed_counts(kind: str, way: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    database: Database = request.getfixturevalue(kind)
    tables = made(database.engine(), user_id_type="integer")
    shop = elsewhere(database.url, tmp_path) if way == "hook" else database.url
    engine = sa.create_engine(shop)
    buyer.PURCHASES.create(engine)
    journal = tmp_path / "journal"
    nursery = subprocess.Popen(
        [sys.executable, buyer.__file__, way, shop, database.url, str(journal)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    dice = random.Random()
    for _ in range(0, KILLS, AT_ONCE):
        pids = []
        for _ in range(AT_ONCE):
            nursery.stdin.write("\n")
            nursery.stdin.flush()
            pids.append(int(nursery.stdout.readline()))
            wait_for_purchase(engine, pids[-1])
        for pid in pids:
            time.sleep(0.3 * dice.random())
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            wait_until_dead(pid)
        if way == "two phases":
            end_prepared(engine, dice)
    nursery.communicate()
    if journal.exists():  # by the outbox, a process may have written nothing itself
        recover(database.url, journal, user_id_type="integer")
        assert left(journal) == []
    move(database.url)
    assert all_of(database.engine(), tables.outbox) == []
    found = counts(database.engine(), tables)
    with engine.connect() as connection:
        bought = set(connection.scalars(sa.select(buyer.PURCHASES.c.id)))
    engine.dispose()
    counted = {user for _, user in found}
    assert set(found.values()) == {1}
    assert counted <= bought
    if way not in ("hook", "two phases"):
        assert counted == bought
    missing = [number // buyer.MOST for number in bought - counted]
    assert len(missing) == len(set(missing)), "a process lost more than the use of its last COMMIT"
