"""The help pages: each fits a small terminal, and ends in an example that is a valid command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from usage_instrument.cli.app import app

NAME = "usage-instrument"
ROOT = get_command(app)


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, *path, name)


def command_at(root: Any, words: list[str]) -> Any:
    while words and words[0] in getattr(root, "commands", {}):
        root = root.commands[words.pop(0)]
    return root


@pytest.mark.parametrize("path", list(commands(ROOT)), ids=" ".join)
def test_every_page_ends_in_an_example(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    page = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}).output
    lines = [line.strip() for line in page.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "…" not in page, "a name that does not fit"
    example = lines[lines.index("Example:") + 2]
    words = shlex.split(example)
    assert words[: len(path) + 1] == [NAME, *path]
    assert not any(lines[lines.index(example) + 1 :]), "the example is on one line"

    command, ran = command_at(ROOT, words[1:]), []
    assert not hasattr(command, "commands"), "a command that does something"
    monkeypatch.setattr(command, "callback", lambda **given: ran.append(given))
    ROOT(words[1:], prog_name=NAME, standalone_mode=False)
    assert len(ran) == 1
