"""On how many days are users active?"""

from __future__ import annotations

from sqlalchemy import Select, func, select

from usage_instrument.database.expressions import Day
from usage_instrument.database.tables import Tables

from .arguments import default_tables, rows_of
from .numbers import share
from .questions import SHARE, USERS, Question, QuestionColumn, described
from .windows import MONTH, Moment, window
from .zones import TimeZone


def stickiness(
    feature: str | None = None,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[int, int, float]:
    """How many users were active on how many days, one day first: `active_days`, `unique_users`, `share`.

    Of one feature or of all; `share` (0 to 1) is of the users with a use in the window. Numbers of days without a user
    have no row. The anonymous user is left out. `since` and `until` bound the days of the time zone `tz` (default:
    UTC): a timedelta (28 days: today and the 27 before), a date, a datetime, the text of one or None. Raises
    ConfigurationError for a wrong argument.
    """
    asked = window(since, until, tz)
    history = asked.history(tables or default_tables())
    rows = [*rows_of(history.c.feature_name, feature), *asked.contains(history.c.bucket_start)]
    day = Day(history.c.bucket_start).label("day")
    visits = select(history.c.user_id, day).where(history.c.user_id.is_not(None), *rows).distinct().subquery("visits")
    by_user = (
        select(func.count().label("active_days")).select_from(visits).group_by(visits.c.user_id).subquery("by_user")
    )
    users = func.count()
    return (
        select(by_user.c.active_days, users.label("unique_users"), share(users, func.sum(users).over()).label("share"))
        .group_by(by_user.c.active_days)
        .order_by(by_user.c.active_days)
    )


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
    )
)
