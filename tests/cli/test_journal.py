"""`usage-instrument journal status` and `recover`: what dead processes left, and how it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from conftest import Database
from pipeline.recovering import ADA, die
from reading import counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.cli.app import app


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "journals"
    root.mkdir()
    return root


def run(command: str, root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["journal", command, "--journal", str(root), *arguments])


def shown(root: Path, *arguments: str) -> list[dict[str, Any]]:
    done = run("status", root, "--format", "json", *arguments)
    assert done.exit_code == 0, done.output
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return [{name: row[name] for name in ("state", "pending", "in_batches", "losses", "note")} for row in rows]


def test_the_life_of_a_journal(sqlite: Database, root: Path) -> None:
    tables = made(sqlite.engine())
    tracker = Tracker(sqlite.url, Settings(journal=str(root), flush_interval=3600))
    tracker.track("f", user=ADA)
    alive = {"state": "alive", "pending": 1, "in_batches": 0, "losses": 0, "note": ""}
    assert shown(root) == [alive]
    die(
        sqlite.url, root, "tracker.track('f', user=ADA, count=5); assert tracker.flush(60); tracker.track('f', count=2)"
    )
    dead = {"state": "dead", "pending": 2, "in_batches": 5, "losses": 0, "note": ""}
    assert shown(root) == [alive, dead], "without a URL, it is unknown that the batch is applied"
    assert shown(root, "--url", sqlite.url) == [alive, {**dead, "in_batches": 0}]
    done = run("recover", root, "--url", sqlite.url)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "1 journal recovered: 2 uses written.\n", "")
    assert counts(sqlite.engine(), tables) == {("f", ADA): 5, ("f", None): 2}
    assert shown(root) == [alive]
    assert tracker.shutdown(60)
    assert "Nothing is pending" in run("status", root).stderr + run("status", root).stdout


def test_a_journal_for_another_database_is_left(sqlite: Database, root: Path) -> None:
    made(sqlite.engine())
    die("sqlite:///elsewhere.db", root, "tracker.track('f')")
    done = run("recover", root, "--url", sqlite.url)
    assert (done.exit_code, done.stdout) == (1, "0 journals recovered: 0 uses written.\n")
    assert "not finished, run this again: " in done.stderr
    assert "its uses are for sqlite:///" in done.stderr


def test_no_such_directory(tmp_path: Path) -> None:
    done = run("status", tmp_path / "nowhere")
    assert (done.exit_code, "no process has kept a journal there" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, ["journal", "status"])
    assert (done.exit_code, "which directory? Pass --journal" in done.stderr) == (2, True)
