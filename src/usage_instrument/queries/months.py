"""Checks that an answer is exact where days of the history are summed up to months."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Connection, func, null, select

from usage_instrument.database.months import first_day_number, moment_of
from usage_instrument.database.schema import default_tables
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.settings import LEAST_MONTHS_AFTER
from usage_instrument.typing import Unit

from .windows import DAY, Moment, Window, window
from .zones import TimeZone

_DAYS = int(LEAST_MONTHS_AFTER // DAY.total_seconds())
_BEFORE_STEP = {"week": 6, "month": 30}
"""Days by which the first step of a window may begin before it."""


def check_days(
    connection: Connection,
    *,
    since: Moment,
    until: Moment = None,
    by: Unit = "day",
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> None:
    """Raise ConfigurationError if days of this window are summed up to months, so that no question about it can be
    answered exactly. A statement cannot see that by itself.

    The setting `history_months_after` sums them up. Uses and users of whole months stay exact: `by="month"` allows
    windows that begin and end with months. Spikes, drops, lifecycle and silence read up to 56 days before their window.
    """
    asked = window(since, until, tz)
    unit: Unit = "day" if by == "month" else by  # a trend begins with the whole month, other questions do not
    by_months, fix = by == "month", "pass a later since"
    check_window(connection, tables or default_tables(), asked, by=unit, by_months=by_months, fix=fix)


def check_window(
    connection: Connection,
    tables: Tables,
    asked: Window,
    before: int = 0,
    by: Unit = "day",
    *,
    by_months: bool,
    fix: str,
    is_previous: bool = False,
) -> None:
    """Raise ConfigurationError if days in this window, or so many days before it, are summed up; if whole months answer
    the question, `by_months`, only where the window has a part of one. A window that `is_previous` is compared with."""
    if _is_recent(asked, before, by):
        return
    bucket = tables.history.c.bucket_start
    edges = [null() if edge is None else edge for edge in (asked.start(by), asked.end(by))]
    oldest = select(func.min(bucket, type_=bucket.type)).scalar_subquery()
    # The edges by the calendar of the database, as the question has them.
    number, start, end, oldest_row = connection.execute(select(first_day_number(tables), *edges, oldest)).one()
    first_day = moment_of(number)
    if first_day is None or oldest_row is None or oldest_row >= first_day:
        return
    needed = oldest_row if start is None else start - before * DAY
    if not asked.zone.is_utc:
        needed -= DAY  # it is up to 14 hours from UTC
    if needed >= first_day:
        return
    has_months = f"before {first_day:%Y-%m-%d} the history has months"
    if not (by_months and asked.zone.is_utc):
        tz = "" if asked.zone.is_utc else ", or no tz"
        raise ConfigurationError(f"{has_months}, and this question needs days from {needed:%Y-%m-%d} on: {fix}{tz}")
    for edge in (start, end):
        if edge is not None and edge.day > 1 and oldest_row.replace(day=1) <= edge < first_day:
            if is_previous:
                raise ConfigurationError(f"{has_months}, and the window before has a part of {edge:%Y-%m}: {fix}")
            or_later = f", or pass since={first_day:%Y-%m-%d}" if end is None or end > first_day else ""
            raise ConfigurationError(
                f"{has_months}, and the window has a part of {edge:%Y-%m}: let it begin on the first of a month and "
                f"end on the last of one{or_later}"
            )


def check_experiment(
    connection: Connection,
    name: str,
    *,
    since: Moment,
    until: Moment = None,
    tz: TimeZone = None,
    tables: Tables,
) -> None:
    """Raise ConfigurationError if days since the first exposures of an experiment in this window are summed up: uses
    count from the day of an exposure on."""
    asked = window(since, until, tz)
    if _is_recent(asked, 0, "day"):
        return
    exposures, start = tables.exposures, asked.start()
    exposed = exposures.c.first_exposed_at
    of_experiment = select(func.min(exposed, type_=exposed.type)).where(exposures.c.experiment == name)
    number, start, first = connection.execute(
        select(first_day_number(tables), null() if start is None else start, of_experiment.scalar_subquery())
    ).one()
    first_day = moment_of(number)
    if first_day is None or first is None:
        return
    needed = first if start is None else max(first, start)
    if needed - (DAY if not asked.zone.is_utc else 0 * DAY) < first_day:
        raise ConfigurationError(
            f"before {first_day:%Y-%m-%d} the history has months, and this experiment needs days from "
            f"{needed:%Y-%m-%d} on: pass a later since, which leaves out the units that were exposed before"
        )


def _is_recent(asked: Window, before: int, by: Unit) -> bool:
    """Whether no month of the window can be summed up yet, so that no statement is needed."""
    first, _ = asked.bounds()
    if first is None:
        return False
    reach = before + _BEFORE_STEP.get(by, 0) + (0 if asked.tz is None else 1)
    # By the clock of this process, which may be a day behind that of the database.
    return first.toordinal() - reach > dt.datetime.now(dt.UTC).date().toordinal() - _DAYS
