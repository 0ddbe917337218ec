"""Which features were suddenly used far more than usual?"""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, and_, case, func, literal, literal_column, select

from usage_instrument.errors import ConfigurationError
from usage_instrument.expressions import Day, Later, Real, StartOf
from usage_instrument.schema import Tables

from .arguments import rows_of
from .calendar import calendar
from .defaults import ONE, ZERO, default_tables, over, total
from .periods import WEEK, Since, first_start

PAST = -28
"""In days: the past that a period is compared with."""
SHORTEST = -7
"""In days: the past that a feature must have for a comparison."""


def spikes(
    since: Since = WEEK, *, feature: str | None = None, threshold: float = 5.0, tables: Tables | None = None
) -> Select[str, dt.date, int, float, float, float]:
    """Days with far more uses than usual, the farthest first: `feature_name`, `day`, `uses`, `baseline`, `score`,
    `threshold`.

    `baseline` is the median of a feature's daily uses in the 28 days before the period, from its first use on, days
    without use included. `score` is by how many times the usual deviation `uses` lie above it: (uses - baseline) /
    the largest of 1.4826 x the median absolute deviation (a standard deviation, if days vary normally), a tenth of the
    baseline, and 1. Days whose score is at least `threshold` are spikes. Unlike mean and standard deviation, medians
    do not give way to an earlier spike. A feature first used less than 7 days before the period has no usual. `since`
    is a timedelta (7 days: today and the six before, UTC) or a datetime (from its day on). Raises ConfigurationError
    for a wrong argument.
    """
    start = first_start(since)
    if start is None:
        raise ConfigurationError("since is a timedelta or a datetime: a spike needs a past to stand out from")
    history = (tables or default_tables()).history
    rows = [history.c.feature_name.is_not(None), *rows_of(history.c.feature_name, feature)]
    day = StartOf("day", history.c.bucket_start).label("bucket_start")
    daily = (
        select(history.c.feature_name, day, total(history.c.usage_count).label("uses"))
        .where(history.c.bucket_start >= _days_later(start, PAST), *rows)
        .group_by(history.c.feature_name, day)
        .cte("daily")
    )
    first = func.min(history.c.bucket_start)
    known = (
        select(history.c.feature_name, StartOf("day", first).label("first_day"))
        .where(*rows)
        .group_by(history.c.feature_name)
        .having(first <= _days_later(start, SHORTEST))
        .subquery("known")
    )
    past = calendar("day", _days_later(start, PAST), start)
    same = and_(daily.c.feature_name == known.c.feature_name, daily.c.bucket_start == past.c.bucket_start)
    usual = (
        select(known.c.feature_name, func.coalesce(daily.c.uses, ZERO).label("value"))
        .select_from(known.join(past, past.c.bucket_start >= known.c.first_day).outerjoin(daily, same))
        .cte("usual")
    )
    baseline = _medians(usual).cte("baselines")
    deviation = func.abs(usual.c.value - baseline.c.value).label("value")
    deviations = select(usual.c.feature_name, deviation).join(baseline, baseline.c.feature_name == usual.c.feature_name)
    spread = _medians(deviations.subquery("deviations")).subquery("spreads")
    score = over(daily.c.uses - baseline.c.value, _scale(baseline.c.value, spread.c.value))
    return (
        select(
            daily.c.feature_name,
            Day(daily.c.bucket_start).label("day"),
            daily.c.uses,
            baseline.c.value.label("baseline"),
            score.label("score"),
            Real(literal(_checked(threshold))).label("threshold"),
        )
        .join(baseline, baseline.c.feature_name == daily.c.feature_name)
        .join(spread, spread.c.feature_name == daily.c.feature_name)
        .where(daily.c.bucket_start >= start, score >= Real(literal(_checked(threshold))))
        .order_by(score.desc(), daily.c.bucket_start, daily.c.feature_name)
    )


def _medians(rows: Any) -> Select[Any]:
    """The median `value` of each feature: the mean of the one or two in the middle."""
    of_feature = {"partition_by": rows.c.feature_name}
    place = func.row_number().over(order_by=rows.c.value, **of_feature)
    ranked: Subquery = select(
        rows.c.feature_name, rows.c.value, place.label("place"), func.count().over(**of_feature).label("places")
    ).subquery("ranked")
    twice = ranked.c.place * literal_column("2")
    return (
        select(ranked.c.feature_name, Real(func.avg(ranked.c.value)).label("value"))
        .where(twice >= ranked.c.places, twice <= ranked.c.places + literal_column("2"))
        .group_by(ranked.c.feature_name)
    )


def _scale(baseline: ColumnElement[float], spread: ColumnElement[float]) -> ColumnElement[float]:
    usual, tenth = spread * literal_column("1.4826"), baseline * literal_column("0.1")
    least = Real(ONE)
    return case((and_(usual >= tenth, usual >= least), usual), (tenth >= least, tenth), else_=least)


def _days_later(moment: ColumnElement[Any], days: int) -> ColumnElement[Any]:
    return Later("day", moment, literal_column(str(days)))


def _checked(threshold: object) -> float:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < math.inf:
        raise ConfigurationError(f"threshold is a number above 0, not {threshold!r}")
    return float(threshold)
