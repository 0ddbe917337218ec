"""The pytest plugin: the fixture `captured_usage`.

It is a module outside of the package. Pytest imports plugins at each start: only tests with the fixture import the
package, and coverage measures that import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_instrument.testing import CapturedUsage


@pytest.fixture
def captured_usage() -> Iterator[CapturedUsage]:
    """The captures of the tested app, without a database: `.count(feature, user=…)`, `.names`, `.assert_tracked(…)`."""
    from usage_instrument.testing import capture_usage

    with capture_usage() as usage:
        yield usage
