"""Means of uses or values: the interval of one, and the comparison of two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from scipy import special

from .figures import VariantFigures
from .results import Estimate

_LEAST_VALUES = 25
"""Units of a variant with a value, from which on its mean is tested every day."""


def student(figures: VariantFigures, alpha: float) -> Estimate:
    """The mean with its interval, of at least two units.

    Student (1908), The probable error of a mean, Biometrika 6, 1-25: `mean ± t s / sqrt(n)` with n - 1 degrees of
    freedom.
    """
    half = _quantile(figures.units - 1, alpha) * math.sqrt(figures.variance / figures.units)
    return Estimate(figures.mean, figures.mean - half, figures.mean + half)


def _quantile(degrees: float, alpha: float) -> float:
    return float(-special.stdtrit(degrees, alpha / 2))


@dataclass(frozen=True, slots=True)
class Means:
    """The means of a variant and of the control, each of at least two units."""

    control: VariantFigures
    variant: VariantFigures

    @property
    def difference(self) -> float:
        """The mean of the variant minus that of the control."""
        return self.variant.mean - self.control.mean

    @property
    def lift(self) -> float | None:
        """The difference relative to the control. None if the control's mean is 0 or negative."""
        return self.difference / self.control.mean if self.control.mean > 0 else None

    @property
    def pooled(self) -> float:
        """The mean of both together."""
        total = Fraction(self.control.total) + Fraction(self.variant.total)
        return float(total / (self.control.units + self.variant.units))

    @property
    def deviation(self) -> float:
        """The standard deviation of a unit's metric, of both together."""
        degrees = self.control.units + self.variant.units - 2
        squares = self.control.variance * (self.control.units - 1) + self.variant.variance * (self.variant.units - 1)
        return math.sqrt(squares / degrees)

    @property
    def null_variance(self) -> float:
        """The variance of the difference."""
        return self._control_variance + self._variant_variance

    @property
    def cautious_variance(self) -> float:
        """The greater one of Welch's variance and Student's, of both variants together.

        In a small variant in which few units have a value yet, the variance of its own is far too low, often 0.
        """
        pooled = self.deviation**2 * (1 / self.control.units + 1 / self.variant.units)
        return max(self.null_variance, pooled)

    @property
    def is_settled(self) -> bool:
        """Whether enough units with a value can be expected in the smaller variant for its mean to be about normal.

        If no unit is said to have reached the goal, all units count.
        """
        units = self.control.units + self.variant.units
        reached = self.control.converted + self.variant.converted or units
        return reached * min(self.control.units, self.variant.units) >= _LEAST_VALUES * units

    @property
    def statistic(self) -> float:
        """Welch's t, 0 if no unit differs from another: nothing can be tested without a variance.

        Welch, B. L. (1947), The generalization of "Student's" problem when several different population variances are
        involved, Biometrika 34, 28-35.
        """
        variance = self.null_variance
        return self.difference / math.sqrt(variance) if variance > 0 else 0.0

    @property
    def degrees(self) -> float:
        """The degrees of freedom of Welch's t.

        Satterthwaite, F. E. (1946), An approximate distribution of estimates of variance components, Biometrics
        Bulletin 2, 110-114, equation 17.
        """
        variance = self.null_variance
        if not variance:
            return math.inf
        # Relative to the sum, as the squares of small variances would be 0.
        parts = (
            (self._control_variance / variance, self.control.units),
            (
                self._variant_variance / variance,
                self.variant.units,
            ),
        )
        return 1 / sum(part * part / (units - 1) for part, units in parts)

    @property
    def p_value(self) -> float:
        """Two-sided, of Welch's t."""
        return float(2 * special.stdtr(self.degrees, -abs(self.statistic)))

    @property
    def p_value_of_fall(self) -> float:
        """One-sided: small if the variant's mean is lower."""
        return float(special.stdtr(self.degrees, self.statistic))

    def critical_value(self, alpha: float) -> float:
        """What the absolute t exceeds with probability alpha if there is no difference."""
        return _quantile(self.degrees, alpha)

    def difference_interval(self, critical: float) -> Estimate | None:
        """The difference ± `critical` standard errors. None without a variance."""
        half = critical * math.sqrt(self.null_variance)
        return Estimate(self.difference, self.difference - half, self.difference + half) if half else None

    def lift_interval(self, critical: float) -> Estimate | None:
        """The lifts that a test with the critical value does not reject. None if the control's mean may be 0, or less.

        Fieller, E. C. (1954), Some problems in interval estimation, JRSS B 16, 175-185: the ratios R with
        `(m - R c)² <= critical² (v + R² w)`, of the means m and c and their variances v and w. It excludes 0 exactly if
        Welch's t exceeds the critical value, which the delta method does not promise.
        """
        mean, control = self.variant.mean, self.control.mean
        variance, control_variance = self._variant_variance, self._control_variance
        square = critical * critical
        scale = control * control - square * control_variance
        if self.lift is None or scale <= 0 or not self.null_variance:
            return None
        spread = control * control * variance + mean * mean * control_variance - square * variance * control_variance
        # The roots of a quadratic equation; the second by the product of both, since the other formula for it subtracts
        # numbers that are almost the same where the control's mean is almost within its own error.
        larger = mean * control + math.copysign(critical * math.sqrt(max(spread, 0.0)), mean * control)
        ratios = larger / scale, (mean * mean - square * variance) / larger if larger else 0.0
        return Estimate(self.lift, min(ratios) - 1, max(ratios) - 1)

    @property
    def _control_variance(self) -> float:
        return self.control.variance / self.control.units

    @property
    def _variant_variance(self) -> float:
        return self.variant.variance / self.variant.units
