"""Which features were suddenly used far more than usual?"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any, Literal, overload

from sqlalchemy import CTE, ColumnElement, FromClause, Select, and_, func, literal, literal_column, select

from usage_instrument.database.expressions import Day, Real, StartOf, Weekday
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import UserId

from .arguments import default_tables, rows_of
from .numbers import ZERO, over, total
from .questions import FEATURE, SCORE, USES, Argument, Query, Question, QuestionColumn, choice, described
from .robust import checked_threshold, days_later, medians, scale
from .windows import MONTH, WEEK, Moment, Window, calendar, window
from .zones import TimeZone

PAST = -28
"""Days of the past with which a period is compared."""
SHORTEST = -7
"""Days of the past that a feature needs for a comparison."""
LEAST = 20
"""The least uses of a spike of a user: of fewer, ten times as many are no news."""
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

    `baseline` is the median of a feature's daily uses in the 28 days before the period, from its first use on, days
    without use included. `score` is (uses - baseline) / the largest of 1.4826 x the median absolute deviation (the
    standard deviation of a normal distribution), a tenth of the baseline, and 1. Days whose score is at least
    `threshold` are spikes, if they score as much beside the median of the same weekday in these 28 days: a weekly
    rhythm is no spike. An earlier spike affects medians less than mean and standard deviation. A feature first used
    less than 7 days before the period has no baseline and no row.

    `by="user"` compares each user, of one feature or of all, with the user's own past instead: a script, or a stolen
    account. Then a spike has at least 20 uses, and the anonymous user is left out.

    `since` and `until` bound the days of the time zone `tz` (default: UTC): a timedelta (7 days: today and the six
    before), a date, a datetime or the text of one, 28 days at most. Raises ConfigurationError for a wrong argument.
    """
    if by not in _ENTITIES:
        raise ConfigurationError(f"by is 'feature' or 'user', not {by!r}")
    asked = window(since, until, tz)
    start, end = _bounds(asked)
    history = asked.history(tables or default_tables(), None)
    name = _ENTITIES[by]
    entity = history.c[name]
    rows = [entity.is_not(None), *rows_of(history.c.feature_name, feature)]
    is_before = [] if end is None else [history.c.bucket_start < end]
    daily = _daily(entity, history, [*rows, *is_before], start).cte("daily")
    is_spike = [daily.c.bucket_start >= start]
    if by == "user":  # of many users, few have so many uses: only their past is read
        is_spike.append(daily.c.uses >= literal_column(str(LEAST)))
        rows.append(entity.in_(select(daily.c[name]).where(*is_spike)))
    past = _usual(entity, history, rows, asked, daily).cte("past")
    usual, of_weekday = medians(past, name).subquery("usual"), medians(past, name, "weekday").subquery("weekdays")
    is_same = and_(of_weekday.c[name] == daily.c[name], of_weekday.c.weekday == Weekday(daily.c.bucket_start))
    score, weekday_score = (
        over(daily.c.uses - usually, scale(usually, usual.c.spread))
        for usually in (usual.c.baseline, of_weekday.c.baseline)
    )
    least = Real(literal(checked_threshold(threshold)))
    scored = (
        select(daily, usual.c.baseline, score.label("score"))
        .join(usual, usual.c[name] == daily.c[name])
        .join(of_weekday, is_same)
        .where(*is_spike, weekday_score >= least)
        .subquery("scored")
    )
    day = Day(scored.c.bucket_start).label("day")
    columns = (scored.c[name], day, scored.c.uses, scored.c.baseline, scored.c.score, least.label("threshold"))
    return select(*columns).where(scored.c.score >= least).order_by(scored.c.score.desc(), day, scored.c[name])


def _bounds(asked: Window) -> tuple[ColumnElement[Any], ColumnElement[Any] | None]:
    """The start and the end of the window, which is no longer than the past."""
    start, days = asked.start(), asked.days
    if start is None or days is None or days > MONTH.days:
        raise ConfigurationError(
            f"spikes are those of {MONTH.days} days at most, not of {f'{days} days' if days else 'all time'}: "
            "choose a later since or an earlier until, because a spike is compared with the days before"
        )
    return start, asked.end()


def _daily(
    entity: ColumnElement[Any], history: FromClause, rows: list[Any], start: ColumnElement[Any]
) -> Select[*tuple[Any, ...]]:
    """The uses of each feature or user by day, in the period and in the past."""
    key = (entity, StartOf("day", history.c.bucket_start).label("bucket_start"))
    found = select(*key, total(history.c.usage_count).label("uses")).group_by(*key)
    return found.where(history.c.bucket_start >= days_later(start, PAST), *rows)


def _usual(
    entity: ColumnElement[Any], history: FromClause, rows: list[Any], asked: Window, daily: CTE
) -> Select[*tuple[Any, ...]]:
    """The uses of each feature or user with a past, by day of that past, with `weekday` and `value`."""
    first, name = func.min(history.c.bucket_start), str(entity.key)
    start: Any = asked.start()
    first_day = StartOf("day", first)
    known = select(entity, first_day.label("first_day")).group_by(entity)
    known_ = known.where(*rows).having(first_day <= days_later(start, SHORTEST)).subquery("known")
    past = calendar("day", days_later(start, PAST), start, zone=asked.zone)
    same = and_(daily.c[name] == known_.c[name], daily.c.bucket_start == past.c.bucket_start)
    days = known_.join(past, past.c.bucket_start >= known_.c.first_day).outerjoin(daily, same)
    weekday = Weekday(past.c.bucket_start).label("weekday")
    return select(known_.c[name], weekday, func.coalesce(daily.c.uses, ZERO).label("value")).select_from(days)


SPIKES = described(
    Question(
        "spikes",
        spikes,
        "Spikes",
        "Days with far more uses than usual.",
        "Days {period} far above the median of the 28 days before, and of the same weekday in them.",
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
        days_before=28,
    )
)
