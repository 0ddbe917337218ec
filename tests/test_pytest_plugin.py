"""The fixture `captured_usage`, in test suites of hosts that run in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import usage_instrument
from usage_instrument.testing import CapturedUsage
from usage_instrument_pytest import captured_usage as captured_usage

ROOT = Path(__file__).parents[1]
SOURCES = Path(usage_instrument.__file__).parents[1]
APP = """
import usage_instrument as usage

@usage.tracks("follow", user_arg="user")
def follow(user=None): ...

def create_app():
    usage.configure("sqlite:////nowhere/usage.db")
"""
SUITE = """
import threading
from app import create_app, follow

def test_counts(captured_usage):
    before = threading.active_count()
    follow(42)
    follow()
    assert captured_usage.names == ["follow"]
    assert captured_usage.count("follow") == 2
    assert captured_usage.count("follow", user=42) == 1
    captured_usage.assert_tracked("follow", user=None, times=1)
    assert threading.active_count() == before

def test_nothing_is_left(captured_usage):
    assert captured_usage.uses == []

def test_an_app_made_in_the_test(captured_usage):
    create_app()
    follow(7)
    captured_usage.assert_tracked("follow", user=7, times=1)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What an installation adds to site-packages, as pytest finds it: the metadata with its entry points."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    metadata = tmp_path / "site" / "usage_instrument-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: usage-instrument\nVersion: 1.0\n")
    lines = [f"{name} = {value}\n" for name, value in entry_points.items()]
    (metadata / "entry_points.txt").write_text("[pytest11]\n" + "".join(lines))
    (metadata / "RECORD").write_text("usage_instrument/__init__.py,,\nusage_instrument_pytest.py,,\n")
    return metadata.parent


@pytest.fixture
def host(installed: Path, tmp_path: Path) -> Path:
    """An app and its tests, with no configuration of theirs at all."""
    place = tmp_path / "host"
    place.mkdir()
    (place / "app.py").write_text(APP)
    (place / "test_app.py").write_text(SUITE)
    return place


def run(host: Path, *arguments: str, command: tuple[str, ...] = ("-m", "pytest")) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (host.parent / "site", SOURCES, host)))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "USAGE_INSTRUMENT"))}
    return subprocess.run(
        # Warnings are errors, as in the suites of careful hosts.
        [sys.executable, *command, "-q", "-W", "error", "-p", "no:cacheprovider", *arguments],
        cwd=host,
        env={**kept, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_suite_asks_for_the_fixture_and_needs_nothing_else(host: Path) -> None:
    # By a program of its own, which has loaded the app before pytest.
    done = run(host, command=("-c", "import sys, app, pytest; sys.exit(pytest.main(sys.argv[1:]))"))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "3 passed" in done.stdout


def test_in_the_processes_of_xdist_and_with_the_plugin_named_as_well(host: Path) -> None:
    done = run(host, "-n", "2", "-p", "usage_instrument.pytest_plugin")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "3 passed" in done.stdout


def test_coroutines_under_anyio_are_captured_and_without_autoload_the_plugin_goes_by_its_name(host: Path) -> None:
    (host / "conftest.py").write_text("pytest_plugins = ['anyio', 'usage_instrument.pytest_plugin']\n")
    (host / "test_app.py").write_text("""
import anyio, anyio.to_thread, pytest
import usage_instrument as usage
from app import follow

pytestmark = pytest.mark.anyio

@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

@pytest.fixture
async def followed(captured_usage):
    follow(1)

async def test_tasks_and_threads(captured_usage, followed):
    async def one(user):
        with usage.as_user(user):
            await anyio.to_thread.run_sync(usage.track, "search")
    async with anyio.create_task_group() as group:
        for user in range(3):
            group.start_soon(one, user)
    assert [captured_usage.count("search", user=user) for user in range(3)] == [1, 1, 1]
    captured_usage.assert_tracked("follow", user=1, times=1)

async def test_nothing_is_left(captured_usage):
    assert captured_usage.uses == []
""")
    done = run(host, "--disable-plugin-autoload")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "4 passed" in done.stdout


def test_only_who_asks_loads_the_package_and_what_fails_says_what_was_captured(host: Path) -> None:
    (host / "test_app.py").write_text("""
import sys

def test_not_loaded(pytestconfig):
    assert pytestconfig.pluginmanager.hasplugin("usage_instrument")
    assert not {"usage_instrument", "sqlalchemy", "wrapt"} & set(sys.modules)

def test_it(captured_usage):
    from app import follow

    follow(7)
    captured_usage.assert_tracked("follow", user=8)
""")
    done = run(host)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "'follow' was not used at least once by 8, but 0 times; captured: 'follow' by 7 1 times" in done.stdout
    assert re.search(r"^test_app.py:12: AssertionError$", done.stdout, re.MULTILINE), done.stdout
    assert "testing.py" not in done.stdout, "the traceback ends in the test"


def test_the_page_about_testing_runs(captured_usage: CapturedUsage) -> None:
    page = (ROOT / "docs" / "guides" / "testing.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"follow": usage_instrument.tracks("calendar_follow_event", user_arg="user")(_follow)}
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(snippet, "testing.md", "exec"), names)
    names["test_following_is_counted"](captured_usage)
    for attribute in re.findall(r"`\.(\w+)", page):
        assert hasattr(captured_usage, attribute), attribute


def _follow(event: int, user: int) -> None: ...


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_suite_whose_app_would_write_is_told_once_that_it_does_not(host: Path, processes: str) -> None:
    (host / "test_app.py").write_text("""
import logging, pytest
from app import create_app, follow

@pytest.mark.parametrize("number", range(3))
def test_the_app(number, caplog):
    create_app()
    follow(7)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
""")
    arguments = ["-v", "-n", processes, "-p", "usage_instrument.pytest_plugin"]
    done = run(host, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("usage-instrument: under pytest, nothing is written to the database. To write, ") == 1
