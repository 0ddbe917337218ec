"""A user is forgotten while processes are at work: no byte of them is left, and nobody else loses a count."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import forgotten
from conftest import Database
from forgotten import ADA
from reading import all_of, made
from usage_instrument.audit.verify import verify
from usage_instrument.schema import Tables
from victims import wait_until_dead

KEY = "a secret of thirty-two characters, or more"
FORMS = [str(ADA).encode(), ADA.hex.encode(), ADA.bytes]
PROCESSES = int(os.environ.get("USAGE_TEST_PROCESSES", "2"))


class Nursery:
    """Where the processes come from."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.places = folder / "calls", folder / "journal"
        self.places[0].mkdir()
        self.environment = {
            **os.environ,
            "USAGE_INSTRUMENT_DATABASE_URL": database.url,
            "USAGE_INSTRUMENT_JOURNAL": str(self.places[1]),
            "USAGE_INSTRUMENT_PRIVACY_KEY": KEY,
            "USAGE_INSTRUMENT_FLUSH_INTERVAL": "0.2",
            "USAGE_INSTRUMENT_AUDIT_TIMEOUT": "1",
            "USAGE_INSTRUMENT_LOCK_TIMEOUT": "5",
            "USAGE_INSTRUMENT_USERS": "none",
        }
        self._process = subprocess.Popen(
            [sys.executable, forgotten.__file__, str(self.places[0])],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.living: list[int] = []

    def born(self, line: str = "") -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        self.living.append(int(self._process.stdout.readline()))
        return self.living[-1]

    def close(self) -> None:
        for pid in self.living:
            os.kill(pid, signal.SIGKILL)
        self._process.communicate()

    def telling(self) -> list[str]:
        """The files that tell of her, among the logs of the processes and all that is in the journal."""
        found = []
        for path in (path for place in self.places for path in place.rglob("*")):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                found += [path.name] if tells(path.read_bytes()) else []
        return found


@pytest.fixture
def nursery(database: Database, tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(database, tmp_path)
    yield nursery
    nursery.close()


def tells(data: bytes) -> bool:
    return any(form in data for form in FORMS)


def telling(engine: sa.Engine, tables: Tables) -> list[str]:
    found = []
    for table in tables:
        text = "\n".join(str(value) for row in all_of(engine, table) for value in row)
        if tells(text.encode()):
            found.append(table.name)
    return found


def forget(nursery: Nursery) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from usage_instrument.cli import main; main()",
        "forget",
        str(ADA),
        "--format",
        "json",
    ]
    return subprocess.run(command, env=nursery.environment, capture_output=True, text=True, check=False, timeout=300)


def _await(what: str, deadline: float, is_so: Callable[[], bool]) -> None:
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_no_byte_is_left_and_no_other_count_is_lost(nursery: Nursery, database: Database) -> None:
    engine = database.engine()
    tables = made(engine)
    pids = [nursery.born() for _ in range(PROCESSES)]
    deadline = time.monotonic() + 120
    # One more, in which nobody else does anything, dies with what it has not written.
    dead = nursery.born("nobody else")
    access = tables.access

    def is_everywhere() -> bool:
        with engine.connect() as connection:
            asked = sa.select(sa.func.count(sa.distinct(access.c.chain_id))).where(access.c.user_id == ADA)
            return (connection.scalar(asked) or 0) > PROCESSES

    _await("they are at work", deadline, is_everywhere)
    os.kill(dead, signal.SIGKILL)
    wait_until_dead(dead)
    nursery.living.remove(dead)
    done = forget(nursery)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not tells((done.stdout + done.stderr).encode())
    receipt = {row["what"]: row["rows"] for row in json.loads(done.stdout)}
    assert receipt["feature_usage"] >= 3
    assert receipt["audit trail"] > 0
    # She goes on using the app, and the processes go on naming her to each other, in memory.
    written = telling(engine, tables), nursery.telling()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    for pid in pids:
        wait_until_dead(pid)
        nursery.living.remove(pid)
    assert written == ([], [])
    assert telling(engine, tables) == []
    assert nursery.telling() == []
    if database.name == "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        name = sa.make_url(database.url).database or ""
        assert not tells(Path(name).read_bytes())
    used: Counter[str] = Counter()
    for pid in pids:
        used += Counter(json.loads((nursery.places[0] / f"{pid}.uses").read_text()))
    counted = Counter({f"{row.feature_name} {row.user_id}": row.usage_count for row in all_of(engine, tables.usage)})
    assert counted == used
    with engine.connect() as connection:
        assert verify(connection, tables).findings == ()
