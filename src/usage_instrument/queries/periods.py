"""Since when: from a timedelta or a datetime to conditions on `last_used` and on the buckets of the history.

A timedelta goes back from the database's own now, so that the printed SQL stays right. In the history it means whole
days, UTC, whatever the buckets are: 7 days are today and the six before, 36 hours are two days. A datetime means from
its day on.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Table

from usage_instrument.database.expressions import Ago, Instant, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import Unit

Since: TypeAlias = dt.timedelta | dt.datetime | None

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
WEEK = 7 * DAY
MONTH = 28 * DAY
"""Four weeks, so that every weekday is in it as often."""
_LONGEST = 36_500 * DAY


def used_since(last_used: ColumnElement[Any], since: Since) -> list[ColumnElement[bool]]:
    """The condition that a use lies in the period, to the second. Raises ConfigurationError."""
    since = checked_since(since)
    if since is None:
        return []
    return [last_used >= (Ago(since) if isinstance(since, dt.timedelta) else Instant(since))]


def counted_since(tables: Tables, since: Since) -> tuple[Table, list[ColumnElement[bool]]]:
    """The table that has the uses of a period, and the condition for it: without a period, `feature_usage` itself.

    Raises ConfigurationError.
    """
    if checked_since(since) is None:
        return tables.usage, []
    return tables.history, buckets_since(tables.history.c.bucket_start, since)


def buckets_since(bucket_start: ColumnElement[Any], since: Since) -> list[ColumnElement[bool]]:
    """The condition that a bucket is in the period. Raises ConfigurationError."""
    start = first_start(since)
    return [] if start is None else [bucket_start >= start]


def first_start(since: Since, by: Unit = "day") -> ColumnElement[Any] | None:
    """Where the first whole day (or hour, week, month) of a period starts, which lies in it at least in part.

    None for all time. Raises ConfigurationError.
    """
    since = checked_since(since)
    if since is None:
        return None
    if isinstance(since, dt.datetime):
        return StartOf(by, Instant(since))
    grain = HOUR if by == "hour" else DAY
    whole = -(-since // grain) * grain  # 36 hours reach into two days before now
    return StartOf(by, Ago(max(whole - grain, dt.timedelta(0))))


def checked_since(since: object) -> Since:
    """A period with a datetime in UTC, naive as the columns are. Raises ConfigurationError."""
    if isinstance(since, dt.datetime):
        return since if since.tzinfo is None else since.astimezone(dt.UTC).replace(tzinfo=None)
    if isinstance(since, dt.timedelta):
        if not dt.timedelta(0) <= since <= _LONGEST:
            raise ConfigurationError(f"since goes back from 0 to {_LONGEST.days} days, not {since}; None is all time")
        return since
    if since is None:
        return None
    raise ConfigurationError(f"since is a timedelta, a datetime or None, not {since!r}")
