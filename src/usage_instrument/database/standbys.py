"""Reads from a hot standby, which ends queries where it has to repeat what its primary did."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import exc

from . import dialects

T = TypeVar("T")

ATTEMPTS = 3
"""Attempts of one read in all."""


def retried(dialect: str, attempt: Callable[[], T]) -> T:
    """What an attempt returns. Another one follows where a standby has ended its query; raises what the last raises."""
    for _ in range(ATTEMPTS - 1):
        try:
            return attempt()
        except exc.DBAPIError as error:
            if not dialects.get(dialect).is_conflict(error):
                raise
    return attempt()
