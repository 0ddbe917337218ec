"""Shares of converted units: the interval of one, and the comparison of two."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy import special

from .results import Estimate

_HALVINGS = 100
"""More than a float has digits, so an interval is as exact as the statistic that is inverted."""


def wilson(converted: int, units: int, alpha: float) -> Estimate:
    """The share of converted units with its score interval, of at least one unit.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference, JASA 22, 209-212;
    method 3 of Newcombe, R. G. (1998), Two-sided confidence intervals for the single proportion, Statistics in
    Medicine 17, 857-872: `(2np + z² ± z sqrt(z² + 4npq)) / (2(n + z²))`.
    """
    z = normal_quantile(alpha)
    share = converted / units
    center = share + z * z / (2 * units)
    half = z * math.sqrt(share * (1 - share) / units + z * z / (4 * units * units))
    scale = 1 + z * z / units
    low = 0.0 if converted == 0 else (center - half) / scale
    high = 1.0 if converted == units else (center + half) / scale
    return Estimate(share, low, high)


def normal_quantile(alpha: float) -> float:
    """The z that a standard normal variable exceeds, in either direction, with probability alpha."""
    return float(-special.ndtri(alpha / 2))


@dataclass(frozen=True, slots=True)
class Proportions:
    """The shares of a variant and of the control, each of at least one unit.

    Tests and intervals are of one kind: the score test of each null value. So an interval excludes "no difference"
    exactly if the p-value is below alpha.
    """

    control_converted: int
    control_units: int
    converted: int
    units: int

    @property
    def difference(self) -> float:
        """The share of the variant minus that of the control."""
        return self.converted / self.units - self.control_converted / self.control_units

    @property
    def lift(self) -> float | None:
        """The difference relative to the control. None if no unit of the control converted."""
        if not self.control_converted:
            return None
        return self.converted * self.control_units / (self.units * self.control_converted) - 1

    @property
    def pooled(self) -> float:
        """The share of both together."""
        return (self.converted + self.control_converted) / (self.units + self.control_units)

    @property
    def null_variance(self) -> float:
        """The variance of the difference if there is none in truth."""
        return self.pooled * (1 - self.pooled) * (1 / self.units + 1 / self.control_units)

    @property
    def smoothed(self) -> float:
        """As `pooled`, with half a conversion and half a failure more, so that it is never 0 or 1."""
        return (self.converted + self.control_converted + 0.5) / (self.units + self.control_units + 1)

    @property
    def smoothed_variance(self) -> float:
        """As `null_variance`, never 0: the test plans by it before the first conversion."""
        return self.smoothed * (1 - self.smoothed) * (1 / self.units + 1 / self.control_units)

    @property
    def statistic(self) -> float:
        """The signed root of Pearson's chi², 0 if all or none converted.

        Pearson, K. (1900); without the continuity correction, which makes the test too conservative: Campbell, I.
        (2007), Chi-squared and Fisher-Irwin tests of two-by-two tables, Statistics in Medicine 26, 3661-3675.
        """
        variance = self.null_variance
        return self.difference / math.sqrt(variance) if variance > 0 else 0.0

    @property
    def p_value(self) -> float:
        """Two-sided, of Pearson's chi² with 1 degree of freedom."""
        return float(2 * special.ndtr(-abs(self.statistic)))

    @property
    def p_value_of_fall(self) -> float:
        """One-sided: small if the variant's share is lower."""
        return float(special.ndtr(self.statistic))

    def critical_value(self, alpha: float) -> float:
        """What the absolute statistic exceeds with probability alpha if there is no difference."""
        return normal_quantile(alpha)

    def difference_interval(self, critical: float) -> Estimate:
        """The differences whose score test has an absolute statistic of at most `critical`.

        Mee, R. W. (1984), Confidence bounds for the difference between two probabilities, Biometrics 40, 1175-1176;
        the constrained estimates are those of Miettinen, O. and Nurminen, M. (1985), Comparative analysis of two
        rates, Statistics in Medicine 4, 213-226, whose factor N / (N - 1) is left out, as chi² has none.
        """
        found = self.difference

        def is_within(difference: float) -> bool:
            control = self._control_share_at_difference(difference)
            variance = _variance(control, self.control_units) + _variance(control + difference, self.units)
            return _is_within(found - difference, variance, critical)

        return Estimate(found, _bound(is_within, found, -1.0), _bound(is_within, found, 1.0))

    def lift_interval(self, critical: float) -> Estimate | None:
        """The lifts whose score test has an absolute statistic of at most `critical`. None if the control has no
        conversion.

        Koopman, P. A. R. (1984), Confidence intervals for the ratio of two binomial proportions, Biometrics 40,
        513-517, in the form of Miettinen and Nurminen (1985) without their factor; recommended by Fagerland, M. W.,
        Lydersen, S. and Laake, P. (2015), Statistical Methods in Medical Research 24, 224-254.
        """
        lift = self.lift
        if lift is None:
            return None
        share, control_share = self.converted / self.units, self.control_converted / self.control_units

        def is_within(log_ratio: float) -> bool:
            ratio = math.exp(log_ratio)
            control = self._control_share_at_ratio(ratio)
            variance = _variance(ratio * control, self.units) + ratio**2 * _variance(control, self.control_units)
            return _is_within(share - ratio * control_share, variance, critical)

        if self.converted:
            start = math.log1p(lift)
            low = math.expm1(_bound(is_within, start, _outside(is_within, start, -1.0)))
        else:  # the search for the upper bound begins at a ratio that expects far less than one conversion
            start = -math.log(self.units) - 40
            low = -1.0
        return Estimate(lift, low, math.expm1(_bound(is_within, start, _outside(is_within, start, 1.0))))

    def _control_share_at_difference(self, difference: float) -> float:
        """The most likely share of the control if the difference is that: Miettinen and Nurminen (1985), appendix."""
        total = self.units + self.control_units
        converted = self.converted + self.control_converted
        a = float(total)
        b = (self.units + 2 * self.control_units) * difference - total - converted
        c = (self.control_units * difference - total - 2 * self.control_converted) * difference + converted
        d = self.control_converted * difference * (1 - difference)
        v = (b / (3 * a)) ** 3 - b * c / (6 * a * a) + d / (2 * a)
        u = math.copysign(math.sqrt(max((b / (3 * a)) ** 2 - c / (3 * a), 0.0)), v)
        angle = math.acos(min(max(v / u**3, -1.0), 1.0)) if u else 0.0
        share = 2 * u * math.cos((math.pi + angle) / 3) - b / (3 * a)
        return min(max(share, 0.0, -difference), 1.0, 1 - difference)

    def _control_share_at_ratio(self, ratio: float) -> float:
        """The most likely share of the control if the variant's is `ratio` times that: Miettinen and Nurminen, too."""
        a = (self.units + self.control_units) * ratio
        b = self.units * ratio + self.converted + self.control_units + self.control_converted * ratio
        c = self.converted + self.control_converted
        share = 2 * c / (b + math.sqrt(max(b * b - 4 * a * c, 0.0)))
        return min(share, 1.0, 1 / ratio)


def _variance(share: float, units: int) -> float:
    return max(share * (1 - share), 0.0) / units


def _is_within(distance: float, variance: float, critical: float) -> bool:
    return distance * distance <= critical * critical * variance


def _outside(is_within: Callable[[float], bool], start: float, step: float) -> float:
    """A value beyond the bound, in doubling steps."""
    while is_within(start + step):
        step *= 2
    return start + step


def _bound(is_within: Callable[[float], bool], inside: float, outside: float) -> float:
    """The value between both where `is_within` changes, by bisection."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if is_within(middle):
            inside = middle
        else:
            outside = middle
    return inside
