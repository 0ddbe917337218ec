"""A variant beside the control, and what the always-valid test sees of both."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

from . import sequential
from .figures import Metric, VariantFigures
from .means import Means
from .proportions import Proportions

Pair: TypeAlias = Proportions | Means

_LEAST_EFFECT = 0.01
"""Of a mean, in standard deviations: a mean near 0 has no relative effect that could be found."""


class Mixture(NamedTuple):
    """The always-valid test of a pair."""

    statistic: float
    """The difference over the standard error that the test takes."""
    ratio: float
    """The variance of the mixture over that of the difference; 0 as long as nothing can be said."""
    inflation: float
    """The test's standard error over that of the single test, at least 1."""

    @property
    def p_value(self) -> float:
        """Two-sided."""
        return float(sequential.always_valid_p(self.statistic, self.ratio))

    @property
    def p_value_of_fall(self) -> float:
        """One-sided: small if the variant is lower."""
        return float(sequential.always_valid_p_of_fall(self.statistic, self.ratio))

    def critical_value(self, alpha: float) -> float:
        """What the single test's absolute statistic must exceed; infinite as long as nothing can be said."""
        return self.inflation * float(sequential.critical_value(self.ratio, alpha))


def pair_of(control: VariantFigures, variant: VariantFigures, metric: Metric) -> Pair | None:
    """The two to be compared. None as long as there are too few units."""
    least = min(control.units, variant.units)
    if metric == "converted":
        if least < 1:
            return None
        return Proportions(control.converted, control.units, variant.converted, variant.units)
    return Means(control, variant) if least > 1 else None


def least_difference(pair: Pair, minimum_effect: float) -> float:
    """The minimum effect as a difference."""
    if isinstance(pair, Means):
        return max(minimum_effect * abs(pair.pooled), _LEAST_EFFECT * pair.deviation)
    return minimum_effect * pair.smoothed


def mixture_of(pair: Pair, minimum_effect: float) -> Mixture:
    """The always-valid test.

    The mixture's standard deviation is the minimum effect: then the interval is about as narrow as one can be at the
    number of units at which a single test would find the effect.
    """
    if isinstance(pair, Means):
        if not pair.null_variance or not pair.is_settled:
            return Mixture(0.0, 0.0, 1.0)
        variance = pair.cautious_variance
        inflation = math.sqrt(variance / pair.null_variance)
    else:
        variance, inflation = pair.smoothed_variance, 1.0
    ratio = least_difference(pair, minimum_effect) ** 2 / variance
    return Mixture(pair.statistic / inflation, ratio, inflation)
