"""How long does it take users to begin with a feature?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, and_, case, func, literal_column, select

from usage_instrument.database.expressions import DaysBetween
from usage_instrument.database.tables import Tables

from .arguments import checked_feature, default_tables
from .numbers import ZERO, share, whole
from .questions import NAME, SHARE, USERS, Argument, Question, QuestionColumn, described
from .sources import began_before, host_column, host_key
from .windows import QUARTER, Moment, Window, window
from .zones import TimeZone

_QUANTILES = {"lower_quartile": 25, "median": 50, "upper_quartile": 75, "percentile_90": 90}
"""The columns of quantiles, in percent of the users who adopted."""


def time_to_adopt(
    feature: str,
    start: Any = None,
    *,
    since: Moment = QUARTER,
    until: Moment = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[int, int, int, float, int, int, int, int, int]:
    """The days from a user's start to the first use of a feature, the fewest first: `days`, `unique_users`, `adopted`,
    `share`, `started`, `lower_quartile`, `median`, `upper_quartile`, `percentile_90`.

    A row is a step of the cumulative curve: `unique_users` used the feature first so many `days` after their start (0:
    on the same day), `adopted` did so by then, and `share` (0 to 1) is `adopted` of all `started` users; that of the
    last row is the share who adopted. The quantiles, the same in each row, are of those who adopted: the fewest days by
    which a quarter, a half, three quarters and nine tenths of them had. Users who started lately may still adopt, so
    numbers of an earlier window are surer. No row: nobody has adopted.

    A user starts with the first use of anything in the history, or at `start=User.created_at`, a column of the host's
    users table or its name as in `users.created_at`, in UTC without a time zone; a first use before that is of day 0.
    The history answers, so a first use from before it began is unknown. The anonymous user is left out.

    `since` and `until` bound the start, in days of the time zone `tz` (default: UTC): a timedelta (84 days: twelve
    weeks), a date, a datetime, the text of one or None. Raises ConfigurationError for a wrong argument.
    """
    tables, asked = tables or default_tables(), window(since, until, tz)
    # Who starts in the window with the first use of anything has used nothing before it.
    history = asked.history(tables, None) if start is not None else _from_since(tables, asked)
    user, first = history.c.user_id, func.min(history.c.bucket_start).label("first")
    is_its = and_(user.is_not(None), history.c.feature_name == checked_feature(feature))
    if start is None:
        is_its = and_(is_its, *Window(asked.since, None, asked.tz).contains(history.c.bucket_start))
    used = select(user, first).where(is_its).group_by(user).subquery("used")
    starts = _starts(start, tables, asked).cte("starts")
    passed = DaysBetween(starts.c.start, used.c.first)
    days = case((passed > ZERO, passed), else_=ZERO).label("days")
    adopters = select(days).join_from(starts, used, used.c.user_id == starts.c.user_id).subquery("adopters")
    counts = select(adopters.c.days, func.count().label("users")).group_by(adopters.c.days).subquery("counts")
    curve = select(
        counts.c.days,
        counts.c.users,
        whole(func.sum(counts.c.users).over(order_by=counts.c.days)).label("adopted"),
        whole(func.sum(counts.c.users).over()).label("everyone"),
    ).subquery("curve")
    started = select(func.count()).select_from(starts).scalar_subquery()
    return select(
        curve.c.days,
        curve.c.users.label("unique_users"),
        curve.c.adopted,
        share(curve.c.adopted, started).label("share"),
        started.label("started"),
        *(_quantile(curve, percent).label(name) for name, percent in _QUANTILES.items()),
    ).order_by(curve.c.days)


def _starts(start: Any, tables: Tables, asked: Window) -> Select[*tuple[Any, ...]]:
    """The users who started in the window, and when, in local time: `user_id`, `start`."""
    if start is None:
        history, begin = _from_since(tables, asked), asked.start()
        user, first = history.c.user_id, func.min(history.c.bucket_start).label("start")
        rows = [user.is_not(None), *([] if begin is None else [history.c.bucket_start >= begin])]
        begun = select(user, first).where(*rows).group_by(user).subquery("begun")
        found = select(begun.c.user_id, begun.c.start).where(*asked.contains(begun.c.start))
        # The time before is not read, but looked up, once for each user.
        return found if begin is None else found.where(~began_before(tables, asked, begin, begun.c.user_id, None))
    column = host_column(start, tables, "start", "created_at")
    begun_at = asked.zone.local(column)
    user = host_key(tables.usage, column.table)
    return select(user.label("user_id"), begun_at.label("start")).where(column.is_not(None), *asked.contains(begun_at))


def _from_since(tables: Tables, asked: Window) -> FromClause:
    return Window(asked.since, None, asked.tz).history(tables)


def _quantile(curve: Any, percent: int) -> ColumnElement[int]:
    """The fewest days by which so many of the adopters had adopted."""
    has = curve.c.adopted * literal_column("100") >= curve.c.everyone * literal_column(str(percent))
    return func.min(case((has, curve.c.days))).over()


TIME_TO_ADOPT = described(
    Question(
        "time-to-adopt",
        time_to_adopt,
        "Time to adopt",
        "How many days pass until users begin with a feature.",
        "Users who started {period}, by the days from their start to their first use of this feature.",
        "Nobody who started {period} has used this feature.",
        "calendar_export --start users.created_at",
        (
            QuestionColumn("days", "Days", "count"),
            USERS,
            QuestionColumn("adopted", "So far", "count"),
            SHARE,
            QuestionColumn("started", "Started", "count", is_extra=True),
            QuestionColumn("lower_quartile", "A quarter by day", "count", is_extra=True),
            QuestionColumn("median", "Half by day", "count"),
            QuestionColumn("upper_quartile", "Three quarters by day", "count", is_extra=True),
            QuestionColumn("percentile_90", "Nine tenths by day", "count", is_extra=True),
        ),
        topic="Features",
        bar="share",
        own_arguments=(
            Argument("start", NAME, "A column of the users table, such as users.created_at.", is_of_command=True),
        ),
    )
)
