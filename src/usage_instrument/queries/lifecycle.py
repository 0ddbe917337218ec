"""How many users are new, come back, or stay away?"""

from __future__ import annotations

import datetime as dt
from typing import overload

from sqlalchemy import ColumnElement, Select, case, func, literal_column, or_, select, union_all

from usage_instrument.database.expressions import Later, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.typing import Unit

from .arguments import checked_step, default_tables, rows_of
from .comparison import Compare, compared_in_order, window_before
from .numbers import ONE, ZERO, total
from .questions import BY_STEP, Bars, Query, Question, QuestionColumn, described, if_by_month
from .rollups import rolled_up
from .sources import began_before
from .windows import QUARTER, Moment, Window, calendar, window
from .zones import TimeZone

_KINDS = ("new_users", "returning_users", "resurrected_users", "dormant_users")
_LONGEST = 31
"""Days of the longest step."""


@overload
def lifecycle(
    feature: str | None = None,
    by: str = "week",
    *,
    since: Moment = QUARTER,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[dt.datetime, int, int, int, int, bool]: ...
@overload
def lifecycle(
    feature: str | None = None,
    by: str = "week",
    *,
    since: Moment = QUARTER,
    until: Moment = None,
    compare: Compare,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def lifecycle(
    feature: str | None = None,
    by: str = "week",
    *,
    since: Moment = QUARTER,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """Users by what they did before, the first week first: `bucket_start`, `new_users`, `returning_users`,
    `resurrected_users`, `dormant_users`, `is_running`.

    Of one feature or of all, `by` day, week (from Monday) or month. New users are active for the first time in the
    history, returning ones were active in the week before too, resurrected ones before that only. Dormant ones were
    active in the week before and are not in this one, so their number falls while a week `is_running`. The anonymous
    user is left out. Days, weeks and months are those of the time zone `tz` (default: UTC). `since` and `until` are a
    timedelta (84 days: twelve weeks), a date, a datetime, the text of one or None; the first and the last week are
    complete. Raises ConfigurationError for a wrong argument.

    `compare="previous"` adds to each number of users the columns `_before` (of the same week, counted from the start,
    of the window of the same length before), `_change` and `_relative_change` (0.1 is a tenth more, None if there were
    none before). In both windows, a user is new in the week of the first use in the history.
    """
    tables, unit = tables or default_tables(), checked_step(by)
    before = window_before(compare, since, until, tz)
    found = _by_unit(feature, unit, window(since, until, tz), tables)
    if before is not None:
        then = _by_unit(feature, unit, before, tables, "_before")
        found = compared_in_order(found, then, "bucket_start", _KINDS)
    return found.order_by(found.selected_columns["bucket_start"])


def _by_unit(feature: str | None, unit: Unit, asked: Window, tables: Tables, suffix: str = "") -> Query:
    """The numbers of users by day, week or month, without an order; the suffix is that of the CTEs."""
    start, end = asked.start(unit), asked.end(unit)
    before_it = None if start is None else Later(unit, start, literal_column("-1"))
    rolled = rolled_up(tables, asked, unit, start=before_it, name=suffix) if feature is None and unit != "day" else None
    history = asked.history(tables, _LONGEST, unit) if rolled is None else rolled.by_user()
    bucket = history.c.bucket_start
    rows: list[ColumnElement[bool]] = [history.c.user_id.is_not(None)]
    rows += [] if rolled is not None else rows_of(history.c.feature_name, feature)
    rows += Window(None, asked.until, asked.tz).contains(bucket, unit)
    rows += [] if before_it is None else [bucket >= before_it]
    unit_start = StartOf(unit, bucket).label("bucket_start")
    active = select(history.c.user_id, unit_start).where(*rows).distinct().subquery("active")
    time = active.c.bucket_start
    before, after = (
        function(time, type_=time.type).over(partition_by=active.c.user_id, order_by=time)
        for function in (func.lag, func.lead)
    )
    visits = select(active.c.user_id, time, before.label("before"), after.label("after")).cte(f"visits{suffix}")
    last, following = (Later(unit, visits.c.bucket_start, literal_column(number)) for number in ("-1", "1"))
    is_first, came_before = visits.c.before.is_(None), visits.c.before == last
    returning, others = (func.count(case((is_kind, ONE))) for is_kind in (came_before, or_(is_first, ~came_before)))
    numbers = (returning.label("returning_users"), others.label("others"), ZERO.label("dormant_users"))
    here = select(visits.c.bucket_start, ZERO.label("new_users"), *numbers).group_by(visits.c.bucket_start)
    new = select(visits.c.bucket_start, func.count(), ZERO, ZERO, ZERO).where(is_first).group_by(visits.c.bucket_start)
    if before_it is not None:  # the time before is not read, but looked up, once for each user
        new = new.where(~began_before(tables, asked, before_it, visits.c.user_id, feature))
    gone = select(following.label("next_start"), ZERO, ZERO, ZERO, func.count()).group_by(following)
    gone = gone.where(or_(visits.c.after.is_(None), visits.c.after > following))
    sides = union_all(here, new, gone).subquery("sides")
    if start is None:
        start = select(func.min(visits.c.bucket_start)).scalar_subquery()
    units = calendar(unit, start, end, f"units{suffix}", asked.zone)
    return (
        select(
            units.c.bucket_start,
            total(sides.c.new_users).label("new_users"),
            total(sides.c.returning_users).label("returning_users"),
            total(sides.c.others - sides.c.new_users).label("resurrected_users"),
            total(sides.c.dormant_users).label("dormant_users"),
            (units.c.bucket_start == StartOf(unit, asked.now())).label("is_running"),
        )
        .select_from(units.outerjoin(sides, sides.c.bucket_start == units.c.bucket_start))
        .group_by(units.c.bucket_start)
    )


LIFECYCLE = described(
    Question(
        "lifecycle",
        lifecycle,
        "Lifecycle",
        "New, returning, resurrected and dormant users over time.",
        "Users {period} who are new, were active in the {by} before too, only earlier, or in the {by} before only.",
        "No signed-in user was active {period}.",
        "--by month --since 400d",
        (
            QuestionColumn("bucket_start", "From", "day"),
            *(QuestionColumn(kind, kind.removesuffix("_users").capitalize(), "count") for kind in _KINDS),
            QuestionColumn("is_running", "So far", "running"),
        ),
        topic="Users",
        drawing=Bars("bucket_start", _KINDS[:3], _KINDS[3:]),
        compared=_KINDS,
        own_arguments=(BY_STEP,),
        days_before=_LONGEST,
        takes_months=if_by_month,
    )
)
