"""Which features were suddenly used far more than usual?"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any, Literal, overload

from sqlalchemy import CTE, ColumnElement, FromClause, Select, Subquery, and_, func, literal, select

from usage_instrument.database.expressions import Day, Real, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import UserId

from .arguments import default_tables, rows_of
from .numbers import ZERO, number, total
from .questions import FEATURE, SCORE, USES, Argument, Query, Question, QuestionColumn, choice, described
from .robust import DAYS_BEFORE, checked_threshold, days_later, first_days, medians, score, usual_of_weekday
from .windows import MONTH, WEEK, Moment, Window, window
from .zones import TimeZone

DAYS_OF_USE = 28
"""The last days with use in these 8 weeks with which a day is compared too."""
SHORTEST = -7
"""Days of the past that a feature or a user needs for a comparison."""
LEAST = 20
"""The least uses of a spike: of fewer, ten times as many are no news."""
_ENTITIES = {"feature": "feature_name", "user": "user_id"}


@overload
def spikes(
    since: Moment = WEEK,
    *,
    until: Moment = None,
    feature: str | None = None,
    by: Literal["feature"] = "feature",
    threshold: float = 5.0,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[str, dt.date, int, float, float, float]: ...
@overload
def spikes(
    since: Moment = WEEK,
    *,
    until: Moment = None,
    feature: str | None = None,
    by: Literal["user"],
    threshold: float = 5.0,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[UserId, dt.date, int, float, float, float]: ...
def spikes(
    since: Moment = WEEK,
    *,
    until: Moment = None,
    feature: str | None = None,
    by: Literal["feature", "user"] = "feature",
    threshold: float = 5.0,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """Days with far more uses than usual, the highest score first: `feature_name` (or `user_id`), `day`, `uses`,
    `baseline`, `score`, `threshold`.

    `baseline` is the median of a feature's uses on the same weekday of the 8 weeks before the day, from its first use
    in the 8 weeks before the period on, days without use included. `score` is (uses - baseline) / the largest of
    1.4826 x the median absolute deviation (the standard deviation of a normal distribution), a tenth of the baseline,
    and 1. Days with at least 20 uses whose score is at least `threshold` are spikes, if they score as much beside the
    last 28 days with use of these 8 weeks. So a weekly rhythm, growth, and a feature that is used a lot but seldom are
    no spikes, and an earlier spike hides none. A feature without use in the 8 weeks before a day, or first used less
    than 7 days before, has no row.

    `by="user"` compares each user, of one feature or of all, with the user's own past instead: a script, or a stolen
    account. The anonymous user is left out.

    `since` and `until` bound the days of the time zone `tz` (default: UTC): a timedelta (7 days: today and the six
    before), a date, a datetime or the text of one, 28 days at most. Raises ConfigurationError for a wrong argument.
    """
    if by not in _ENTITIES:
        raise ConfigurationError(f"by is 'feature' or 'user', not {by!r}")
    asked = window(since, until, tz)
    start, end = _bounds(asked)
    history = asked.history(tables or default_tables(), DAYS_BEFORE)
    name = _ENTITIES[by]
    entity = history.c[name]
    rows = [entity.is_not(None), *rows_of(history.c.feature_name, feature)]
    if end is not None:
        rows.append(history.c.bucket_start < end)
    if by == "user":  # of many users, few have so many uses on a day: only their past is read
        many = _daily(entity, history, [*rows, history.c.bucket_start >= start])
        many = many.having(func.sum(history.c.usage_count) >= number(LEAST))
        rows.append(entity.in_(select(many.subquery("many").c[name])))
    rows.append(history.c.bucket_start >= days_later(start, -DAYS_BEFORE))
    daily = _daily(entity, history, rows).cte("daily")
    known, day = first_days(daily, name), daily.c.bucket_start
    is_known = and_(known.c[name] == daily.c[name], known.c.first_day <= days_later(day, SHORTEST))
    of_window = select(daily.c[name], day.label("day"), daily.c.uses, known.c.first_day).join_from(
        daily, known, is_known
    )
    days = of_window.where(day >= start, daily.c.uses >= number(LEAST)).cte("days")
    least = Real(literal(checked_threshold(threshold)))
    usual = usual_of_weekday(days, daily, name).subquery("usual")
    is_same = and_(usual.c[name] == days.c[name], usual.c.day == days.c.day)
    its_score = score(days.c.uses - usual.c.baseline, usual.c.baseline, usual.c.spread).label("score")
    scored = select(days.c[name], days.c.day, days.c.uses, usual.c.baseline, its_score).join_from(days, usual, is_same)
    high = scored.where(its_score >= least).cte("high")
    recent = medians(_days_of_use(high, daily, name), name, "day").subquery("recent")
    is_same = and_(recent.c[name] == high.c[name], recent.c.day == high.c.day)
    is_high = score(high.c.uses - recent.c.baseline, recent.c.baseline, recent.c.spread) >= least
    columns = (high.c[name], Day(high.c.day).label("day"), high.c.uses, high.c.baseline, high.c.score)
    found = select(*columns, least.label("threshold")).join_from(high, recent, is_same).where(is_high)
    return found.order_by(high.c.score.desc(), high.c.day, high.c[name])


def _bounds(asked: Window) -> tuple[ColumnElement[Any], ColumnElement[Any] | None]:
    """The start and the end of the window, which is no longer than the past."""
    start, days = asked.start(), asked.days
    if start is None or days is None or days > MONTH.days:
        raise ConfigurationError(
            f"spikes are those of {MONTH.days} days at most, not of {f'{days} days' if days else 'all time'}: "
            "choose a later since or an earlier until, because a spike is compared with the days before"
        )
    return start, asked.end()


def _daily(entity: ColumnElement[Any], history: FromClause, rows: list[Any]) -> Select[*tuple[Any, ...]]:
    """The uses of each feature or user by day."""
    key = (entity, StartOf("day", history.c.bucket_start).label("bucket_start"))
    return select(*key, total(history.c.usage_count).label("uses")).where(*rows).group_by(*key)


def _days_of_use(days: CTE, daily: CTE, name: str) -> Subquery:
    """The uses on the last 28 days with use of the 8 weeks before each day: the feature or user, `day`, `value`."""
    key, earlier = (days.c[name], days.c.day), daily.c.bucket_start
    is_used = and_(daily.c[name] == days.c[name], daily.c.uses > ZERO)
    is_before = and_(earlier < days.c.day, earlier >= days_later(days.c.day, -DAYS_BEFORE))
    place = func.row_number().over(partition_by=key, order_by=earlier.desc()).label("ago")
    used = select(*key, daily.c.uses.label("value"), place).join_from(days, daily, and_(is_used, is_before))
    found = used.subquery("days_of_use")
    return select(found).where(found.c.ago <= number(DAYS_OF_USE)).subquery("last_days_of_use")


SPIKES = described(
    Question(
        "spikes",
        spikes,
        "Spikes",
        "Days with far more uses than usual.",
        "Days {period} far above the median of the same weekday in the 8 weeks before, and of the last days with use.",
        "No day stood out {period}.",
        "--feature calendar_export --threshold 10",
        (
            replace(FEATURE, is_optional=True),
            QuestionColumn("user_id", "User", "user", is_optional=True),
            QuestionColumn("day", "Day", "day"),
            USES,
            QuestionColumn("baseline", "Usual", "count"),
            QuestionColumn("score", "Score", "count", is_extra=True),
            QuestionColumn("threshold", "Threshold", "count", is_extra=True),
        ),
        topic="Anomalies",
        longest=MONTH,
        own_arguments=(
            Argument("by", choice("WHAT", "feature", "user"), "What is compared with its past: feature or user."),
            Argument("threshold", SCORE, "The score from which a day is a spike."),
        ),
        days_before=DAYS_BEFORE,
    )
)
