"""A failover while a program writes: the former primary stays up, and only a new connection finds the new one.

Every use is counted once, whichever way the program finds the new primary: by a list of hosts, or by the same address.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner

import servers
from conftest import entered
from dashboard.visitor import asgi
from pipeline.recovering import recover
from programs import Programs, before
from proxy import Proxy
from reading import all_of, balanced, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.cli.app import app
from usage_instrument.cli.database import ask
from usage_instrument.cli.options import USER
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.pipeline import maintenance
from usage_instrument.queries.questions import QUESTIONS

FAILOVERS = int(os.environ.get("USAGE_TEST_FAILOVERS", "1"))
_REPLICATION = ("--log-bin", "--log-slave-updates")
SECRET = f"{servers.USER}:{servers.PASSWORD}"


@pytest.fixture(scope="module")
def _pair() -> Iterator[servers.PostgreSQLPair]:
    with contextlib.ExitStack() as stack:
        yield entered(servers.postgresql_pair, stack)


@pytest.fixture
def pair(_pair: servers.PostgreSQLPair) -> Iterator[servers.PostgreSQLPair]:
    """An empty primary with a standby that follows it."""
    yield _pair
    engine = sa.create_engine(f"postgresql+psycopg://{SECRET}@127.0.0.1:{_pair.primary}/postgres")
    with engine.begin() as connection:
        connection.exec_driver_sql("SET lock_timeout = '60s'")
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    _pair.replace_standby()


def test_what_reads_is_answered_by_a_standby(
    pair: servers.PostgreSQLPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All questions, the other commands that read, and all pages; they know that it is behind."""
    primary, standby = (f"postgresql+psycopg://{SECRET}@127.0.0.1:{port}/postgres" for port in pair.ports)
    engine = sa.create_engine(primary, poolclass=sa.NullPool)
    tables, features = made(engine), {word for each in QUESTIONS for word in each.example.split() if "_" in word}
    tracker = Tracker(engine, Settings(history="hour"), tables)
    tracker.tracks("calendar_export")(print)  # `unused` wants declared features
    for feature in sorted(features):
        tracker.track(feature, user=uuid.UUID(USER), metadata={"variant": "new"}, dimensions={"format": "csv"})
    tracker.expose("page", "new", user=uuid.UUID(USER))
    assert tracker.flush(60)
    pair.hold_back()
    tracker.track("calendar_late")
    assert tracker.flush(60)
    assert tracker.shutdown(60)
    monkeypatch.setenv("USAGE_INSTRUMENT_DATABASE_URL", primary)
    monkeypatch.setenv("USAGE_INSTRUMENT_READ_URL", standby)
    behind = "behind its primary"
    deadline = time.monotonic() + 60
    while behind not in (done := run("adoption")).stderr:
        assert time.monotonic() < deadline, done.output
        time.sleep(0.1)
    for question in QUESTIONS:
        example = question.example.replace("--start users.created_at", "").replace("--by users.plan", "")
        done = run(question.name, *example.split())
        assert (done.exit_code, behind in done.stderr) == (0, True), done.output
    assert "calendar_late" not in run("adoption").stdout
    assert "calendar_late" in run("adoption", "--url", primary).stdout
    for command in (
        ("report", "--markdown"),
        ("experiments",),
        ("dump", str(tmp_path)),
        ("experiment", "page", "--goal", "calendar_export"),
    ):
        done = run(*command)
        assert done.exit_code == 0, done.output
    for command in ("audit", "verify"), ("audit", "anomalies"), ("export", USER), ("db", "check"):
        done = run(*command, "--url", standby)
        assert (done.exit_code, behind in done.stderr) == (0, command[0] == "audit"), done.output
    rules = tmp_path / "watch.toml"
    rules.write_text('[[rules]]\nname = "few"\nquestion = "active"\ncolumn = "dau"\nbelow = 10\n')
    done = run("watch", "--once", "--rules", str(rules))
    assert done.exit_code == 1, "the standby answers, and the state is on the primary"
    assert len(all_of(engine, tables.alerts)) == 1
    dashboard = Dashboard(standby, authorize=lambda scope: True)
    pages = [
        "",
        "anomalies",
        "experiments",
        *(question.page for question in QUESTIONS if not question.example.startswith(("calendar", USER[:4]))),
    ]
    for page in pages:
        answer = asgi(dashboard, f"/{page}")
        assert (answer.status, "This standby is" in answer.text) == (200, True), page
    monkeypatch.setenv("USAGE_INSTRUMENT_READ_TIMEOUT", "1")
    with pytest.raises(typer.Exit):
        ask(standby, None, lambda connection, _: connection.exec_driver_sql("SELECT pg_sleep(600)"))


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_a_standby_is_promoted(pair: servers.PostgreSQLPair) -> None:
    def engine_of(port: int, **options: object) -> sa.Engine:
        return sa.create_engine(f"postgresql+psycopg2://{SECRET}@127.0.0.1:{port}/postgres", **options)

    tables = made(engine_of(pair.primary, poolclass=sa.NullPool))
    hosts = "&".join(f"host=127.0.0.1:{port}" for port in pair.ports)
    with before(pair.primary) as address:
        databases: dict[str, object] = {
            driver: f"postgresql+{driver}://{SECRET}@/postgres?{hosts}&target_session_attrs=read-write"
            for driver in ("psycopg", "asyncpg")
        }
        databases["engine"] = engine_of(address.port, pool_pre_ping=True)
        with Programs(databases) as programs:
            programs.go_on()
            for number in range(FAILOVERS):
                if number:
                    pair.replace_standby()
                pair.switch_over()
                address.target = pair.primary
                programs.go_on()
        programs.assert_exact(engine_of(pair.primary, poolclass=sa.NullPool), tables)
        for driver in ("psycopg", "asyncpg"):
            done = CliRunner().invoke(app, ["db", "check", "--url", str(databases[driver])])
            assert done.exit_code == 0, done.output


class Behind:
    """A program whose standby takes over 30 acknowledged uses behind, in three batches."""

    def __init__(self, pair: servers.PostgreSQLPair, address: Proxy, settings: Settings) -> None:
        self.pair, self.address = pair, address
        self.engine = sa.create_engine(
            f"postgresql+psycopg://{SECRET}@127.0.0.1:{address.port}/postgres", poolclass=sa.NullPool
        )
        self.tables = made(self.engine)
        self.tracker = Tracker(self.engine.url.render_as_string(hide_password=False), settings)
        self.use("before", 5)
        pair.hold_back()
        for number in range(1, 4):
            self.use("after", 10, user=uuid.UUID(int=number))
        assert total(self.engine, self.tables) == 35
        pair.fail_over()
        address.target = pair.primary

    def use(self, feature: str, count: int, **options: Any) -> None:
        self.tracker.track(feature, count=count, **options)
        assert self.tracker.flush(60), self.tracker.stats()

    def uses(self) -> tuple[int, int]:
        """In the counts and in their history."""
        with self.engine.connect() as connection:
            history = connection.scalar(sa.select(sa.func.sum(self.tables.history.c.usage_count)))
        return total(self.engine, self.tables), history or 0

    def end(self) -> dict[str, int]:
        """The losses by reason, after a clean exit."""
        assert self.tracker.shutdown(60), self.tracker.stats()
        assert balanced(self.tracker.stats())
        assert all_of(self.engine, self.tables.writers) == []
        return {row.reason: row.uses for row in all_of(self.engine, self.tables.losses)}


@pytest.mark.parametrize(("idle", "journal"), [(False, False), (True, False), (False, True)])
def test_a_standby_takes_over_without_acknowledged_batches(
    pair: servers.PostgreSQLPair, idle: bool, journal: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with before(pair.primary) as address:
        program = Behind(pair, address, Settings(flush_interval=3600, journal=str(tmp_path) if journal else None))
        assert program.uses() == (5, 5)
        if not idle:
            program.use("after", 100)
            program.use("after", 1000)
            assert program.uses() == (1135, 1135)
        assert program.end() == {}
        captured = 35 if idle else 1135
        assert program.uses() == (captured, captured)
        assert (program.tracker.stats().written, program.tracker.stats().dropped) == (captured, 0)
    (said,) = [record.getMessage() for record in caplog.records if "acknowledged" in record.getMessage()]
    assert "30 uses sent again, 0 uses lost" in said


def test_a_process_that_is_killed_before_it_notices_has_its_batches_in_the_journal(
    pair: servers.PostgreSQLPair, tmp_path: Path
) -> None:
    with before(pair.primary) as address:
        program = Behind(pair, address, Settings(flush_interval=3600, journal=str(tmp_path / "alive")))
        shutil.copytree(tmp_path / "alive", tmp_path / "killed")  # what kill -9 leaves
        url = program.engine.url.render_as_string(hide_password=False)
        recovered = recover(url, tmp_path / "killed")
        assert (recovered.written, recovered.dropped, recovered.journals) == (30, 0, 1)
        assert program.uses() == (35, 35)
        assert program.end() == {}


def test_batches_that_are_not_kept_are_booked(pair: servers.PostgreSQLPair) -> None:
    with before(pair.primary) as address:
        program = Behind(pair, address, Settings(flush_interval=3600, resend_max_bytes=1000))  # two batches
        program.use("after", 100)
        assert program.end() == {"lost in a failover": 10}
        assert program.uses() == (125, 125)
        assert (program.tracker.stats().written, program.tracker.stats().dropped) == (125, 10)


def test_a_heartbeat_finds_what_a_server_lacks(pair: servers.PostgreSQLPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that lives on and sends nothing more."""
    with before(pair.primary) as address:
        monkeypatch.setattr(maintenance, "HEARTBEAT", 0.1)
        program = Behind(pair, address, Settings(flush_interval=0.05))
        deadline = time.monotonic() + 60
        while program.uses() != (35, 35):
            assert time.monotonic() < deadline, program.tracker.stats()
            time.sleep(0.05)
        assert program.end() == {}


class MariaDBPair:
    """Two servers, of which the one that is no replica takes writes."""

    def __init__(self, primary: int, replica: int) -> None:
        self.primary, self._replica = primary, replica
        self._follow()

    def switch_over(self) -> None:
        """Make the primary read-only, and the replica the primary. The former stays up, and follows the new one."""
        position = _ask(self.primary, "SET GLOBAL read_only = 1", "SELECT @@gtid_binlog_pos")
        assert _ask(self._replica, f"SELECT MASTER_GTID_WAIT('{position}', 60)") == 0
        _ask(self._replica, "STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = 0")
        self.primary, self._replica = self._replica, self.primary
        _ask(self._replica, f"SET GLOBAL gtid_slave_pos = '{position}'")
        self._follow()

    def _follow(self) -> None:
        _ask(
            self._replica,
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {self.primary}, "
            f"MASTER_USER = '{servers.USER}', MASTER_PASSWORD = '{servers.PASSWORD}', MASTER_USE_GTID = slave_pos",
            "START SLAVE",
        )


def _ask(port: int, *statements: str) -> object:
    """The last answer."""
    with (
        contextlib.closing(
            pymysql.connect(host="127.0.0.1", port=port, user=servers.USER, password=servers.PASSWORD)
        ) as session,
        session.cursor() as cursor,
    ):
        for statement in statements:
            cursor.execute(statement)
        row = cursor.fetchone()
        return None if row is None else row[0]


@pytest.fixture
def mariadb_pair() -> Iterator[MariaDBPair]:
    with contextlib.ExitStack() as stack:
        ports = [entered(partial(servers.mariadb, *_REPLICATION, f"--server-id={id_}"), stack) for id_ in (1, 2)]
        yield MariaDBPair(*ports)


def test_a_replica_takes_over(mariadb_pair: MariaDBPair) -> None:
    pair = mariadb_pair

    def engine() -> sa.Engine:
        return sa.create_engine(f"mariadb+pymysql://{SECRET}@127.0.0.1:{pair.primary}/app", poolclass=sa.NullPool)

    _ask(
        pair.primary,
        "CREATE DATABASE app",
        "CREATE USER program IDENTIFIED BY 'secret'",  # USER itself may write on a read-only server
        "GRANT ALL ON app.* TO program",
    )
    tables = made(engine())
    with before(pair.primary) as address:
        url = f"mariadb+{{}}://program:secret@127.0.0.1:{address.port}/app"
        with Programs({driver: url.format(driver) for driver in ("pymysql", "aiomysql")}) as programs:
            programs.go_on()
            for _ in range(FAILOVERS):
                pair.switch_over()
                address.target = pair.primary
                programs.go_on()
        programs.assert_exact(engine(), tables)
