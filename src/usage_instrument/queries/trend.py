"""How do the uses change from day to day?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, get_args, overload

from sqlalchemy import ColumnElement, FromClause, Select, case, func, literal_column, select, union_all

from usage_instrument.database.alternatives import per_row
from usage_instrument.database.expressions import Later, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.typing import Unit

from .arguments import checked_unit, default_tables, rows_of
from .comparison import Compare, compared_in_order, window_before
from .numbers import ONE, ZERO, whole
from .questions import USERS, USES, Argument, Query, Question, QuestionColumn, choice, described, if_by_month
from .rollups import RolledUp, rolled_up
from .steps import Steps, are_few
from .windows import MONTH, Moment, Window, calendar, window
from .zones import UTC, TimeZone

Inside: TypeAlias = Callable[[ColumnElement[Any]], list[ColumnElement[bool]]]
"""The conditions that a unit is in a window."""


@overload
def trend(
    feature: str | None = None,
    by: str = "day",
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
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
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def trend(
    feature: str | None = None,
    by: str = "day",
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """Uses and users by day, the first day first: `bucket_start`, `uses`, `unique_users`, `anonymous_uses`,
    `is_running`.

    Days, weeks and months are those of the time zone `tz` (default: UTC); the day on which its clock goes forward has
    23 hours, and the one on which it goes back 25. Of one feature or of all, `by` hour (if the history has hours), day,
    week (from Monday) or month, with zeros for those without use. `since` is a timedelta (28 days: today and the 27
    before), a date, a datetime or the text of one, or None for the whole history; so is `until`, None for now. The
    first and the last week or month are complete. One that `is_running` has not ended, so its numbers still grow.
    Raises ConfigurationError for a wrong argument.

    `compare="previous"` adds to uses and users the columns `_before` (of the same day, counted from the start, of the
    window of the same length before), `_change` and `_relative_change`.
    """
    tables, unit = tables or default_tables(), checked_unit(by)
    before = window_before(compare, since, until, tz)
    asked = window(since, until, tz)
    found: Query = _by_unit(tables, asked, unit, feature, "units")
    if before is not None:
        then = _by_unit(tables, before, unit, feature, "units_before")
        found = compared_in_order(found, then, "bucket_start", ["uses", "unique_users"])
    start, *others = found.selected_columns
    if unit == "hour" and not asked.zone.is_utc:
        found = found.with_only_columns(asked.zone.local(start).label("bucket_start"), *others)
    return found.order_by(start)


def _by_unit(
    tables: Tables, asked: Window, unit: Unit, feature: str | None, name: str
) -> Select[dt.datetime, int, int, int, bool]:
    history, zone = asked.history(tables, by=unit), asked.zone
    start, end = asked.start(unit), asked.end(unit)
    inside: Inside = partial(asked.contains, by=unit)
    if unit == "hour" and not zone.is_utc:
        history, zone = tables.history, UTC
        start, end, inside = _hours(asked)
    bucket, its = history.c.bucket_start, rows_of(history.c.feature_name, feature)
    rows = [*its, *inside(bucket)]
    if start is None:
        start = select(StartOf(unit, func.min(bucket))).where(*rows).scalar_subquery()
    units = calendar(unit, start, end, name, zone)
    unit_start = StartOf(unit, bucket).label("bucket_start")
    at_once = _totals(_by_user(history, [unit_start]).where(*rows), name)
    used: FromClause = at_once.subquery(f"totals_of_{name}")
    rolled = rolled_up(tables, asked, unit, name=f"_of_{name}") if unit == "day" or feature is None else None
    if rolled is not None and unit == "day":
        rest = rolled.rest(*_by_user(history, [unit_start]).selected_columns).where(*its)
        rest = rest.group_by(unit_start, history.c.user_id)
        used = union_all(rolled.by_day(feature), _totals(rest, name)).subquery(f"totals_of_{name}")
    elif rolled is not None and are_few(asked, unit):
        used = _by_bits(rolled, Steps(units, unit), name).subquery(f"totals_of_{name}")
    elif rolled is not None:
        by_week = rolled.by_user()
        unit_start = StartOf(unit, by_week.c.bucket_start).label("bucket_start")
        used = _totals(_by_user(by_week, [unit_start]), name).subquery(f"totals_of_{name}")
    elif zone.is_utc:  # the users of one day fit into memory, those of each of many days do not
        is_its = (bucket >= units.c.bucket_start, bucket < Later(unit, units.c.bucket_start, ONE))
        of_unit = _by_user(history, []).where(*its, *is_its).correlate(units).subquery(f"used_in_{name}")
        used = per_row(select(units.c.bucket_start, *_added_up(of_unit)), at_once, f"totals_of_{name}")
    return (
        select(
            units.c.bucket_start,
            whole(used.c.uses).label("uses"),
            whole(used.c.unique_users).label("unique_users"),
            whole(used.c.anonymous_uses).label("anonymous_uses"),
            (units.c.bucket_start == StartOf(unit, zone.now())).label("is_running"),
        )
        .select_from(units)
        .outerjoin(used, used.c.bucket_start == units.c.bucket_start)
        .where(*(inside(units.c.bucket_start) if zone is not asked.zone else []))
    )


def _by_bits(rolled: RolledUp, steps: Steps, name: str) -> Select[*tuple[Any, ...]]:
    """The uses from the sums by day, and the users by their bits: no row in memory for each user and unit."""
    history, by_week = rolled.history, rolled.by_user()
    days = rolled.by_day(None).subquery("days")
    rest = rolled.rest(history.c.user_id, history.c.bucket_start, history.c.usage_count.label("uses")).subquery("rest")
    bits = steps.bits(by_week.c.bucket_start).label("bits")
    signed_in = select(by_week.c.user_id, bits).where(by_week.c.user_id.is_not(None))
    by_user = signed_in.group_by(by_week.c.user_id).cte(f"by_user_of_{name}")
    runs, unit_start = steps.counted(by_user, by_user.c.bits), steps.units.c.bucket_start
    sides = union_all(
        _uses(days, steps.unit, days.c.anonymous_uses),
        _uses(rest, steps.unit, case((rest.c.user_id.is_(None), rest.c.uses))),
        select(unit_start, ZERO, ZERO, runs.active).select_from(runs.units).group_by(unit_start),
    ).subquery("sides")
    sums = (func.sum(sides.c[number]).label(number) for number in ("uses", "anonymous_uses", "unique_users"))
    return select(sides.c.bucket_start, *sums).group_by(sides.c.bucket_start)


def _uses(rows: FromClause, unit: Unit, anonymous: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
    unit_start = StartOf(unit, rows.c.bucket_start).label("bucket_start")
    sums = (func.sum(rows.c.uses).label("uses"), func.sum(anonymous).label("anonymous_uses"))
    return select(unit_start, *sums, ZERO.label("unique_users")).group_by(unit_start)


def _by_user(history: FromClause, key: list[ColumnElement[Any]]) -> Select[*tuple[Any, ...]]:
    """The uses of each user by a key, whose order SQLite keeps for the groups around it."""
    uses = func.sum(history.c.usage_count).label("uses")
    return select(*key, history.c.user_id, uses).group_by(*key, history.c.user_id)


def _totals(by_user: Select[*tuple[Any, ...]], name: str) -> Select[*tuple[Any, ...]]:
    rows = by_user.subquery(f"used_in_{name}")
    return select(rows.c.bucket_start, *_added_up(rows)).group_by(rows.c.bucket_start)


def _added_up(by_user: FromClause) -> list[ColumnElement[Any]]:
    return [
        func.sum(by_user.c.uses).label("uses"),
        func.count(by_user.c.user_id).label("unique_users"),
        func.sum(case((by_user.c.user_id.is_(None), by_user.c.uses))).label("anonymous_uses"),
    ]


def _hours(asked: Window) -> tuple[ColumnElement[Any] | None, ColumnElement[Any] | None, Inside]:
    """Bounds (UTC) around the hours of a window in a time zone, and the conditions that an hour is in it.

    The hours are those of UTC, because two in autumn have the same local time: that day has 25, one in spring has 23.
    """
    since, until, timedelta = asked.since, asked.until, dt.timedelta
    passed = Window(since if isinstance(since, timedelta) else None, until if isinstance(until, timedelta) else None)
    dated = Window(
        None if isinstance(since, timedelta) else since, None if isinstance(until, timedelta) else until, asked.tz
    )
    start, end = passed.start("hour"), passed.end("hour")
    first, after = dated.start("hour"), dated.end("hour")
    start = Later("day", first, literal_column("-1")) if first is not None else start
    end = Later("day", after, ONE) if after is not None else end

    def inside(hour: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        near = [] if start is None else [hour >= start]
        near += [] if end is None else [hour < end]
        return [*near, *dated.contains(asked.zone.local(hour), "hour")]

    return start, end, inside


TREND = described(
    Question(
        "trend",
        trend,
        "Trend",
        "Uses and users over time.",
        "Uses and users by {by} {period}, in {tz}. The last {by} is not over.",
        "Nothing was used {period}.",
        "--feature calendar_search --by week --since 90d",
        (
            QuestionColumn("bucket_start", "From", "day"),
            USES,
            USERS,
            QuestionColumn("anonymous_uses", "Anonymous uses", "count"),
            QuestionColumn("is_running", "So far", "running"),
        ),
        topic="Features",
        compared=("uses", "unique_users"),
        own_arguments=(
            Argument("by", choice("STEP", *get_args(Unit)), "The length of a step: hour, day, week or month."),
        ),
        takes_months=if_by_month,
    )
)
