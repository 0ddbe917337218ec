"""The handler of the guide to AWS Lambda, in a process that is frozen after each answer, continued, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from conftest import Database
from reading import all_of, counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.database.ledger import is_process

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "serverless.md"
RUNTIME = """
import json, sys

for snippet in sys.argv[1:]:
    exec(snippet)
while True:  # a line, an answer: as Lambda's runtime does
    event = json.loads(sys.stdin.readline())
    try:
        answer = (handler if event.get("flushes", True) else handler.__wrapped__)(event, None)
    except Exception as error:
        answer = repr(error)
    print(json.dumps(answer), flush=True)
"""
FEATURE = "report_exported"


class Function:
    """A process of the function, as the platform treats it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def send(self, **event: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(event) + "\n")
        self.process.stdin.flush()

    def call(self, **event: Any) -> Any:
        self.send(**event)
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(self.process.pid, os.WUNTRACED)[1])

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def function(database: Database, *snippets: str) -> Iterator[Function]:
    """The function of the guide, before its first call."""
    (handler,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    process = subprocess.Popen(
        [sys.executable, "-c", RUNTIME, *snippets, handler],
        env={
            **os.environ,
            "USAGE_INSTRUMENT_DATABASE_URL": database.url,
            "USAGE_INSTRUMENT_USER_ID_TYPE": "integer",
            "USAGE_INSTRUMENT_ENABLED": "1",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Function(process)
    finally:
        process.kill()
        process.communicate()


def test_a_process_is_frozen_after_each_call_and_ends_so(database: Database) -> None:
    """Each call is written and holds no lock, whatever happens to its connection and its row meanwhile."""
    engine = database.engine()
    tables = made(engine, user_id_type="integer")
    other = Tracker(database.url, Settings(flush_interval=3600, user_id_type="integer"))
    with function(database) as lambda_:
        for number in range(1, 4):
            assert lambda_.call(user_id=7) == {"statusCode": 200}
            lambda_.freeze()
            assert counts(engine, tables) == {(FEATURE, 7): 2 * number - 1}
            other.track(FEATURE, user=7)
            assert other.flush(30), other.stats()
            lambda_.thaw()
        assert "KeyError" in lambda_.call()  # without a user
        assert counts(engine, tables) == {(FEATURE, 7): 6}
        assert other.shutdown(30)
        lambda_.freeze()
        with engine.begin() as connection:
            # As `prune` does.
            assert connection.execute(sa.delete(tables.writers).where(is_process(tables.writers))).rowcount == 1
        lambda_.thaw()
        assert lambda_.call(user_id=7) == {"statusCode": 200}
        assert counts(engine, tables) == {(FEATURE, 7): 7}
        if database.name != "sqlite":
            lambda_.freeze()
            close_connections(engine)
            lambda_.thaw()
        assert lambda_.call(user_id=7) == {"statusCode": 200}
        lambda_.freeze()
        lambda_.process.kill()
        lambda_.process.wait(60)
    assert counts(engine, tables) == {(FEATURE, 7): 8}


def test_without_flush_after_a_process_that_ends_frozen_loses_its_call(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine, user_id_type="integer")
    with function(sqlite) as lambda_:
        assert lambda_.call(user_id=7, flushes=False) == {"statusCode": 200}
        lambda_.freeze()
        lambda_.process.kill()
        lambda_.process.wait(60)
    assert counts(engine, tables) == {}


def close_connections(engine: sa.Engine) -> None:
    """End all connections to the database but our own."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND "
            ended = connection.exec_driver_sql(f"{query} pid <> pg_backend_pid()").all()
        else:
            query = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            ended = connection.exec_driver_sql(query).all()
            for row in ended:
                connection.exec_driver_sql(f"KILL {row.id}")
    assert ended, "the function held none"


def test_a_signal_before_the_end_deletes_its_row_in_the_ledger(postgresql: Database) -> None:
    engine = postgresql.engine()
    tables = made(engine, user_id_type="integer")
    signals = re.findall(r"```py\n(import signal.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    with function(postgresql, *signals) as lambda_:
        assert lambda_.call(user_id=7) == {"statusCode": 200}
        lambda_.freeze()
        assert len(all_of(engine, tables.writers)) == 1
        lambda_.thaw()
        assert lambda_.call(user_id=7, flushes=False) == {"statusCode": 200}  # something is left to write
        lambda_.process.terminate()
        # A signal just before the wait for an event, or on another thread, interrupts nothing: the next event does.
        with contextlib.suppress(BrokenPipeError):
            lambda_.send()
        assert lambda_.process.wait(60) == 0
    assert counts(engine, tables) == {(FEATURE, 7): 2}
    assert all_of(engine, tables.writers) == []
