"""kill -9 and cut connections around audited calls: none without its attempted row, no row twice, every chain holds."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import accessing
from conftest import Database
from proxy import Proxy, anywhere, through, url_through
from reading import made
from usage_instrument import AuditUnavailable, Settings, Tracker
from usage_instrument.audit.verify import verify
from usage_instrument.schema import Tables
from victims import left, recover, wait_until_dead

KILLS = min(int(os.environ.get("USAGE_TEST_KILLS", "8")), 200)
CUTS = min(int(os.environ.get("USAGE_TEST_CUTS", "16")), 200)
AT_ONCE = 4


class Trail:
    """What is in the audit trail, by token."""

    def __init__(self, engine: sa.Engine, tables: Tables) -> None:
        access = tables.access
        with engine.connect() as connection:
            self.holds = verify(connection, tables).findings == ()
            rows = connection.execute(sa.select(access.c.access_id, access.c.outcome, access.c.metadata)).all()
        self.rows = Counter((row.access_id, row.outcome) for row in rows)
        self.attempted = {_token(row.metadata) for row in rows if row.outcome == "attempted"}
        self.noticed = Counter(_token(row.metadata) for row in rows if row.outcome == "success")

    def twice(self) -> list[tuple[uuid.UUID, str]]:
        return [row for row, number in self.rows.items() if number > 1]


def _token(metadata: str | None) -> str:
    return str(json.loads(metadata or "{}").get("token"))


@pytest.fixture
def accessed(postgresql: Database, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "calls").mkdir()
    places = [str(tmp_path / "journal"), str(tmp_path / "calls")]
    process = subprocess.Popen(
        [sys.executable, accessing.__file__, postgresql.url, *places],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.communicate()


def _born(nursery: subprocess.Popen[str]) -> int:
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write("\n")
    nursery.stdin.flush()
    return int(nursery.stdout.readline())


def _wait_for_calls(file: Path) -> None:
    """Until a required call has happened, and one that is only noticed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        text = file.read_text() if file.exists() else ""
        if "noticed" in text and ("required" in text or "awaited" in text):
            return
        time.sleep(0.005)
    raise AssertionError(f"no call in a minute: {file.name}")


def test_a_kill_leaves_no_call_without_its_row(
    accessed: subprocess.Popen[str], postgresql: Database, tmp_path: Path
) -> None:
    engine = postgresql.engine()
    tables = made(engine)
    dice = random.Random()
    for _ in range(0, KILLS, AT_ONCE):
        pids = [_born(accessed) for _ in range(AT_ONCE)]
        for pid in pids:
            if dice.random() < 0.7:  # the others die at their first connection, or before
                _wait_for_calls(tmp_path / "calls" / f"{pid}.calls")
            time.sleep(dice.choice((0.05, 0.2, 0.5)) * dice.random())
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            wait_until_dead(pid)
    recovering = recover(postgresql.url, tmp_path / "journal")
    output, errors = recovering.communicate()
    assert recovering.returncode == 0, output + errors
    assert left(tmp_path / "journal") == []
    calls = [line for path in (tmp_path / "calls").iterdir() for line in path.read_text().splitlines()]
    trail = Trail(engine, tables)
    assert trail.holds
    assert trail.twice() == []
    happened = {token for token in calls if not token.startswith("noticed")}
    assert len(happened) > KILLS // 2
    assert happened <= trail.attempted
    returned = {token for token in calls if token.startswith("noticed")}
    assert len(returned) > KILLS // 2
    assert all(trail.noticed[token] == 1 for token in returned)


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_a_cut_connection_leaves_no_call_without_its_row(driver: str, server: Database) -> None:
    cuts = CUTS if driver == "sync" else CUTS // 4
    engine = server.engine()
    tables = made(engine)
    happened: list[str] = []
    refused = 0
    with through(server) as proxy:
        url = url_through(proxy, server.url if driver == "sync" else server.async_url)
        tracker = Tracker(url, Settings(flush_interval=0.05, audit_timeout=5))

        @tracker.tracks("required", audit="required", metadata=["token"])
        def required(token: str) -> None:
            happened.append(token)

        proxy.cut(anywhere(random.Random()))
        cutting = threading.Thread(target=_cut, args=(proxy, cuts))
        cutting.start()
        number = 0
        while cutting.is_alive():
            number += 1
            try:
                required(f"call-{number}")
            except AuditUnavailable:
                refused += 1
        proxy.mend()
        required("last")
        assert tracker.shutdown(60), tracker.stats()
    trail = Trail(engine, tables)
    assert trail.holds
    assert trail.twice() == []
    assert set(happened) <= trail.attempted
    assert Counter(happened) == trail.noticed  # each outcome once, by the writer
    assert len(happened) > refused


def _cut(proxy: Proxy, cuts: int) -> None:
    """Cut so often, each at a random instant."""
    dice = random.Random()
    for _ in range(cuts):
        time.sleep(dice.random() * 0.1)
        proxy.cut_now()


def test_an_outage_refuses_the_call_and_then_lets_it_through(server: Database) -> None:
    engine = server.engine()
    tables = made(engine)
    calls: list[int] = []
    with through(server) as proxy:
        tracker = Tracker(url_through(proxy, server.url), Settings(flush_interval=0.05, audit_timeout=0.5))

        @tracker.tracks("required", audit="required")
        def required(number: int) -> None:
            calls.append(number)

        while not calls:  # on a busy machine, the first connection may take longer than that
            with contextlib.suppress(AuditUnavailable):
                required(1)
        proxy.refuse()
        with pytest.raises(AuditUnavailable, match="'required' was not called, as the access could not be recorded"):
            required(2)
        proxy.mend()
        while len(calls) < 2:  # the first attempt may still meet the end of the outage
            try:
                required(3)
            except AuditUnavailable:
                continue
        assert tracker.shutdown(60), tracker.stats()
    assert calls == [1, 3]
    trail = Trail(engine, tables)
    assert trail.holds
    assert trail.twice() == []
