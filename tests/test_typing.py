"""The public API to type checkers, mypy and pyright: what is tracked stays what it is, and options are known."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reading import SQLALCHEMY

pytestmark = pytest.mark.skipif(SQLALCHEMY < (2, 1), reason="the questions have the types of SQLAlchemy 2.1")

TESTS = Path(__file__).parent
FILES = sorted((TESTS / "typing").glob("*.py"))
assert FILES, "no files to check"
SOURCE = TESTS.parent / "src"


def test_mypy():
    # With the configuration and the cache of scripts/check, which has read the package already.
    run = _run("mypy", "--strict", *map(str, FILES))
    assert (run.returncode, run.stdout) == (0, f"Success: no issues found in {len(FILES)} source files\n"), (
        run.stdout + run.stderr
    )


def test_pyright(tmp_path):
    config = {
        "include": [file.name for file in FILES],
        "extraPaths": [str(SOURCE)],
        "typeCheckingMode": "standard",
        "enableTypeIgnoreComments": False,  # those are mypy's
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    for file in FILES:
        shutil.copy(file, tmp_path)
    run = _run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(tmp_path))
    if not run.stdout.startswith("{"):
        _missing(f"pyright does not run here: {run.stdout}{run.stderr}")
    report = json.loads(run.stdout)
    assert report["summary"]["filesAnalyzed"] == len(FILES)
    assert [
        f"{found['range']['start']['line'] + 1}: {found['message']}"
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    ] == []


def _run(tool, *arguments):
    if importlib.util.find_spec(tool) is None:
        _missing(f"{tool} is not installed")
    return subprocess.run(
        [sys.executable, "-m", tool, *arguments],
        cwd=TESTS.parent, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def _missing(reason):
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
