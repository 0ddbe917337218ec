"""Which features were suddenly used far more than usual?"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import CTE, ColumnElement, Select, Table, and_, func, literal, select

from usage_instrument.database.expressions import Day, Real, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError

from .arguments import default_tables, rows_of
from .numbers import ZERO, over, total
from .questions import FEATURE, SCORE, USES, Argument, Question, QuestionColumn, described
from .robust import checked_threshold, days_later, medians, scale
from .windows import MONTH, WEEK, Moment, Window, calendar, window

PAST = -28
"""Days of the past with which a period is compared."""
SHORTEST = -7
"""Days of the past that a feature needs for a comparison."""


def spikes(
    since: Moment = WEEK,
    *,
    until: Moment = None,
    feature: str | None = None,
    threshold: float = 5.0,
    tables: Tables | None = None,
) -> Select[str, dt.date, int, float, float, float]:
    """Days with far more uses than usual, the highest score first: `feature_name`, `day`, `uses`, `baseline`, `score`,
    `threshold`.

    `baseline` is the median of a feature's daily uses in the 28 days before the period, from its first use on, days
    without use included. `score` is (uses - baseline) / the largest of 1.4826 x the median absolute deviation (the
    standard deviation of a normal distribution), a tenth of the baseline, and 1. Days whose score is at least
    `threshold` are spikes. An earlier spike affects medians less than mean and standard deviation. A feature first used
    less than 7 days before the period has no baseline and no row. `since` and `until` bound the days, UTC: a timedelta
    (7 days: today and the six before), a date, a datetime or the text of one, 28 days at most. Raises
    ConfigurationError for a wrong argument.
    """
    start, end = _bounds(window(since, until))
    history = (tables or default_tables()).history
    rows = [history.c.feature_name.is_not(None), *rows_of(history.c.feature_name, feature)]
    daily = _daily(history, [*rows, *([] if end is None else [history.c.bucket_start < end])], start).cte("daily")
    usual = _usual(history, rows, start, daily).cte("usual")
    baseline = medians(usual, "feature_name").cte("baselines")
    deviation = func.abs(usual.c.value - baseline.c.value).label("value")
    deviations = select(usual.c.feature_name, deviation).join(baseline, baseline.c.feature_name == usual.c.feature_name)
    spread = medians(deviations.subquery("deviations"), "feature_name").subquery("spreads")
    score = over(daily.c.uses - baseline.c.value, scale(baseline.c.value, spread.c.value))
    scored = (
        select(daily, baseline.c.value.label("baseline"), score.label("score"))
        .join(baseline, baseline.c.feature_name == daily.c.feature_name)
        .join(spread, spread.c.feature_name == daily.c.feature_name)
        .where(daily.c.bucket_start >= start)
        .subquery("scored")
    )
    least = Real(literal(checked_threshold(threshold)))
    day = Day(scored.c.bucket_start).label("day")
    columns = (scored.c.feature_name, day, scored.c.uses, scored.c.baseline, scored.c.score, least.label("threshold"))
    return select(*columns).where(scored.c.score >= least).order_by(scored.c.score.desc(), day, scored.c.feature_name)


def _bounds(asked: Window) -> tuple[ColumnElement[Any], ColumnElement[Any] | None]:
    """The start and the end of the window, which is no longer than the past."""
    start, days = asked.start(), asked.days
    if start is None or days is None or days > MONTH.days:
        raise ConfigurationError(
            f"spikes are those of {MONTH.days} days at most, not of {f'{days} days' if days else 'all time'}: "
            "choose a later since or an earlier until, because a spike is compared with the days before"
        )
    return start, asked.end()


def _daily(history: Table, rows: list[Any], start: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
    """The uses of each feature by day, in the period and in the past."""
    key = (history.c.feature_name, StartOf("day", history.c.bucket_start).label("bucket_start"))
    found = select(*key, total(history.c.usage_count).label("uses")).group_by(*key)
    return found.where(history.c.bucket_start >= days_later(start, PAST), *rows)


def _usual(history: Table, rows: list[Any], start: ColumnElement[Any], daily: CTE) -> Select[*tuple[Any, ...]]:
    """The uses of each feature with a past, by day of that past: `feature_name`, `value`."""
    first = func.min(history.c.bucket_start)
    known = select(history.c.feature_name, StartOf("day", first).label("first_day")).group_by(history.c.feature_name)
    known_ = known.where(*rows).having(first <= days_later(start, SHORTEST)).subquery("known")
    past = calendar("day", days_later(start, PAST), start)
    same = and_(daily.c.feature_name == known_.c.feature_name, daily.c.bucket_start == past.c.bucket_start)
    days = known_.join(past, past.c.bucket_start >= known_.c.first_day).outerjoin(daily, same)
    return select(known_.c.feature_name, func.coalesce(daily.c.uses, ZERO).label("value")).select_from(days)


SPIKES = described(
    Question(
        "spikes",
        spikes,
        "Spikes",
        "Days with far more uses than usual.",
        "Days {period} far above the median of the 28 days before.",
        "No day stood out {period}.",
        "--feature calendar_export --threshold 10",
        (
            FEATURE,
            QuestionColumn("day", "Day", "day"),
            USES,
            QuestionColumn("baseline", "Usual", "count"),
            QuestionColumn("score", "Score", "count", is_extra=True),
            QuestionColumn("threshold", "Threshold", "count", is_extra=True),
        ),
        longest=MONTH,
        own_arguments=(Argument("threshold", SCORE, "The score from which a day is a spike."),),
    )
)
