"""The examples under real servers and real traffic: the table's total equals the answers that were a success."""

from __future__ import annotations

import concurrent.futures
import http.client
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import all_of
from servers import free_port
from usage_instrument.schema import define_tables

EXAMPLES = Path(__file__).parents[2] / "examples"


def _gunicorn(app: str, port: int) -> list[str]:
    return [
        sys.executable, "-m", "gunicorn", "--preload", "-w", "4", "--chdir", str(EXAMPLES),
        "-b", f"127.0.0.1:{port}", "--log-level", "warning", app,
    ]  # fmt: skip


def _uvicorn(app: str, port: int) -> list[str]:
    return [
        sys.executable, "-m", "uvicorn", "--workers", "2", "--app-dir", str(EXAMPLES),
        "--port", str(port), "--log-level", "warning", app,
    ]  # fmt: skip


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("HEAD", "/")  # never a use
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def _visit(port: int, visitor: int) -> Counter[tuple[str, str | None]]:
    """Forty requests of one visitor; what succeeded."""
    succeeded: Counter[tuple[str, str | None]] = Counter()
    user = f"user-{visitor}" if visitor % 4 else None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in range(40):
        method, path, feature = (
            ("GET", "/events", "list_events"),
            ("POST", "/events/7/follow", "calendar_follow_event"),
            ("POST", "/events/999/follow", "never"),
            ("GET", "/nowhere", "never"),
        )[number % 4]
        connection.request(method, path, headers={"X-User": user} if user else {})
        response = connection.getresponse()
        response.read()
        if response.status < 300:
            succeeded[feature, user] += 1
        else:
            assert feature == "never", response.status
    connection.close()
    return succeeded


@pytest.mark.parametrize("name", ["postgresql", "mariadb", "sqlite"])
@pytest.mark.parametrize(
    ("command", "app"),
    [(_gunicorn, "flask_app:app"), (_uvicorn, "starlette_app:app"), (_uvicorn, "fastapi_app:app")],
    ids=["gunicorn-flask", "uvicorn-starlette", "uvicorn-fastapi"],
)
def test_every_successful_answer_is_a_use(name: str, command: object, app: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(name)
    assert callable(command)
    port = free_port()
    environ = {**os.environ, "USAGE_INSTRUMENT_DATABASE_URL": database.url, "USAGE_INSTRUMENT_FLUSH_INTERVAL": "0.5"}
    server = subprocess.Popen(
        command(app, port), env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            assert server.poll() is None, server.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with concurrent.futures.ThreadPoolExecutor(8) as visitors:
            expected = sum(visitors.map(_visit, [port] * 24, range(24)), Counter[tuple[str, str | None]]())
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=60)[0]
    finally:
        if server.poll() is None:
            server.kill()
            server.communicate()
    tables = define_tables(sa.MetaData(), users=None, user_id_type="string")
    engine = database.engine()
    found = {(row.feature_name, row.user_id): row.usage_count for row in all_of(engine, tables.usage)}
    assert found == expected, said
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.writers)) == 0, "an unclean exit"
