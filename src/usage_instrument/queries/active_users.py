"""How many users are active by day, week and month, and how often do they return?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, overload

from sqlalchemy import ColumnElement, FromClause, Select, Subquery, case, func, literal_column, select

from usage_instrument.database.expressions import Day, Later, StartOf
from usage_instrument.database.tables import Tables

from .arguments import default_tables, rows_of
from .comparison import Compare, changes, checked_compare
from .numbers import ONE, share
from .questions import Query, Question, QuestionColumn, described
from .windows import DAY, MONTH, WEEK, Moment, Window, calendar, window
from .zones import TimeZone

_LENGTHS = {"dau": DAY, "wau": WEEK, "mau": MONTH}
"""The numbers of users, and in how many days."""


@overload
def active_users(
    feature: str | None = None,
    *,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[dt.date, int, int, int, float]: ...
@overload
def active_users(
    feature: str | None = None,
    *,
    until: Moment = None,
    compare: Compare,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def active_users(
    feature: str | None = None,
    *,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """The active users as of a day, of one feature or of all, in one row: `day`, `dau`, `wau`, `mau`, `stickiness`.

    `day` is today in the time zone `tz` (default: UTC), or the last day before `until` (a timedelta, a date, which is
    that day, a datetime, or the text of one); the users are those of that day, of the 7 days and of the 28 days that
    end with it. `stickiness` (0 to 1) is the mean of the daily numbers over `mau`: the share of days on which a user is
    active, of 28 days, or of those since the history began. The anonymous user does not count. Raises
    ConfigurationError for a wrong argument.

    `compare="previous"` adds to `dau`, `wau` and `mau` the columns `_before` (of the day, the 7 and the 28 days before
    those), `_change` and `_relative_change` (0.1 is a tenth more, None if there were none before).
    """
    found = _as_of(feature, until, tz, tables)
    if checked_compare(compare) is None:
        return found
    now, before = found.subquery("now_"), dict(_before(feature, until, tz, tables))
    source: FromClause = now
    columns: list[Any] = []
    for name, column in now.c.items():
        columns.append(column)
        if name in before:
            columns += changes(name, column, before[name].c[name])
            always = before[name].c[name] >= -column  # without a comparison SQLAlchemy warns of a cartesian product
            source = source.join(before[name], always)
    return select(*columns).select_from(source)


def _as_of(
    feature: str | None, until: Moment, tz: TimeZone, tables: Tables | None
) -> Select[dt.date, int, int, int, float]:
    asked = window(None, until, tz)
    history = asked.history(tables or default_tables(), None)
    end = _end(asked)
    start, is_before = _start(MONTH, asked, end), [] if end is None else [history.c.bucket_start < end]
    rows = [*rows_of(history.c.feature_name, feature), history.c.bucket_start >= start, *is_before]
    day = Day(history.c.bucket_start).label("day")
    visits = select(history.c.user_id, day).where(history.c.user_id.is_not(None), *rows).distinct().subquery("visits")
    latest = func.max(visits.c.day).label("latest")
    users = select(latest, func.count().label("days")).group_by(visits.c.user_id).subquery("users")
    today, week = Day(_start(DAY, asked, end)), Day(_start(WEEK, asked, end))
    monthly = func.count(users.c.latest)
    is_older = select(history.c.bucket_start).where(history.c.bucket_start < start).exists()
    first = select(StartOf("day", func.min(history.c.bucket_start))).where(history.c.bucket_start >= start)
    since_first = (
        select(func.count())
        .select_from(calendar("day", first.scalar_subquery(), end, zone=asked.zone))
        .scalar_subquery()
    )
    days = case((is_older, literal_column(str(MONTH // DAY))), else_=since_first)
    return select(
        (Day(asked.now()) if end is None else today).label("day"),
        func.count(case((users.c.latest >= today, users.c.latest))).label("dau"),
        func.count(case((users.c.latest >= week, users.c.latest))).label("wau"),
        monthly.label("mau"),
        share(func.sum(users.c.days), monthly * func.max(days)).label("stickiness"),
    )


def _before(feature: str | None, until: Moment, tz: TimeZone, tables: Tables | None) -> Iterator[tuple[str, Subquery]]:
    """The users of the day, the 7 and the 28 days before those that end with the last day, in one row each.

    A count of its own for each: PostgreSQL works out the edges of a day anew for each row, and a scalar subquery
    wherever it stands.
    """
    asked = window(None, until, tz)
    history, end = asked.history(tables or default_tables(), None), _end(asked)
    user, bucket = history.c.user_id, history.c.bucket_start
    its = [user.is_not(None), *rows_of(history.c.feature_name, feature)]
    for name, length in _LENGTHS.items():
        rows = [*its, bucket >= _start(2 * length, asked, end), bucket < _start(length, asked, end)]
        users = select(user).where(*rows).distinct().subquery("users")
        yield name, select(func.count().label(name)).select_from(users).subquery(f"{name}_before")


def _end(asked: Window) -> ColumnElement[Any] | None:
    """The end of the last day; None for today."""
    end, tomorrow = asked.end(), Later("day", StartOf("day", asked.now()), ONE)
    return end if end is None or isinstance(asked.until, dt.timedelta) else case((end < tomorrow, end), else_=tomorrow)


def _start(length: dt.timedelta, asked: Window, end: ColumnElement[Any] | None) -> ColumnElement[Any]:
    """The start of the days that end with the last one."""
    if end is None:
        return StartOf("day", asked.ago(length - DAY))
    return Later("day", end, literal_column(str(-(length // DAY))))


ACTIVE = described(
    Question(
        "active",
        active_users,
        "Active users",
        "How many users are active today, in 7 and in 28 days.",
        "Users who were active today, in 7 and in 28 days. Stickiness is the share of them who come on an average day.",
        "No signed-in user was active.",
        "--feature calendar_search",
        (
            QuestionColumn("day", "Day", "day"),
            QuestionColumn("dau", "Today", "count"),
            QuestionColumn("wau", "7 days", "count"),
            QuestionColumn("mau", "28 days", "count"),
            QuestionColumn("stickiness", "Stickiness", "share"),
        ),
        compared=tuple(_LENGTHS),
        days_before=28,
        topic="Users",
    )
)
