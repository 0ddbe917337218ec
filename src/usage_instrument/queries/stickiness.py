"""On how many days are users active?"""

from __future__ import annotations

from typing import overload

from sqlalchemy import Select, func, select

from usage_instrument.database.expressions import Day
from usage_instrument.database.tables import Tables

from .arguments import default_tables, rows_of
from .comparison import Compare, compared, window_before
from .numbers import share
from .questions import SHARE, USERS, Query, Question, QuestionColumn, described
from .rollups import rolled_up
from .windows import MONTH, Moment, Window, window
from .zones import TimeZone


@overload
def stickiness(
    feature: str | None = None,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[int, int, float]: ...
@overload
def stickiness(
    feature: str | None = None,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: Compare,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def stickiness(
    feature: str | None = None,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """How many users were active on how many days, one day first: `active_days`, `unique_users`, `share`.

    Of one feature or of all; `share` (0 to 1) is of the users with a use in the window. Numbers of days without a user
    have no row. The anonymous user is left out. `since` and `until` bound the days of the time zone `tz` (default:
    UTC): a timedelta (28 days: today and the 27 before), a date, a datetime, the text of one or None. Raises
    ConfigurationError for a wrong argument.

    `compare="previous"` adds `unique_users_before` (in the window of the same length before), `unique_users_change` and
    `unique_users_relative_change` (0.1 is a tenth more, None if there were none before). A number of days that only the
    window before has is a row too, whose `share` is None.
    """
    tables, before = tables or default_tables(), window_before(compare, since, until, tz)
    found = _counted(feature, window(since, until, tz), tables)
    if before is not None:
        found = compared(found, _counted(feature, before, tables, "_before"), ["active_days"], ["unique_users"])
    return found.order_by(found.selected_columns["active_days"])


def _counted(feature: str | None, asked: Window, tables: Tables, suffix: str = "") -> Query:
    active_days = _active_days(feature, asked, tables, suffix)
    by_user = active_days.subquery("by_user")
    users = func.count()
    shown = share(users, func.sum(users).over()).label("share")
    return select(by_user.c.active_days, users.label("unique_users"), shown).group_by(by_user.c.active_days)


def _active_days(feature: str | None, asked: Window, tables: Tables, suffix: str) -> Query:
    """The number of active days of each user."""
    rolled = rolled_up(tables, asked, name=suffix) if feature is None else None
    if rolled is not None:
        found = rolled.active_days()
        return select(func.sum(found.c.active_days).label("active_days")).group_by(found.c.user_id)
    history = asked.history(tables)
    rows = [
        *rows_of(history.c.feature_name, feature),
        *asked.contains(history.c.bucket_start, is_alone=feature is None),
    ]
    day = Day(history.c.bucket_start).label("day")
    visits = select(history.c.user_id, day).where(history.c.user_id.is_not(None), *rows).distinct().subquery("visits")
    return select(func.count().label("active_days")).select_from(visits).group_by(visits.c.user_id)


STICKINESS = described(
    Question(
        "stickiness",
        stickiness,
        "Stickiness",
        "How many users are active on how many days.",
        "Users by the number of days {period} on which they were active.",
        "No signed-in user was active {period}.",
        "--feature calendar_search --since 28d",
        (QuestionColumn("active_days", "Active days", "count"), USERS, SHARE),
        topic="Users",
        bar="share",
        compared=("unique_users",),
    )
)
