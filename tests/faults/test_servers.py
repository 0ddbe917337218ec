"""Every kind of server, worker and end: the table equals the successful answers, also after kill -9 of all at once."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from conftest import Database, wide
from reading import all_of, counts
from traffic import EXAMPLES, FASTAPI, FLASK, PORT, STARLETTE, Uses, gunicorn, python_module, serving, uvicorn
from usage_instrument.cli.app import app
from usage_instrument.schema import define_tables

EVENTLET = str(Path(__file__).with_name("eventlet_server.py"))
UWSGI = Path(sys.executable).with_name("uwsgi")


def uwsgi(*options: str) -> list[str]:
    return [
        *(str(UWSGI), "--http", f"127.0.0.1:{PORT}", "--chdir", str(EXAMPLES), "--module", FLASK, "--home", sys.prefix),
        *("--processes", "2", "--master", "--die-on-term", "--disable-logging", *options),
    ]


COMMANDS = {
    "gunicorn-sync": gunicorn(FLASK, "-w", "3"),
    "gunicorn-gthread": gunicorn(FLASK, "--preload", "-w", "2", "-k", "gthread", "--threads", "4"),
    "gunicorn-gevent": gunicorn(FLASK, "--preload", "-w", "2", "-k", "gevent"),
    "eventlet": [sys.executable, EVENTLET, str(EXAMPLES), PORT],
    "gunicorn-max-requests": gunicorn(FLASK, "--preload", "-w", "2", "--max-requests", "20"),
    "gunicorn-uvicorn": gunicorn(STARLETTE, "--preload", "-w", "2", "-k", "uvicorn_worker.UvicornWorker"),
    "uvicorn-workers": uvicorn(FASTAPI, "--workers", "2"),
    "uvicorn": uvicorn(STARLETTE),
    "waitress": python_module("waitress", "--listen", f"127.0.0.1:{PORT}", "waitress_app:app"),
    "hypercorn": python_module("hypercorn", "-w", "2", "-b", f"127.0.0.1:{PORT}", f"{EXAMPLES}/{STARLETTE}"),
    # It waits for ever for a worker that is asked to end before it listens to signals; such a one has served nobody.
    "granian-wsgi": python_module(
        *("granian", "--interface", "wsgi", "--workers", "2", "--workers-kill-timeout", "5"),
        *("--port", PORT, "--working-dir", str(EXAMPLES), FLASK),
    ),
    "uwsgi": uwsgi("--enable-threads"),
    "uwsgi-without-threads": uwsgi(),
}

DISTINCT = {"gunicorn-max-requests", "gunicorn-gevent", "uvicorn-workers", "waitress", "uwsgi-without-threads"}
"""Forked and replaced workers, greenlets, spawned workers, threads without an exit, and no threads at all."""


def kinds(of: Iterable[str]) -> list[Any]:
    return [kind if kind in DISTINCT else wide(kind) for kind in of]


KILLED = [kind for kind in COMMANDS if kind not in {"uvicorn", "waitress"}]  # one process, as Python's own
if "USAGE_TEST_KILLS" not in os.environ:  # scripts/faults; their workers are born and served as those of the others
    KILLED = [
        kind
        for kind in KILLED
        if kind not in {"eventlet", "gunicorn-sync", "gunicorn-max-requests", "gunicorn-uvicorn"}
    ]
DATABASES = {"uvicorn-workers": "mariadb", "hypercorn": "sqlite"}
"""The others write to PostgreSQL."""
WITHOUT_JOURNAL = {"gunicorn-sync", "uvicorn-workers", "waitress"}


@pytest.fixture
def written(kind: str, request: pytest.FixtureRequest) -> Database:
    """The database of a kind of server."""
    database: Database = request.getfixturevalue(DATABASES.get(kind, "postgresql"))
    return database


def environ_for(database: Database, journal: Path | None) -> dict[str, str]:
    return {
        "USAGE_INSTRUMENT_DATABASE_URL": database.url,
        **({} if journal is None else {"USAGE_INSTRUMENT_JOURNAL": str(journal)}),
        "USAGE_INSTRUMENT_FLUSH_INTERVAL": "0.3",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }


def command_of(kind: str) -> list[str]:
    if kind.startswith("uwsgi") and not UWSGI.exists():
        pytest.skip("uWSGI is not installed: pip install pyuwsgi")
    return COMMANDS[kind]


def check(database: Database, expected: Uses, said: str = "") -> None:
    tables = define_tables(sa.MetaData(), users=None, user_id_type="string")
    engine = database.engine()
    assert counts(engine, tables) == expected, said


def recover(database: Database, journal: Path, command: Sequence[str] = ("journal", "recover")) -> None:
    options = ["--journal", str(journal), "--url", database.url, "--user-id-type", "string"]
    done = CliRunner().invoke(app, [*command, *options])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("kind", kinds(COMMANDS))
def test_sigterm_writes_all(kind: str, written: Database, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with serving(command_of(kind), environ_for(written, None if kind in WITHOUT_JOURNAL else journal)) as server:
        expected = server.visits()
        said = server.stop()
    if kind.startswith("uwsgi"):
        recover(written, journal)  # it skips the exit of a worker that is busy
    check(written, expected, said)
    assert kind in WITHOUT_JOURNAL or list(journal.iterdir()) == [], said
    writers = define_tables(sa.MetaData(), users=None).writers
    assert kind.startswith("uwsgi") or all_of(written.engine(), writers) == [], said


@pytest.mark.parametrize("number", [signal.SIGQUIT, wide(signal.SIGINT)])
def test_the_other_signals_of_gunicorn_write_all(number: signal.Signals, postgresql: Database, tmp_path: Path) -> None:
    with serving(COMMANDS["gunicorn-gthread"], environ_for(postgresql, tmp_path)) as server:
        expected = server.visits()
        said = server.stop(number)
    check(postgresql, expected, said)


@pytest.mark.parametrize("kind", kinds(KILLED))
def test_kill_9_of_a_whole_server_loses_nothing(kind: str, written: Database, tmp_path: Path) -> None:
    with serving(command_of(kind), environ_for(written, tmp_path)) as server:
        expected = server.visits()
        server.kill()
    recover(written, tmp_path)
    check(written, expected)


@pytest.mark.parametrize("kind", kinds(["gunicorn-gthread", "gunicorn-gevent", "uwsgi-without-threads"]))
def test_a_collector_writes_what_a_killed_server_has_captured(kind: str, postgresql: Database, tmp_path: Path) -> None:
    environ = {**environ_for(postgresql, tmp_path), "USAGE_INSTRUMENT_WRITER": "collector"}
    with serving(command_of(kind), environ) as server:
        expected = server.visits()
        check(postgresql, Counter())  # no process has written
        server.kill()
    recover(postgresql, tmp_path, ["collect", "--once"])
    check(postgresql, expected)
