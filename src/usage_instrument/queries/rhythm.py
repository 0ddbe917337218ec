"""At which hours of the week are features used?"""

from __future__ import annotations

from typing import Any, overload

from sqlalchemy import CTE, ColumnElement, FromClause, Select, and_, func, literal_column, or_, select

from usage_instrument.database.expressions import HourOfDay, StartOf, Weekday
from usage_instrument.database.tables import Tables

from .arguments import default_tables, rows_of
from .comparison import Compare, changes, window_before
from .numbers import ONE, ZERO, share, whole
from .questions import SHARE, USERS, USES, Grid, Query, Question, QuestionColumn, described
from .robust import days_later
from .windows import MONTH, Moment, Window, window
from .zones import TimeZone


@overload
def rhythm(
    feature: str | None = None,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[int, int, int, int, float]: ...
@overload
def rhythm(
    feature: str | None = None,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: Compare,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def rhythm(
    feature: str | None = None,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """Uses and users by weekday and hour of the day, Monday first: `weekday` (1 is Monday, 7 is Sunday), `hour` (0 to
    23), `uses`, `unique_users`, `share`.

    Of one feature or of all; `share` (0 to 1) is of all uses of the window, the anonymous ones included. All 168 hours
    of the week have a row, unless the window has no hours at all: the history has them with the setting
    `history="hour"`. Uses from before the setting changed, and those that `prune` has summed up to days, are left out.
    So are uses of midnight (UTC) before the first other hour, in the window or the four weeks before it: a row of
    midnight may be a day.

    Weekdays and hours are those of `tz`, a time zone such as `Europe/Berlin` (default: UTC). `since` and `until` bound
    the days: a timedelta (28 days: today and the 27 before, four of each weekday), a date, a datetime, the text of one
    or None. Raises ConfigurationError for a wrong argument.

    `compare="previous"` adds to uses and users the columns `_before` (of the same weekday and hour in the window of the
    same length before), `_change` and `_relative_change` (0.1 is a tenth more, None if there was nothing before). Both
    windows have as many of each weekday only if they are whole weeks.
    """
    tables, before = tables or default_tables(), window_before(compare, since, until, tz)
    now = _counted(feature, window(since, until, tz), tables, "counts")
    then = None if before is None else _counted(feature, before, tables, "counts_before")
    weekdays, hours = _week()
    week: FromClause = weekdays.join(hours, weekdays.c.number.between(ONE, literal_column("7")))
    for counts in (now, then):
        if counts is not None:
            same = and_(counts.c.weekday == weekdays.c.number, counts.c.hour == hours.c.number)
            week = week.outerjoin(counts, same)
    uses, users = whole(now.c.uses), whole(now.c.users)
    all_uses = select(func.sum(now.c.uses)).scalar_subquery()
    return (
        select(
            weekdays.c.number.label("weekday"),
            hours.c.number.label("hour"),
            uses.label("uses"),
            *([] if then is None else changes("uses", uses, whole(then.c.uses))),
            users.label("unique_users"),
            *([] if then is None else changes("unique_users", users, whole(then.c.users))),
            share(now.c.uses, all_uses).label("share"),
        )
        .select_from(week)
        .where(or_(*(select(counts.c.hour).exists() for counts in (now, then) if counts is not None)))
        .order_by(weekdays.c.number, hours.c.number)
    )


def _counted(feature: str | None, asked: Window, tables: Tables, name: str) -> CTE:
    """The hours of the week with uses."""
    history = asked.history(tables)
    bucket = history.c.bucket_start
    rows = [*rows_of(history.c.feature_name, feature), *asked.contains(bucket)]
    key = (Weekday(bucket).label("weekday"), HourOfDay(bucket).label("hour"))
    uses, users = func.sum(history.c.usage_count), func.count(history.c.user_id.distinct())
    counts = select(*key, uses.label("uses"), users.label("users")).group_by(*key)
    return counts.where(*rows, bucket >= _first_hour(tables, asked)).cte(name)


def _first_hour(tables: Tables, asked: Window) -> ColumnElement[Any]:
    """The first hour, of the window or of the four weeks before it, that does not begin at midnight (UTC), and so is no
    day. A history of days has none; one that has hours by now has days before it."""
    bucket, start = tables.history.c.bucket_start, asked.start()
    is_near = [] if start is None else [bucket >= days_later(start, -MONTH.days)]
    first = select(func.min(bucket).label("first")).where(bucket != StartOf("day", bucket), *is_near)
    if asked.zone.is_utc:
        return first.scalar_subquery()
    return select(asked.zone.local(first.subquery("first_hours").c.first)).scalar_subquery()


def _week() -> tuple[FromClause, FromClause]:
    """The numbers 0 to 23, as weekdays and as hours."""
    number = select(ZERO.label("number")).cte("numbers", recursive=True)
    numbers = number.union_all(select(number.c.number + ONE).where(number.c.number < literal_column("23")))
    return numbers.alias("weekdays"), numbers.alias("hours")


RHYTHM = described(
    Question(
        "rhythm",
        rhythm,
        "Rhythm",
        "At which hours of the week features are used.",
        "Uses and users by weekday and hour {period}, in {tz}. 1 is Monday.",
        'There is no hour with a use {period}. The history has hours with the setting history="hour".',
        "--feature calendar_search --tz Europe/Berlin",
        (
            QuestionColumn("weekday", "Weekday", "weekday"),
            QuestionColumn("hour", "Hour", "count"),
            USES,
            USERS,
            SHARE,
        ),
        topic="Users",
        bar="share",
        compared=("uses", "unique_users"),
        drawing=Grid("weekday", "hour", "uses"),
    )
)
