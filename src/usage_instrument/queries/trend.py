"""How do the uses change from day to day?"""

from __future__ import annotations

import datetime as dt
from typing import Any, get_args, overload

from sqlalchemy import Select, Table, case, func, select

from usage_instrument.database.expressions import Ago, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.typing import Unit

from .arguments import checked_unit, default_tables, rows_of
from .comparison import Compare, changes, window_before
from .numbers import total, whole
from .questions import USERS, USES, Argument, Query, Question, QuestionColumn, choice, described
from .windows import MONTH, Moment, Window, calendar, window


@overload
def trend(
    feature: str | None = None,
    by: str = "day",
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: None = None,
    tables: Tables | None = None,
) -> Select[dt.datetime, int, int, int, bool]: ...
@overload
def trend(
    feature: str | None = None,
    by: str = "day",
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: Compare,
    tables: Tables | None = None,
) -> Query: ...
def trend(
    feature: str | None = None,
    by: str = "day",
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: Compare = None,
    tables: Tables | None = None,
) -> Query:
    """Uses and users by day, the first day first: `bucket_start` (UTC), `uses`, `unique_users`, `anonymous_uses`,
    `is_running`.

    Of one feature or of all, `by` hour (if the history has hours), day, week (from Monday) or month, with zeros for
    those without use. `since` is a timedelta (28 days: today and the 27 before, UTC), a date, a datetime or the text of
    one, or None for the whole history; so is `until`, None for now. The first and the last week or month are complete.
    One that `is_running` has not ended, so its numbers still grow. Raises ConfigurationError for a wrong argument.

    `compare="previous"` adds to uses and users the columns `_before` (of the same day, counted from the start, of the
    window of the same length before), `_change` and `_relative_change`.
    """
    history, unit = (tables or default_tables()).history, checked_unit(by)
    before = window_before(compare, since, until)
    found = _by_unit(history, window(since, until), unit, feature, "units")
    if before is None:
        return found.order_by(found.selected_columns["bucket_start"])
    now, then = (
        _numbered(each).subquery(name)
        for each, name in ((found, "now_"), (_by_unit(history, before, unit, feature, "units_before"), "before_"))
    )
    return (
        select(
            now.c.bucket_start,
            now.c.uses,
            *changes("uses", now.c.uses, whole(then.c.uses)),
            now.c.unique_users,
            *changes("unique_users", now.c.unique_users, whole(then.c.unique_users)),
            now.c.anonymous_uses,
            now.c.is_running,
        )
        .outerjoin(then, then.c.number == now.c.number)
        .order_by(now.c.bucket_start)
    )


def _numbered(found: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """The rows with their numbers from the first day on: months have different lengths, and so have other windows."""
    rows = found.subquery()
    return select(rows, func.row_number().over(order_by=rows.c.bucket_start).label("number"))


def _by_unit(
    history: Table, asked: Window, unit: Unit, feature: str | None, name: str
) -> Select[dt.datetime, int, int, int, bool]:
    rows = rows_of(history.c.feature_name, feature)
    start, end = asked.start(unit), asked.end(unit)
    rows += asked.contains(history.c.bucket_start, unit)
    if start is None:
        start = select(StartOf(unit, func.min(history.c.bucket_start))).where(*rows).scalar_subquery()
    units = calendar(unit, start, end, name)
    bucket, uses = StartOf(unit, history.c.bucket_start).label("bucket_start"), func.sum(history.c.usage_count)
    used = select(bucket, history.c.user_id, uses.label("uses")).where(*rows).group_by(bucket, history.c.user_id)
    by_user = used.subquery(f"used_in_{name}")
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
        compared=("uses", "unique_users"),
        own_arguments=(
            Argument("by", choice("STEP", *get_args(Unit)), "The length of a step: hour, day, week or month."),
        ),
    )
)
