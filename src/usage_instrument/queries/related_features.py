"""Which other features do the users of a feature use?"""

from __future__ import annotations

from sqlalchemy import Select, func, select

from usage_instrument.database.expressions import Real
from usage_instrument.database.tables import Tables

from .arguments import checked_feature, checked_limit, default_tables
from .numbers import share
from .questions import FEATURE, Question, QuestionColumn, always, described, if_bounded
from .sources import once, seen, users_and_features
from .windows import Moment, window
from .zones import TimeZone


def related_features(
    feature: str,
    limit: int = 10,
    *,
    since: Moment = None,
    until: Moment = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[str, int, float, float, float]:
    """The features related to a feature, the closest first: `feature_name`, `unique_users`, `support`, `confidence`,
    `lift`.

    `unique_users` use both; `support` (0 to 1) is their share of all users that used anything, `confidence` (0 to 1)
    their share of this feature's users. `lift` is how many times more likely its users are to use the other one than
    all users are: 1 means independent. The closest features have the most common users above the number that
    independence predicts, which favours neither popular nor rare ones. `since` and `until` bound the days of the time
    zone `tz` (default: UTC), which the history answers, or without `until` the last uses: a timedelta (7 days: today
    and the six before), a date, a datetime or the text of one; without both, it is all time. Raises ConfigurationError
    for a wrong argument.
    """
    tables = tables or default_tables()
    usage = users_and_features(tables, window(since, until, tz))
    name = checked_feature(feature)
    users = select(usage.c.user_id).where(usage.c.feature_name == name, usage.c.user_id.is_not(None)).cte("its_users")
    everyone, its = seen(usage), select(func.count()).select_from(users).scalar_subquery()
    user = once(users.c.user_id, "common_users")
    pairs = (
        select(
            usage.c.feature_name,
            func.count(user).label("common"),
            func.count(usage.c.user_id).label("users"),
            its.label("its"),
            everyone.label("everyone"),
        )
        .outerjoin(user.table, user == usage.c.user_id)
        .where(usage.c.feature_name != name)
        .group_by(usage.c.feature_name)
        .having(func.count(user) > 0)
        .subquery("pairs")
    )
    by_chance = share(Real(pairs.c.its) * pairs.c.users, pairs.c.everyone)
    beyond = pairs.c.common - by_chance
    return (
        select(
            pairs.c.feature_name,
            pairs.c.common.label("unique_users"),
            share(pairs.c.common, pairs.c.everyone).label("support"),
            share(pairs.c.common, pairs.c.its).label("confidence"),
            share(pairs.c.common, by_chance).label("lift"),
        )
        .order_by(beyond.desc(), pairs.c.common.desc(), pairs.c.feature_name)
        .limit(checked_limit(limit))
    )


RELATED = described(
    Question(
        "related",
        related_features,
        "Related features",
        "Other features that the users of a feature use.",
        "What else the users of this feature used, {period}. Lift above 1: more often than all users do.",
        "Nobody who used this feature used another one {period}.",
        "calendar_snooze_reminder",
        (
            FEATURE,
            QuestionColumn("unique_users", "Use both", "count"),
            QuestionColumn("confidence", "Share", "share"),
            QuestionColumn("lift", "Lift", "count"),
            QuestionColumn("support", "Support", "share", is_extra=True),
        ),
        bar="confidence",
        is_of_all_time=True,
        needs_hours=if_bounded,
        takes_months=always,
    )
)
