"""The pytest plugin: the fixture `captured_usage`.

It is no part of the package, because pytest imports its plugins at every start: only who asks for the fixture is to pay
for the package, and the package is to be imported when coverage is already being measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_instrument.testing import CapturedUsage


@pytest.fixture
def captured_usage() -> Iterator[CapturedUsage]:
    """What the test's app captures, without a database: `.count(feature, user=…)`, `.names`, `.assert_tracked(…)`."""
    from usage_instrument.testing import capture_usage

    with capture_usage() as usage:
        yield usage
