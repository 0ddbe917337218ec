"""The pytest plugin: the fixture `captured_usage`, and a line at the end if the app writes nothing because pytest runs.

It is a module outside of the package. Pytest imports plugins at each start: only tests with the fixture import the
package, and coverage measures that import.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_instrument.testing import CapturedUsage

_said = pytest.StashKey[str]()


@pytest.fixture
def captured_usage() -> Iterator[CapturedUsage]:
    """The captures of the tested app, without a database: `.count(feature, user=…)`, `.names`, `.assert_tracked(…)`."""
    from usage_instrument.testing import capture_usage

    with capture_usage() as usage:
        yield usage


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remember the line; a worker of pytest-xdist sends it to the controller."""
    default = sys.modules.get("usage_instrument._default")
    if default is not None and default.is_silent_under_pytest:
        session.config.stash[_said] = default.SILENT_UNDER_PYTEST
        getattr(session.config, "workeroutput", {})["usage_instrument"] = default.SILENT_UNDER_PYTEST


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the line of a worker of pytest-xdist."""
    line = getattr(node, "workeroutput", {}).get("usage_instrument")
    if line:
        node.config.stash[_said] = line


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the line, unless pytest is quiet."""
    line = config.stash.get(_said, "")
    if line and config.get_verbosity() >= 0:
        terminalreporter.write_line(f"usage-instrument: {line}")
        del config.stash[_said]  # the plugin may be loaded under both of its names
