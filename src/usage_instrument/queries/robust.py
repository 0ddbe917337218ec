"""Robust statistics: medians, and deviations from them that a few outliers do not hide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, and_, case, func, literal_column, select

from usage_instrument.database.expressions import Later, Real
from usage_instrument.errors import ConfigurationError

from .numbers import ONE


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
