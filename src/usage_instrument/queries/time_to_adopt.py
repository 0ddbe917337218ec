"""How long does it take users to begin with a feature?"""

from __future__ import annotations

from typing import Any, overload

from sqlalchemy import (
    ColumnElement,
    FromClause,
    ScalarSelect,
    Select,
    Subquery,
    and_,
    case,
    func,
    literal_column,
    select,
    union_all,
)

from usage_instrument.database.expressions import DaysBetween
from usage_instrument.database.tables import Tables

from .arguments import checked_feature, default_tables
from .comparison import Compare, changes, window_before
from .numbers import ZERO, share, total, whole
from .questions import NAME, SHARE, USERS, Argument, Query, Question, QuestionColumn, described
from .rollups import rolled_up
from .sources import began_before, host_column, host_key
from .windows import QUARTER, Moment, Window, window
from .zones import TimeZone

_QUANTILES = {"lower_quartile": 25, "median": 50, "upper_quartile": 75, "percentile_90": 90}
"""The columns of quantiles, in percent of the users who adopted."""


@overload
def time_to_adopt(
    feature: str,
    start: Any = None,
    *,
    since: Moment = QUARTER,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[int, int, int, float, int, int, int, int, int]: ...
@overload
def time_to_adopt(
    feature: str,
    start: Any = None,
    *,
    since: Moment = QUARTER,
    until: Moment = None,
    compare: Compare,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def time_to_adopt(
    feature: str,
    start: Any = None,
    *,
    since: Moment = QUARTER,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
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

    `compare="previous"` adds to `adopted`, `started` and `median` the columns `_before` (of the users who started in
    the window of the same length before), `_change` and `_relative_change` (0.1 is a tenth more, None if there was
    nothing before). Days on which only those adopted are rows too. They have had more time to adopt.
    """
    tables, before, name = (
        tables or default_tables(),
        window_before(compare, since, until, tz),
        checked_feature(feature),
    )
    counts, started = _counted(name, start, window(since, until, tz), tables)
    beside: dict[str, ColumnElement[Any]] = {}
    if before is None:
        curve = select(counts.c.days, counts.c.users, *_cumulative(counts)).subquery("curve")
    else:
        then, started_then = _counted(feature, start, before, tables, "_before")
        both = _both(counts, then)
        columns = (both.c.days, both.c.users, *_cumulative(both), *_cumulative(both, "_before"))
        curve = select(*columns).subquery("curve")
        beside = {
            "adopted": curve.c.adopted_before,
            "started": started_then,
            "median": _quantile(curve, _QUANTILES["median"], "_before"),
        }
    found = {
        "days": curve.c.days,
        "unique_users": curve.c.users,
        "adopted": curve.c.adopted,
        "share": share(curve.c.adopted, started),
        "started": started,
        **{quantile: _quantile(curve, percent) for quantile, percent in _QUANTILES.items()},
    }
    return select(
        *(
            each
            for label, number in found.items()
            for each in (number.label(label), *(changes(label, number, beside[label]) if label in beside else ()))
        )
    ).order_by(curve.c.days)


def _counted(
    feature: str, start: Any, asked: Window, tables: Tables, suffix: str = ""
) -> tuple[Subquery, ScalarSelect[int]]:
    """Of the users who started in a window: how many used the feature first after how many days, and how many there
    are; the suffix is that of the CTE."""
    # Who starts in the window with the first use of anything has used nothing before it.
    history = asked.history(tables, None) if start is not None else _from_since(tables, asked)
    user, first = history.c.user_id, func.min(history.c.bucket_start).label("first")
    is_its = and_(user.is_not(None), history.c.feature_name == feature)
    if start is None:
        is_its = and_(is_its, *Window(asked.since, None, asked.tz).contains(history.c.bucket_start))
    used = select(user, first).where(is_its).group_by(user).subquery("used")
    starts = _starts(start, tables, asked, suffix).cte(f"starts{suffix}")
    passed = DaysBetween(starts.c.start, used.c.first)
    days = case((passed > ZERO, passed), else_=ZERO).label("days")
    adopters = select(days).join_from(starts, used, used.c.user_id == starts.c.user_id).subquery("adopters")
    counts = select(adopters.c.days, func.count().label("users")).group_by(adopters.c.days).subquery("counts")
    return counts, select(func.count()).select_from(starts).scalar_subquery()


def _both(now: Subquery, before: Subquery) -> Subquery:
    """The days of both windows, with 0 for a window that does not have them: `days`, `users`, `users_before`."""
    ours = select(now.c.days, now.c.users, ZERO.label("users_before"))
    sides = union_all(ours, select(before.c.days, ZERO, before.c.users)).subquery("sides")
    users = (total(sides.c[name]).label(name) for name in ("users", "users_before"))
    return select(sides.c.days, *users).group_by(sides.c.days).subquery("both_windows")


def _cumulative(counts: Subquery, suffix: str = "") -> list[ColumnElement[int]]:
    """The users who had adopted by each day, and those who ever did."""
    users = counts.c[f"users{suffix}"]
    return [
        whole(func.sum(users).over(order_by=counts.c.days)).label(f"adopted{suffix}"),
        whole(func.sum(users).over()).label(f"everyone{suffix}"),
    ]


def _starts(start: Any, tables: Tables, asked: Window, suffix: str) -> Select[*tuple[Any, ...]]:
    """The users who started in the window, and when, in local time: `user_id`, `start`."""
    if start is None:
        rolled, begin = rolled_up(tables, asked, has_end=False, name=suffix), asked.start()
        history = _from_since(tables, asked) if rolled is None else rolled.by_user()
        user, first = history.c.user_id, func.min(history.c.bucket_start).label("start")
        rows = [user.is_not(None), *([] if begin is None else [history.c.bucket_start >= asked.bound(begin)])]
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


def _quantile(curve: Any, percent: int, suffix: str = "") -> ColumnElement[int]:
    """The fewest days by which so many of the adopters had adopted; None without adopters."""
    adopted, everyone = curve.c[f"adopted{suffix}"], func.nullif(curve.c[f"everyone{suffix}"], ZERO)
    has = adopted * literal_column("100") >= everyone * literal_column(str(percent))
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
        compared=("adopted", "started", "median"),
        own_arguments=(
            Argument("start", NAME, "A column of the users table, such as users.created_at.", is_of_command=True),
        ),
    )
)
