"""A name with escape sequences must not steer the terminal of an administrator."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from conftest import Database
from reading import made
from usage_instrument import Settings, Tracker

EVIL = "\x1b]0;owned\x07\x1b[2Jx\x9b31m\u202ey"
COMMAND = [sys.executable, "-c", "from usage_instrument.cli import main; main()"]
COMMANDS = [
    *(["top", "--format", form] for form in ("table", "csv", "json", "markdown")),
    ["user", "anonymous"],
    *(["audit", "show", "--format", form] for form in ("table", "csv", "json")),
    *(["audit", "export", "--format", form] for form in ("csv", "jsonl")),
    ["related", EVIL[:-1]],
    ["sql", "related", EVIL],
]
IN_ONE_PROCESS = """
import contextlib, json, sys
from usage_instrument.cli import main
for command in json.loads(sys.argv[1]):
    with contextlib.suppress(SystemExit):
        main(command)
    print("---- end", flush=True)
"""


@pytest.fixture
def filled(sqlite: Database) -> str:
    made(sqlite.engine())
    tracker = Tracker(sqlite.url, Settings(flush_interval=0))
    tracker.track(EVIL, metadata={"note": EVIL}, audit=True)
    assert tracker.shutdown()
    return sqlite.url


def on_a_terminal(*commands: list[str]) -> list[str]:
    """What each command sends to a terminal, standard error included; all in one process, which imports once."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
    program = [sys.executable, "-c", IN_ONE_PROCESS, json.dumps(commands)]
    with subprocess.Popen(program, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        text = b""
        try:
            while chunk := os.read(ours, 65536):
                text += chunk
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(ours)
    return text.decode().split("---- end\r\n")[:-1]


def test_no_control_character_reaches_a_terminal(filled: str) -> None:
    texts = on_a_terminal(*([*command, "--url", filled] for command in COMMANDS))
    for command, text in zip(COMMANDS, texts, strict=True):
        assert "x" in text, command
        steering = {character for character in text if not character.isprintable() and character not in "\r\n"}
        assert not steering, command


def test_json_for_a_program_keeps_the_name(filled: str) -> None:
    done = subprocess.run([*COMMAND, "top", "--format", "json", "--url", filled], capture_output=True, check=True)
    assert json.loads(done.stdout)[0]["feature_name"] == EVIL
