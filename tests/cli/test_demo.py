"""`usage-instrument demo`: what a newcomer sees, what it leaves, and what it never touches."""

from __future__ import annotations

import os
import random
import re
import select
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")
pytest.importorskip("typer")
pytest.importorskip("uvicorn")

from typer.testing import CliRunner

from usage_instrument.cli.app import app
from usage_instrument.cli.demo import traffic

COMMAND = (sys.executable, "-c", "from usage_instrument.cli import main; main()", "demo")


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def servers_of(database: Path) -> list[int]:
    """The processes whose command line names this database's server."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"usage_instrument.cli.demo.server" in command and any(os.fsencode(database) in part for part in command):
            found.append(int(process.name))
    return found


def rows(database: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    place = tmp_path_factory.mktemp("demo")
    done = run(place, "--yes", "--users", "12", "--requests", "200", "--database", str(place / "demo.db"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return place / "demo.db", done.stdout


def test_its_sql_runs_as_printed(shown: tuple[Path, str]) -> None:
    database, output = shown
    answers = re.findall(r"^\d\. .*\n((?:  .*\n)+?)  Python: .*\n  SQL:\n((?:    .*\n)+)", output, re.MULTILINE)
    assert len(answers) == 3
    for table, sql in answers:
        first, *lines = [line.split() for line in table.splitlines() if "─" not in line]
        found = rows(database, sql)
        assert all(name in sql for name in first)
        assert sorted((line[0], line[1]) for line in lines) == sorted((row[0], str(row[1])) for row in found)
        assert max(map(len, sql.splitlines())) <= 80


def test_the_table_holds_what_the_clients_saw(shown: tuple[Path, str]) -> None:
    database, output = shown
    ((total,),) = rows(database, "SELECT sum(usage_count) FROM feature_usage")
    unwrapped = " ".join(output.split())
    (refused,) = re.findall(r"(\d+) were refused", unwrapped)
    assert int(refused) > 0
    assert total + int(refused) == 200
    assert f"feature_usage holds {total} uses" in unwrapped
    assert rows(database, "SELECT sum(usage_count) FROM feature_usage_history") == [(total,)]
    assert rows(database, "SELECT count(*) FROM feature_usage_losses") == [(0,)]
    assert rows(database, "SELECT count(*) FROM feature_usage_writers") == [(0,)], "the app ended in order"


def test_users_are_real_and_skewed(shown: tuple[Path, str]) -> None:
    database, _ = shown
    assert rows(database, "SELECT count(*) FROM users") == [(12,)]
    assert rows(database, "PRAGMA foreign_key_check") == []
    by_user = dict(rows(database, "SELECT user_id, sum(usage_count) FROM feature_usage GROUP BY user_id"))
    assert None in by_user
    counts = sorted(count for user, count in by_user.items() if user is not None)
    assert counts[-1] > 3 * counts[len(counts) // 2]


def test_an_unused_feature_is_known(shown: tuple[Path, str]) -> None:
    database, output = shown
    assert "calendar_print" not in output
    (sql,) = re.findall(r'"(SELECT feature_name FROM feature_usage_catalog .*)"', output)
    assert ("calendar_print",) in rows(database, sql)


def test_the_three_questions_are_answered(shown: tuple[Path, str]) -> None:
    _, output = shown
    assert "queries.top_features(limit=5)" in output
    assert "queries.user_features(UUID(" in output
    assert "queries.adoption()" in output
    for feature in ("calendar_browse", "calendar_follow_event", "calendar_open_event"):
        assert feature in output


def test_piped_output_is_plain_and_narrow(shown: tuple[Path, str]) -> None:
    database, output = shown
    assert "\x1b" not in output
    to_copy = [line for line in output.splitlines() if "--url" in line or "SELECT feature_name FROM" in line]
    assert len(to_copy) == 3
    wide = [line for line in output.splitlines() if len(line) > 80 and line not in to_copy]
    assert not wide
    assert str(database) in output.replace("\n", "")


def test_no_process_is_left(shown: tuple[Path, str]) -> None:
    assert servers_of(shown[0]) == []


def test_an_earlier_demo_is_replaced_only_when_agreed(shown: tuple[Path, str]) -> None:
    database, _ = shown
    before = database.read_bytes()
    done = run(database.parent, "--database", str(database), "--requests", "5")
    assert done.returncode != 0
    assert "Replace it?" in done.stdout + done.stderr
    assert database.read_bytes() == before


@pytest.mark.parametrize("content", [b"precious", b""])
def test_a_file_of_somebody_else_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.db").write_bytes(content)
    done = CliRunner().invoke(app, ["demo", "--yes", "--database", str(tmp_path / "mine.db")])
    assert done.exit_code == 2
    assert "stays as it is" in done.stderr
    assert (tmp_path / "mine.db").read_bytes() == content


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_it_half_way_leaves_no_process(tmp_path: Path, sent: signal.Signals) -> None:
    database = tmp_path / "demo.db"
    process = subprocess.Popen(
        [*COMMAND, "--yes", "--requests", "20000", "--database", str(database)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        assert b"calendar app answers" in process.stdout.readline()
        (server,) = servers_of(database)
        ended = os.pidfd_open(server)
        process.send_signal(sent)
        assert process.wait(90) != 0
        assert select.select([ended], [], [], 90)[0], "a pidfd is readable once its process has ended"
        os.close(ended)
    finally:
        process.kill()
        process.communicate()


# Ctrl-C at a moment when the main thread holds the lock by which the pool counts its idle threads.
INTERRUPTED_IN_THE_POOL = """
import signal, sys, threading

def trace(frame, event, argument):
    if frame.f_code is threading.Condition.__enter__.__code__ and frame.f_back.f_code.co_name == "acquire":
        if event == "return" and threading.active_count() > 2:
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)
        return trace
    return trace if frame.f_code.co_name in {"acquire", "_adjust_thread_count"} else None

from usage_instrument.cli import main
from usage_instrument.cli.demo import traffic

def drive(*arguments, drive=traffic.drive):
    sys.settrace(trace)
    return drive(*arguments)

traffic.drive = drive
main()
"""


def test_ctrl_c_within_the_thread_pool_ends_the_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED_IN_THE_POOL, "demo", "--database", str(tmp_path / "demo.db")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "were uses of a feature" not in done.stdout, "it ends without the rest of its requests"


def test_the_same_seed_makes_the_same_traffic() -> None:
    def once(seed: int) -> list[traffic.Step]:
        dice = random.Random(seed)
        plan = traffic.plan(traffic.people(5, dice), 50, dice)
        return [step for steps in plan.values() for step in steps]

    assert once(1) == once(1) != once(2)
