"""Under eventlet's monkey_patch(), in both orders of import: counts are written, greenlets run, SIGTERM ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import made, total
from usage_instrument.schema import Tables

PROGRAM = """
import sys

if sys.argv[1] == "eventlet first":
    import eventlet

    eventlet.monkey_patch()
    import usage_instrument as usage
else:
    import usage_instrument as usage
    import usage_instrument.tracker
    import eventlet

    eventlet.monkey_patch()

import json, signal

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
usage.configure(flush_interval=0.2)
ticks = 0


def tick():
    global ticks
    while True:
        eventlet.sleep(0.005)
        ticks += 1


def visit(user):
    for _ in range(10):
        usage.track("export")
        eventlet.sleep(0)


eventlet.spawn(tick)
for greenlet in [eventlet.spawn(visit, user) for user in range(5)]:
    greenlet.wait()
usage.flush(0)
before = ticks
flushed = usage.flush(60)
usage.track("export", audit=True)
flushed = flushed and usage.flush(60)
answer = {"flushed": flushed, "ticked": ticks > before, "written": usage.stats().written}
usage.track("export")
print(json.dumps(answer), flush=True)
while True:
    eventlet.sleep(60)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def eventlets_database(request: pytest.FixtureRequest) -> Database:
    found: Database = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("order", ["eventlet first", "usage-instrument first"])
def test_counts_are_written_and_sigterm_ends_it(order: str, eventlets_database: Database) -> None:
    tables: Tables = made(eventlets_database.engine())
    environ = {
        **os.environ, "USAGE_INSTRUMENT_DATABASE_URL": eventlets_database.url,
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, order]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    assert json.loads(line) == {"flushed": True, "ticked": True, "written": 51}
    assert total(eventlets_database.engine(), tables) == 52
    with eventlets_database.engine().connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.access)) == 1
