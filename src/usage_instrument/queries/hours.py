"""Checks that the history has hours: only they can be assigned to the days of a time zone."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Connection, func, literal_column, select

from usage_instrument.database.expressions import Later, StartOf
from usage_instrument.database.schema import default_tables
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import Unit

from .windows import DAY, MONTH, Moment, Window, window
from .zones import TimeZone


def check_hours(
    connection: Connection,
    tz: TimeZone,
    *,
    since: Moment,
    until: Moment = None,
    tables: Tables | None = None,
) -> None:
    """Raise ConfigurationError if the history has days instead of hours in this window, so that no question about it
    can be answered exactly in the time zone `tz`. A statement cannot see that by itself.

    The history has hours with the setting `history="hour"`: not from before it was set, and not where `prune` has
    summed them up to days. Spikes, drops, lifecycle and silence read up to 56 days before their window.
    """
    check_window(connection, tables or default_tables(), window(since, until, tz))


def check_window(connection: Connection, tables: Tables, asked: Window, before: int = 0, by: Unit = "day") -> None:
    """Raise ConfigurationError if the history has days in this window, or so many days before it."""
    if asked.zone.is_utc:
        return
    bucket, start, end = tables.history.c.bucket_start, asked.start(by), asked.end(by)
    # A day more on each side: the time zone is up to 14 hours from UTC, and its first day may be one of both kinds.
    after = [] if start is None else [bucket >= Later("day", start, literal_column(str(-1 - before)))]
    inside = after + ([] if end is None else [bucket < Later("day", end, literal_column("1"))])
    first: dt.datetime | None = connection.scalar(select(func.min(bucket, type_=bucket.type)).where(*inside))
    if first is None:
        return
    # The history has days first and hours later. A day whose only uses are of its first hour looks like a day.
    day = dt.datetime.combine(first, dt.time())
    is_hour: Any = bucket != StartOf("day", bucket)
    is_near = (bucket >= day - MONTH, bucket < day + DAY)
    if connection.scalar(select(select(bucket).where(is_hour, *is_near).exists())):
        return
    raise ConfigurationError(
        f"the history has a day instead of hours on {first:%Y-%m-%d}, which {asked.tz} divides: pass a later since, or "
        'no tz; the setting history="hour" counts by hour from now on'
    )
