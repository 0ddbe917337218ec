"""Which users use the application, or one feature, most?"""

from __future__ import annotations

import datetime as dt
from typing import Any, overload

from sqlalchemy import ColumnElement, FromClause, Select, func, select

from usage_instrument.database.tables import Tables
from usage_instrument.typing import UserId

from .arguments import checked_limit, default_tables, rows_of
from .comparison import Compare, changes, window_before
from .numbers import share, total
from .questions import SHARE, USES, Query, Question, QuestionColumn, always, described, if_bounded
from .rollups import rolled_up
from .windows import Moment, Window, counted_in, window
from .zones import TimeZone


@overload
def power_users(
    feature: str | None = None,
    limit: int = 10,
    *,
    since: Moment = None,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[UserId, int, float, int, dt.datetime]: ...
@overload
def power_users(
    feature: str | None = None,
    limit: int = 10,
    *,
    since: Moment,
    until: Moment = None,
    compare: Compare,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def power_users(
    feature: str | None = None,
    limit: int = 10,
    *,
    since: Moment = None,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """The users with the most uses, of one feature or of all: `user_id`, `uses`, `share`, `features`, `last_used`.

    `share` (0 to 1) is of all uses, the anonymous ones included; `features` is the number of features that the user
    used. `last_used` is of all time. The anonymous user is left out. `since` and `until` bound the days of the time
    zone `tz` (default: UTC), which the history answers: a timedelta (7 days: today and the six before), a date, a
    datetime or the text of one; without both, it is all time. Raises ConfigurationError for a wrong argument.

    `compare="previous"` adds `uses_before` (in the window of the same length before), `uses_change` and
    `uses_relative_change` (0.1 is a tenth more, None if there was nothing before).
    """
    tables, before = tables or default_tables(), window_before(compare, since, until, tz)
    asked = window(since, until, tz)
    source, period = counted_in(tables, asked, is_alone=feature is None)
    rows = [*rows_of(source.c.feature_name, feature), *period]
    uses = total(source.c.usage_count).label("uses")
    # Grouped by user alone: by user and feature there are many times more groups, of which ten users need a few.
    by_user = select(source.c.user_id, uses).where(*rows).group_by(source.c.user_id)
    rolled = None if asked.is_all_time or feature is not None else rolled_up(tables, asked)
    if rolled is not None:
        history = rolled.by_user()
        uses = total(history.c.usage_count).label("uses")
        by_user = select(history.c.user_id, uses).group_by(history.c.user_id)
    used = by_user.cte("used")
    everything = select(func.sum(used.c.uses)).scalar_subquery()
    order = (used.c.uses.desc(), used.c.user_id)
    top = select(used).where(used.c.user_id.is_not(None)).order_by(*order).limit(checked_limit(limit)).subquery("top")
    features = select(func.count(source.c.feature_name.distinct())).where(source.c.user_id == top.c.user_id, *rows)
    usage = tables.usage
    last = select(func.max(usage.c.last_used)).where(usage.c.user_id == top.c.user_id)
    last_used = last.where(*rows_of(usage.c.feature_name, feature))
    columns = (
        top.c.user_id,
        top.c.uses,
        *([] if before is None else _changes(tables, before, feature, top)),
        share(top.c.uses, everything).label("share"),
        features.scalar_subquery().label("features"),
        last_used.scalar_subquery().label("last_used"),
    )
    return select(*columns).order_by(top.c.uses.desc(), top.c.user_id)


def _changes(tables: Tables, before: Window, feature: str | None, top: FromClause) -> list[ColumnElement[Any]]:
    history = before.history(tables)
    rows = [*rows_of(history.c.feature_name, feature), *before.contains(history.c.bucket_start)]
    uses = select(total(history.c.usage_count)).where(history.c.user_id == top.c.user_id, *rows)
    return changes("uses", top.c.uses, uses.scalar_subquery())


POWER_USERS = described(
    Question(
        "power-users",
        power_users,
        "Power users",
        "The users with the most uses.",
        "Who had the most uses {period}, and their share of all uses.",
        "No signed-in user was active {period}.",
        "--feature calendar_export --since 28d",
        (
            QuestionColumn("user_id", "User", "user"),
            USES,
            SHARE,
            QuestionColumn("features", "Features", "count", is_extra=True),
            QuestionColumn("last_used", "Last used", "time", is_extra=True),
        ),
        topic="Users",
        bar="uses",
        compared=("uses",),
        needs_hours=if_bounded,
        takes_months=always,
    )
)
