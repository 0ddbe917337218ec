"""Which features of similar users could this user like?"""

from __future__ import annotations

from sqlalchemy import Select, func, select

from usage_instrument.database.tables import Tables
from usage_instrument.errors import UserIdError
from usage_instrument.typing import UserId

from .arguments import checked_limit, user_and_tables
from .numbers import share
from .questions import FEATURE, Question, QuestionColumn, always, described, if_bounded
from .sources import once, users_and_features
from .windows import Moment, pairs_in, window
from .zones import TimeZone


def recommend(
    user_id: UserId,
    limit: int = 5,
    *,
    since: Moment = None,
    until: Moment = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[str, float, int]:
    """Features that similar users use and this user does not, the likeliest first: `feature_name`, `score`,
    `unique_users`.

    Users who share a feature with the user are similar. The weight of each is the number of features that both use over
    the number that either uses (Jaccard). `score` (0 to 1) is the weight of the similar users who use the feature over
    the weight of all similar users; `unique_users` is their number. A user without uses gets no row. `since` and
    `until` bound the days of the time zone `tz` (default: UTC), which the history answers, or without `until` the last
    uses: a timedelta (7 days: today and the six before), a date, a datetime or the text of one; without both, it is all
    time. Raises UserIdError for None or an id of another type, ConfigurationError for a wrong argument.
    """
    if user_id is None:
        raise UserIdError("recommend takes a user's id: the anonymous user resembles nobody")
    user_id, tables = user_and_tables(user_id, tables)
    asked = window(since, until, tz)
    usage = users_and_features(tables, asked)
    theirs = usage.alias("theirs")
    # From the table, whose index finds one user: a CTE would be read whole.
    source, period = pairs_in(tables, asked)
    its = [source.c.user_id == user_id, source.c.feature_name.is_not(None), *period]
    mine = select(source.c.feature_name).where(*its).distinct().cte("mine")
    shared = once(mine.c.feature_name, "shared_features")
    common, features = func.count(shared), func.count(usage.c.feature_name)
    either = features + select(func.count()).select_from(mine).scalar_subquery() - common
    similar = (
        select(usage.c.user_id, share(common, either).label("weight"))
        .outerjoin(shared.table, shared == usage.c.feature_name)
        .where(usage.c.user_id != user_id)
        .group_by(usage.c.user_id)
        .having(common > 0)
        .cte("similar_users")
    )
    everyone = select(func.sum(similar.c.weight)).scalar_subquery()
    score = share(func.sum(similar.c.weight), everyone).label("score")
    return (
        select(theirs.c.feature_name, score, func.count().label("unique_users"))
        .join(similar, similar.c.user_id == theirs.c.user_id)
        .where(theirs.c.feature_name.not_in(select(mine.c.feature_name)))
        .group_by(theirs.c.feature_name)
        .order_by(score.desc(), theirs.c.feature_name)
        .limit(checked_limit(limit))
    )


RECOMMEND = described(
    Question(
        "recommend",
        recommend,
        "Might like",
        "Features that similar users use and this user does not.",
        "What users with similar habits use and this user does not, {period}.",
        "There is nothing to recommend: no user with similar habits uses another feature.",
        "6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55",
        (FEATURE, QuestionColumn("score", "Score", "share"), QuestionColumn("unique_users", "Similar users", "count")),
        bar="score",
        is_of_all_time=True,
        needs_hours=if_bounded,
        takes_months=always,
    )
)
