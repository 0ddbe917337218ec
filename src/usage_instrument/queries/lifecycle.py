"""How many users are new, come back, or stay away?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, TypeAlias, overload

from sqlalchemy import ColumnElement, FromClause, Select, case, func, literal_column, select, union_all

from usage_instrument.database.alternatives import by_bits
from usage_instrument.database.expressions import Later, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.typing import Unit

from .arguments import checked_step, default_tables, rows_of
from .comparison import Compare, compared_in_order, window_before
from .numbers import ONE, ZERO, total
from .questions import BY_STEP, Bars, Query, Question, QuestionColumn, described, if_by_month
from .rollups import rolled_up
from .sources import began_before
from .steps import Steps, are_few
from .windows import QUARTER, Moment, Window, calendar, window
from .zones import TimeZone

_KINDS = ("new_users", "returning_users", "resurrected_users", "dormant_users")
_LONGEST = 31
"""Days of the longest step."""
IsNew: TypeAlias = Callable[[ColumnElement[Any]], list[ColumnElement[bool]]]
"""The conditions that a user has done nothing before."""


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
    rows: list[ColumnElement[bool]] = [history.c.user_id.is_not(None)]
    rows += [] if rolled is not None else rows_of(history.c.feature_name, feature)
    rows += Window(None, asked.until, asked.tz).contains(history.c.bucket_start, unit)
    if before_it is not None:
        rows.append(history.c.bucket_start >= (before_it if feature is not None else asked.bound(before_it)))

    def is_new(user: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        # The time before is not read, but looked up, once for each user.
        return [] if before_it is None else [~began_before(tables, asked, before_it, user, feature)]

    earliest = asked.history(tables, None).c.bucket_start
    first = select(StartOf(unit, func.min(earliest))).scalar_subquery() if before_it is None else before_it
    units = calendar(unit, first, end, f"units{suffix}", asked.zone)
    found: FromClause = _by_visit(history, rows, is_new, unit, suffix).subquery("found")
    if are_few(asked, unit):
        found = by_bits(_by_bits(history, rows, is_new, Steps(units, unit), suffix), found)
    counts = select(found).cte(f"counts{suffix}")
    if start is None:
        start = select(func.min(counts.c.bucket_start)).scalar_subquery()
    names = ("active_users", "returning_users", "new_users")
    active, returning, new = (total(counts.c[name]).label(name) for name in names)
    before = func.coalesce(func.lag(active.element).over(order_by=units.c.bucket_start), ZERO).label("before")
    same = counts.c.bucket_start == units.c.bucket_start
    by_unit = select(units.c.bucket_start, active, returning, new, before).select_from(units.outerjoin(counts, same))
    numbers = by_unit.group_by(units.c.bucket_start).subquery(f"numbers{suffix}")
    return select(
        numbers.c.bucket_start,
        numbers.c.new_users,
        numbers.c.returning_users,
        (numbers.c.active_users - numbers.c.returning_users - numbers.c.new_users).label("resurrected_users"),
        (numbers.c.before - numbers.c.returning_users).label("dormant_users"),
        (numbers.c.bucket_start == StartOf(unit, asked.now())).label("is_running"),
    ).where(numbers.c.bucket_start >= start)


def _by_bits(history: FromClause, rows: list[Any], is_new: IsNew, steps: Steps, suffix: str) -> Any:
    """`bucket_start`, `active_users`, `returning_users`, `new_users`, in rows to add up."""
    bits = steps.bits(history.c.bucket_start).label("bits")
    by_user = select(history.c.user_id, bits).where(*rows).group_by(history.c.user_id).cte(f"by_user{suffix}")
    runs, unit = steps.counted(by_user, by_user.c.bits), steps.units.c.bucket_start
    numbers = (runs.active.label("active_users"), runs.returning.label("returning_users"), ZERO.label("new_users"))
    here = select(unit, *numbers).select_from(runs.units).group_by(unit)
    new = select(unit, ZERO, ZERO, func.count()).join_from(by_user, steps.units, steps.is_first(by_user.c.bits))
    return union_all(here, new.where(*is_new(by_user.c.user_id)).group_by(unit))


def _by_visit(history: FromClause, rows: list[Any], is_new: IsNew, unit: Unit, suffix: str) -> Any:
    """The same, from the distinct users and units."""
    unit_start = StartOf(unit, history.c.bucket_start).label("bucket_start")
    active = select(history.c.user_id, unit_start).where(*rows).distinct().subquery("active")
    user, time = active.c.user_id, active.c.bucket_start
    before = func.lag(time, type_=time.type).over(partition_by=user, order_by=time).label("before")
    visits = select(user, time, before).cte(f"visits{suffix}")
    time, last = visits.c.bucket_start, Later(unit, visits.c.bucket_start, literal_column("-1"))
    returning = func.count(case((visits.c.before == last, ONE))).label("returning_users")
    here = select(time, func.count().label("active_users"), returning, ZERO.label("new_users")).group_by(time)
    new = select(time, ZERO, ZERO, func.count()).where(visits.c.before.is_(None), *is_new(visits.c.user_id))
    return union_all(here, new.group_by(time))


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
