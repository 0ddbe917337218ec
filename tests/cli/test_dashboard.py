"""`usage-instrument dashboard`, the real command."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import Database
from reading import made
from usage_instrument.cli.app import app

COMMAND = Path(sys.executable).with_name("usage-instrument")
INHERITED = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_INSTRUMENT_")}


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The command, and what it printed before it served."""
    command = [str(COMMAND), "dashboard", "--port", "0", *arguments]
    # `manage.py usage` and `flask usage` set the schema of the settings, which is none by default.
    environment = INHERITED | {"PYTHONUNBUFFERED": "1", "USAGE_INSTRUMENT_SCHEMA": "none"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.strip())
            if "Ctrl-C" in line:
                break
        yield process, lines
    finally:
        process.kill()
        process.communicate()


def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        status, sent, text = answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()
    return (status, sent, text) if status != 202 else get(port, path, **headers)


def failed(*arguments: str) -> str:
    """What the command says in its one line when it cannot serve; in this process, which is faster."""
    unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith("USAGE_INSTRUMENT_")}
    done = CliRunner().invoke(app, ["dashboard", *arguments], env=unset, prog_name="usage-instrument")
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    return line


def test_serves_it_on_this_machine_with_a_token_of_its_own(postgresql: Database) -> None:
    made(postgresql.engine())
    with running("--url", postgresql.url) as (process, lines):
        assert "usage:***@" in lines[0]
        (address,) = [line for line in lines if line.startswith("http")]
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/\w{24}/)(\?token=[\w-]{32,})", address)
        assert found is not None, address
        port = int(found[1])
        assert get(port, "/")[0] == 401
        status, headers, _ = get(port, found[2] + found[3])
        assert (status, headers["location"]) == (303, "./")
        status, _, text = get(port, found[2], Cookie=headers["set-cookie"].partition(";")[0])
        assert status == 200
        assert "Nothing was counted so far" in text
        threads = Path(f"/proc/{process.pid}/task")
        if threads.exists():
            names = {(task / "comm").read_text().strip() for task in threads.iterdir()}
            assert not [name for name in names if "usage-instr" in name and name != "usage-instrumen"], names
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=20)
        assert "Traceback" not in said + complained
    with postgresql.engine().connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM feature_usage_writers").scalar() == 0


def test_takes_the_token_from_a_file_and_does_not_print_it(sqlite: Database, tmp_path: Path) -> None:
    made(sqlite.engine())
    file = tmp_path / "token"
    file.write_text("a token of the tests\n")
    file.chmod(0o600)
    options = ["--token-file", str(file), "--host", "0.0.0.0", "--group", "users.plan"]
    with running("--url", sqlite.url, *options) as (_, lines):
        assert not any("of the tests" in line for line in lines)
        (address,) = [line for line in lines if line.startswith("http")]
        port = int(address.split(":")[2].partition("/")[0])
        assert get(port, "/")[0] == 401
        assert get(port, "/active.csv", Authorization="Bearer a token of the tests")[0] == 200
        groups = get(port, "/groups", Authorization="Bearer a token of the tests")[2]
        assert "is a column of the users table, and these tables refer to none" in groups


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.example.org"])
def test_refuses_other_machines_without_a_token_of_ones_own(sqlite: Database, host: str) -> None:
    line = failed("--url", sqlite.url, "--host", host)
    assert f"{host} is open to other machines" in line
    assert "--token-file" in line


def test_says_in_one_line_what_is_wrong(sqlite: Database, tmp_path: Path) -> None:
    assert "Pass --url" in failed()
    assert "cannot be parsed" in failed("--url", "nonsense")
    assert "there is no file" in failed("--url", f"sqlite:///{tmp_path / 'none.db'}")
    made(sqlite.engine())
    assert "the token cannot be read" in failed("--url", sqlite.url, "--token-file", str(tmp_path / "none"))
    short = tmp_path / "short"
    short.write_text("short")
    short.chmod(0o600)
    assert "at least 16 printable ASCII characters" in failed("--url", sqlite.url, "--token-file", str(short))
    assert "not 'anonymous'" in failed("--url", sqlite.url, "--audit-as", "anonymous")
    assert "'anonymous'" in failed("--url", sqlite.url, "--audit-as", "ada")  # no UUID
    with running("--url", sqlite.url) as (_, lines):
        port = next(line for line in lines if line.startswith("http")).split(":")[2].partition("/")[0]
        assert "--port 0 takes a free one" in failed("--url", sqlite.url, "--port", port)
