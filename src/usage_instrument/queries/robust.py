"""Robust statistics: medians, and deviations from them that a few outliers do not hide."""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal_column, select

from usage_instrument.database.expressions import Later, Real
from usage_instrument.errors import ConfigurationError

from .numbers import ONE


def medians(rows: Any, *keys: str) -> Select[*tuple[Any, ...]]:
    """The median `value` of the rows with the same keys."""
    key = [rows.c[name] for name in keys]
    place = func.row_number().over(partition_by=key, order_by=rows.c.value).label("place")
    places = func.count().over(partition_by=key).label("places")
    ranked = select(*key, rows.c.value, place, places).subquery("ranked")
    twice = ranked.c.place * literal_column("2")
    middle = twice.between(ranked.c.places, ranked.c.places + literal_column("2"))
    median = Real(func.avg(ranked.c.value)).label("value")
    its = [ranked.c[name] for name in keys]
    return select(*its, median).where(middle).group_by(*its)


def scale(baseline: ColumnElement[float], spread: ColumnElement[float]) -> ColumnElement[float]:
    """What a deviation is measured by: the largest of 1.4826 x the median absolute deviation (the standard deviation of
    a normal distribution), a tenth of the baseline, and 1."""
    usual, tenth = spread * literal_column("1.4826"), baseline * literal_column("0.1")
    least = Real(ONE)
    return case((and_(usual >= tenth, usual >= least), usual), (tenth >= least, tenth), else_=least)


def days_later(moment: ColumnElement[Any], days: int) -> ColumnElement[Any]:
    """The moment so many days later."""
    return Later("day", moment, literal_column(str(days)))


def checked_threshold(threshold: object) -> float:
    """The least score. Raises ConfigurationError."""
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < math.inf:
        raise ConfigurationError(f"threshold is a number above 0, not {threshold!r}")
    return float(threshold)
