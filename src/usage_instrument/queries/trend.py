"""How do the uses change from day to day?"""

from __future__ import annotations

import datetime as dt
from typing import get_args

from sqlalchemy import Select, case, func, select

from usage_instrument.database.expressions import Ago, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.typing import Unit

from .arguments import checked_unit, default_tables, rows_of
from .numbers import total
from .questions import USERS, USES, Argument, Question, QuestionColumn, choice, described
from .windows import MONTH, Moment, calendar, window


def trend(
    feature: str | None = None,
    by: str = "day",
    *,
    since: Moment = MONTH,
    until: Moment = None,
    tables: Tables | None = None,
) -> Select[dt.datetime, int, int, int, bool]:
    """Uses and users by day, the first day first: `bucket_start` (UTC), `uses`, `unique_users`, `anonymous_uses`,
    `is_running`.

    Of one feature or of all, `by` hour (if the history has hours), day, week (from Monday) or month, with zeros for
    those without use. `since` is a timedelta (28 days: today and the 27 before, UTC), a date, a datetime or the text of
    one, or None for the whole history; so is `until`, None for now. The first and the last week or month are complete.
    One that `is_running` has not ended, so its numbers still grow. Raises ConfigurationError for a wrong argument.
    """
    history, unit = (tables or default_tables()).history, checked_unit(by)
    rows = rows_of(history.c.feature_name, feature)
    asked = window(since, until)
    start, end = asked.start(unit), asked.end(unit)
    rows += asked.contains(history.c.bucket_start, unit)
    if start is None:
        start = select(StartOf(unit, func.min(history.c.bucket_start))).where(*rows).scalar_subquery()
    units = calendar(unit, start, end)
    bucket, uses = StartOf(unit, history.c.bucket_start).label("bucket_start"), func.sum(history.c.usage_count)
    used = select(bucket, history.c.user_id, uses.label("uses")).where(*rows).group_by(bucket, history.c.user_id)
    by_user = used.subquery("used")
    anonymous = case((by_user.c.user_id.is_(None), by_user.c.uses))
    return (
        select(
            units.c.bucket_start,
            total(by_user.c.uses).label("uses"),
            func.count(by_user.c.user_id).label("unique_users"),
            total(anonymous).label("anonymous_uses"),
            (units.c.bucket_start == StartOf(unit, Ago())).label("is_running"),
        )
        .select_from(units)
        .outerjoin(by_user, by_user.c.bucket_start == units.c.bucket_start)
        .group_by(units.c.bucket_start)
        .order_by(units.c.bucket_start)
    )


TREND = described(
    Question(
        "trend",
        trend,
        "Trend",
        "Uses and users over time.",
        "Uses and users by {by} {period}, in UTC. The last {by} is not over.",
        "Nothing was used {period}.",
        "--feature calendar_search --by week --since 90d",
        (
            QuestionColumn("bucket_start", "From", "day"),
            USES,
            USERS,
            QuestionColumn("anonymous_uses", "Anonymous uses", "count"),
            QuestionColumn("is_running", "So far", "running"),
        ),
        own_arguments=(
            Argument("by", choice("STEP", *get_args(Unit)), "The length of a step: hour, day, week or month."),
        ),
    )
)
