"""Periods: conditions on times from a timedelta or datetime, and a calendar that fills gaps.

A timedelta is subtracted from the database's current time, so printed SQL stays valid. In the history it means whole
days, UTC: 7 days are today and the six before, 36 hours are two days. A datetime means from its day on.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, TypeAlias

from sqlalchemy import CTE, ColumnElement, Table, literal_column, select, union_all

from usage_instrument.database.expressions import Ago, Instant, Later, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import Unit

from .numbers import ONE, ZERO

Since: TypeAlias = dt.timedelta | dt.datetime | None

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
WEEK = 7 * DAY
MONTH = 28 * DAY
"""Four weeks, so that it contains every weekday equally often."""
_LONGEST = 36_500 * DAY


def used_since(last_used: ColumnElement[Any], since: Since) -> list[ColumnElement[bool]]:
    """The condition that a use is in the period, to the second. Raises ConfigurationError."""
    since = checked_since(since)
    if since is None:
        return []
    return [last_used >= (Ago(since) if isinstance(since, dt.timedelta) else Instant(since))]


def counted_since(tables: Tables, since: Since) -> tuple[Table, list[ColumnElement[bool]]]:
    """The table with the uses of a period and the condition for it; for all time, `feature_usage` without a condition.

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
    """The start of the first day (hour, week, month) of a period, which may begin before the period.

    None for all time. Raises ConfigurationError.
    """
    since = checked_since(since)
    if since is None:
        return None
    if isinstance(since, dt.datetime):
        return StartOf(by, Instant(since))
    grain = HOUR if by == "hour" else DAY
    whole = -(-since // grain) * grain  # 36 hours are two days
    return StartOf(by, Ago(max(whole - grain, dt.timedelta(0))))


def checked_since(since: object) -> Since:
    """The period, a datetime converted to naive UTC like the columns. Raises ConfigurationError."""
    if isinstance(since, dt.datetime):
        return since if since.tzinfo is None else since.astimezone(dt.UTC).replace(tzinfo=None)
    if isinstance(since, dt.timedelta):
        if not dt.timedelta(0) <= since <= _LONGEST:
            raise ConfigurationError(
                f"since goes back from 0 to {_LONGEST.days} days, not {since_text(since)}; None is all time"
            )
        return since
    if since is None:
        return None
    raise ConfigurationError(f"since is a timedelta, a datetime or None, not {since!r}")


_UNITS = {"h": HOUR, "d": DAY, "w": WEEK}


def span_of(text: str) -> dt.timedelta | None:
    """A number of hours, days or weeks, as in 12h, 30d, 4w; None for another text."""
    number, unit = text[:-1], _UNITS.get(text[-1:].lower())
    is_number = number.isascii() and number.isdecimal() and len(number) <= 5
    return int(number) * unit if unit is not None and is_number else None


def since_of(text: str) -> Since:
    """The period that a text stands for: 12h, 30d, 4w, or a date. Raises ConfigurationError."""
    back = span_of(text)
    if back is not None:
        return back
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"since is 12h, 30d, 4w or a date such as 2026-01-31 (UTC), not {text!r}") from None


def since_text(since: dt.timedelta | dt.datetime) -> str:
    """A period as the command line takes it: 60d, 36h, 2026-01-31."""
    if isinstance(since, dt.datetime):
        return f"{since:%Y-%m-%d}"
    hours = since.total_seconds() / 3600
    return f"{hours / 24:g}d" if hours % 24 == 0 else f"{hours:g}h"


def period_words(since: Since) -> str:
    """A period as the gap `{period}` of a description takes it."""
    if since is None:
        return "so far"
    if isinstance(since, dt.datetime):
        return f"since {since:%Y-%m-%d}"
    hours = round(since.total_seconds() / 3600)
    number, unit = (hours // 24, "day") if hours % 24 == 0 else (hours, "hour")
    return f"in the last {number} {unit}s" if number != 1 else f"in the last {unit}"


def calendar(unit: Unit, start: ColumnElement[Any], end: ColumnElement[Any] | None = None) -> CTE:
    """A row per unit, used or not, from `start` until now or before `end`: `bucket_start`. No rows if start is NULL.

    The units are numbered like the nodes of a binary tree, n with the children 2n and 2n + 1. So the recursion is only
    as deep as the logarithm of their number: MariaDB silently stops after a thousand rounds.
    """
    span = select(start.label("start")).subquery("span")
    children = union_all(select(ZERO.label("child")), select(ONE)).subquery("children")
    first = select(ONE.label("n"), span.c.start, span.c.start.label("bucket_start")).where(span.c.start.is_not(None))
    units = first.cte("units", recursive=True)
    number = units.c.n * literal_column("2") + children.c.child
    moment = Later(unit, units.c.start, number - ONE)
    inside = moment <= Ago() if end is None else moment < end
    always = children.c.child <= units.c.n  # without a comparison SQLAlchemy warns of a cartesian product
    more = (
        select(number.label("n"), units.c.start, moment.label("bucket_start"))
        .select_from(units)
        .join(children, always)
        .where(inside)
    )
    return units.union_all(more)
