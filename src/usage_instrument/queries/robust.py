"""Robust statistics: medians, and deviations from them that a few outliers do not hide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import CTE, ColumnElement, Select, Subquery, and_, case, func, literal_column, select, union_all

from usage_instrument.database.expressions import Later, Real
from usage_instrument.errors import ConfigurationError

from .numbers import ONE, ZERO, number, over

WEEKS = 8
"""Earlier days of the same weekday with which a day is compared."""
DAYS_BEFORE = 7 * WEEKS
"""The days before a window that its first day is compared with."""


def first_days(daily: CTE, name: str) -> Subquery:
    """The `first_day` of each feature or user in the daily uses that were read."""
    first = func.min(daily.c.bucket_start).label("first_day")
    return select(daily.c[name], first).group_by(daily.c[name]).subquery("first_days")


def usual_of_weekday(days: Any, daily: CTE, name: str) -> Select[*tuple[Any, ...]]:
    """The median and the spread of the same weekday in the 8 weeks before each day, since `first_day`, days without use
    included: the feature or user, `day`, `baseline`, `spread`."""
    weeks = union_all(*(select(number(week).label("week")) for week in range(1, WEEKS + 1))).subquery("weeks")
    earlier = Later("day", days.c.day, weeks.c.week * number(-7))
    same = and_(daily.c[name] == days.c[name], daily.c.bucket_start == earlier)
    known = days.join(weeks, earlier >= days.c.first_day).outerjoin(daily, same)
    value = func.coalesce(daily.c.uses, ZERO).label("value")
    past = select(days.c[name], days.c.day, value).select_from(known).subquery("past")
    return medians(past, name, "day")


def medians(rows: Any, *keys: str) -> Select[*tuple[Any, ...]]:
    """The median `baseline` of the `value`s with the same keys, and the median `spread` of their distances from it.

    No joins, only windows: PostgreSQL expects few rows of a median, and would join them in nested loops.
    """
    ranked = _ranked(rows, "value", keys)
    its = [ranked.c[name] for name in keys]
    baseline = Real(func.avg(case((_is_middle(ranked), ranked.c.value))).over(partition_by=its)).label("baseline")
    usual = select(*its, ranked.c.value, baseline).subquery("with_baseline")
    key = [usual.c[name] for name in keys]
    distance = func.abs(usual.c.value - usual.c.baseline).label("distance")
    away = _ranked(select(*key, usual.c.baseline, distance).subquery("distances"), "distance", keys, "by_distance")
    its = [away.c[name] for name in keys]
    spread = Real(func.avg(away.c.distance)).label("spread")
    return select(*its, away.c.baseline, spread).where(_is_middle(away)).group_by(*its, away.c.baseline)


def _ranked(rows: Any, value: str, keys: Sequence[str], name: str = "ranked") -> Subquery:
    """The rows with their places by a value among those with the same keys."""
    key = [rows.c[each] for each in keys]
    place = func.row_number().over(partition_by=key, order_by=rows.c[value]).label("place")
    return select(rows, place, func.count().over(partition_by=key).label("places")).subquery(name)


def _is_middle(ranked: Subquery) -> ColumnElement[bool]:
    """Whether a row is the middle one, or one of both."""
    return (ranked.c.place * literal_column("2")).between(ranked.c.places, ranked.c.places + literal_column("2"))


def score(deviation: ColumnElement[Any], baseline: ColumnElement[float], spread: ColumnElement[float]) -> Any:
    """A deviation over the largest of 1.4826 x the median absolute deviation (the standard deviation of a normal
    distribution), a tenth of the baseline, and 1."""
    usual, tenth = spread * literal_column("1.4826"), baseline * literal_column("0.1")
    least = Real(ONE)
    scale = case((and_(usual >= tenth, usual >= least), usual), (tenth >= least, tenth), else_=least)
    return over(Real(deviation), scale)


def days_later(moment: ColumnElement[Any], days: int) -> ColumnElement[Any]:
    """The moment so many days later."""
    return Later("day", moment, number(days))


def checked_threshold(threshold: object) -> float:
    """The least score. Raises ConfigurationError."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < math.inf:
        raise ConfigurationError(f"threshold is a number above 0, not {threshold!r}")
    return float(threshold)
