"""The time of the running test.

Questions ask the database what time it is. A constant of the import would be of yesterday for each test that runs after
midnight, and a fresh look at the clock for each row would make no two rows of one time.
"""

from __future__ import annotations

import datetime as dt

from queries.oracle import floor

_now = dt.datetime.min


def start() -> None:
    """Take the time; before each test, by conftest.py."""
    global _now
    _now = dt.datetime.now(dt.UTC).replace(tzinfo=None, microsecond=0)


def now() -> dt.datetime:
    """When the test began, in UTC, without a zone, by the second."""
    return _now


def today() -> dt.datetime:
    """The midnight before."""
    return floor("day", _now)
