"""How many users are active by day, week and month, and how often do they return?"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Select, case, func, literal_column, select

from usage_instrument.database.expressions import Ago, Day, StartOf
from usage_instrument.database.tables import Tables

from .arguments import default_tables, rows_of
from .numbers import share
from .periods import DAY, MONTH, WEEK, buckets_since, calendar, first_start
from .questions import Question, QuestionColumn, described


def active_users(feature: str | None = None, *, tables: Tables | None = None) -> Select[dt.date, int, int, int, float]:
    """The active users as of today, of one feature or of all, in one row: `day`, `dau`, `wau`, `mau`, `stickiness`.

    `day` is today (UTC); the users are those of today, of 7 days and of 28 days, today included. `stickiness`
    (0 to 1) is the mean of the daily numbers over `mau`: the share of days on which a user is active, of 28 days, or of
    those since the history began. The anonymous user does not count. Raises ConfigurationError for an invalid feature
    name.
    """
    history = (tables or default_tables()).history
    rows = [*rows_of(history.c.feature_name, feature), *buckets_since(history.c.bucket_start, MONTH)]
    day = Day(history.c.bucket_start).label("day")
    visits = select(history.c.user_id, day).where(history.c.user_id.is_not(None), *rows).distinct().subquery("visits")
    latest = func.max(visits.c.day).label("latest")
    users = select(latest, func.count().label("days")).group_by(visits.c.user_id).subquery("users")
    today, week = Day(first_start(DAY)), Day(first_start(WEEK))
    monthly = func.count(users.c.latest)
    start = first_start(MONTH)
    is_older = select(history.c.bucket_start).where(history.c.bucket_start < start).exists()
    first = select(StartOf("day", func.min(history.c.bucket_start))).where(history.c.bucket_start >= start)
    since_first = select(func.count()).select_from(calendar("day", first.scalar_subquery())).scalar_subquery()
    days = case((is_older, literal_column(str(MONTH // DAY))), else_=since_first)
    return select(
        Day(Ago()).label("day"),
        func.count(case((users.c.latest >= today, users.c.latest))).label("dau"),
        func.count(case((users.c.latest >= week, users.c.latest))).label("wau"),
        monthly.label("mau"),
        share(func.sum(users.c.days), monthly * func.max(days)).label("stickiness"),
    )


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
    )
)
