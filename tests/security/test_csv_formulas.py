"""No cell of a file that the command line writes is a formula, whatever the app's users named."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import Database
from reading import made
from usage_instrument import Settings, Tracker
from usage_instrument.cli.app import app

FORMULAS = ["=HYPERLINK(1)", "+1", "-1+1", "@SUM(A1)", "\t=1", " =cmd|' /C calc'!A0", "\uff1d1"]
USER = "6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55"


@pytest.fixture
def filled(sqlite: Database) -> Database:
    made(sqlite.engine())
    tracker = Tracker(sqlite.url, Settings(flush_interval=0))
    for formula in FORMULAS:
        tracker.track(formula, user=USER, metadata={"variant": formula}, audit=True)
    assert tracker.shutdown()
    return sqlite


def cells(text: str) -> list[str]:
    return [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]


@pytest.mark.parametrize(
    "command",
    [
        ["top", "--limit", "100"],
        ["adoption"],
        ["user", USER],
        ["variants", FORMULAS[0], "variant"],
        ["audit", "show"],
        ["audit", "export"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_command_line(filled: Database, command: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*command, "--format", "csv", "--url", filled.url])
    assert done.exit_code == 0, done.output
    found = cells(done.stdout)
    assert f"'{FORMULAS[0]}" in found
    assert not [cell for cell in found if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\uff1d"))]
    assert any(cell.removeprefix("'") == FORMULAS[-1] for cell in found) or command[0] == "variants"
