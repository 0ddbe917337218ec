"""How many units an experiment needs."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy import special

from usage_instrument.errors import ExperimentError

from .proportions import normal_quantile
from .sequential import critical_value

SMALLEST_EFFECT = 1e-6
"""The smallest minimum effect, relative: no experiment is large enough for a smaller one."""
_MOST_UNITS = 1e15
"""No experiment has more."""


def sample_size(
    baseline: float,
    minimum_effect: float,
    *,
    deviation: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
    comparisons: int = 1,
    always_valid: bool = True,
) -> int:
    """The units that each variant needs, so that an effect of the minimum size is found with probability `power`.

    `baseline` is the control's share of converted units, or its mean if the standard deviation of a unit's metric is
    given by `deviation`. `minimum_effect` is relative: 0.1 is +10 %, -0.1 is -10 %. `comparisons` is the number of
    variants beside the control, among which alpha is divided.

    With `always_valid`, the number is for an experiment that is looked at daily and stopped at its verdict. Without, it
    is for one test at the end, and about half as large.

    `n = (c sqrt(2 p (1 - p)) + z sqrt(p1 (1 - p1) + p2 (1 - p2)))² / (p2 - p1)²`, with p the mean of both shares and z
    the normal quantile of the power: Fleiss, J. L., Levin, B. and Paik, M. C. (2003), Statistical methods for rates and
    proportions, 3rd edition, equation 4.14. c is the critical value: the normal quantile of alpha for one test, and
    that of the mixture at this n for many looks. For means, `2 (c + z)² deviation² / difference²`.

    Raises ExperimentError for a baseline that is no share between 0 and 1, a mean or deviation that is not positive, an
    effect of 0 or beyond a share of 1, a power or alpha that is not between 0 and 1, and more than 10**15 units.
    """
    checked_fraction(alpha, "alpha")
    checked_fraction(power, "power")
    if isinstance(comparisons, bool) or not isinstance(comparisons, int) or comparisons < 1:
        raise ExperimentError(f"comparisons is a whole number of at least 1, not {comparisons!r}")
    if not math.isfinite(minimum_effect) or abs(minimum_effect) < SMALLEST_EFFECT or minimum_effect < -1:
        raise ExperimentError(f"minimum_effect is a relative effect, such as 0.1 for +10 %, not {minimum_effect!r}")
    difference = baseline * minimum_effect
    if deviation is not None:
        if not (0 < baseline < math.inf and 0 < deviation < math.inf):
            raise ExperimentError(f"a mean and its deviation are positive, not {baseline!r} and {deviation!r}")
        null = alternative = 2 * deviation**2
    else:
        other = baseline + difference
        if not (0 < baseline < 1 and 0 <= other <= 1):
            raise ExperimentError(
                f"the share with an effect of {minimum_effect!r} on {baseline!r} is not between 0 and 1"
            )
        middle = (baseline + other) / 2
        null, alternative = 2 * middle * (1 - middle), baseline * (1 - baseline) + other * (1 - other)
    units = required_units(
        difference, null, alternative, power=power, alpha=alpha / comparisons, always_valid=always_valid
    )
    if not math.isfinite(units):
        raise ExperimentError("no experiment has as many units: choose a greater minimum_effect")
    return math.ceil(units)


def required_units(
    difference: float, null: float, alternative: float, *, power: float, alpha: float, always_valid: bool = True
) -> float:
    """The number n of units at which the difference is found with that power, if the variance of its estimate is
    `null / n` without a difference and `alternative / n` with it. Infinite beyond 10**15."""
    quantile = float(special.ndtri(power))

    def is_enough(units: float) -> bool:
        critical = (
            float(critical_value(difference**2 * units / null, alpha)) if always_valid else normal_quantile(alpha)
        )
        reached = abs(difference) * math.sqrt(units)
        return reached >= critical * math.sqrt(null) + quantile * math.sqrt(alternative)

    return _least(is_enough)


def certain_units(difference: float, null: float, *, alpha: float) -> float:
    """The number of units at which the always-valid interval is narrower than the difference, so that it cannot contain
    both no effect and the minimum effect. Infinite beyond 10**15."""

    def is_enough(units: float) -> bool:
        return 2 * float(critical_value(difference**2 * units / null, alpha)) * math.sqrt(null / units) <= abs(
            difference
        )

    return _least(is_enough)


def checked_fraction(value: object, name: str) -> float:
    """A number between 0 and 1, both excluded. Raises ExperimentError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ExperimentError(f"{name} is a number between 0 and 1, not {value!r}")
    return float(value)


def _least(is_enough: Callable[[float], bool]) -> float:
    """The least number that is enough, to 12 digits."""
    high = 1.0
    while not is_enough(high):
        high *= 2
        if high > _MOST_UNITS:
            return math.inf
    low = high / 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
