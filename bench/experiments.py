"""How often an experiment without an effect is called decided by daily looks. Run it: python bench/experiments.py

Each experiment has two equal variants (A/A) and is looked at on each of 28 days. A false positive is one whose p-value
is below 0.05 on any day. The naive p is that of chi² or of Welch's t, which are made for one look. Then experiments
with an effect: how many find it, on which day, and how many intervals miss it on any day. And what assigning costs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from rounds import Bar, Result, Table, compare, main, now, times
from scipy import special

from usage_instrument.experiments import Metric, VariantFigures, assign
from usage_instrument.experiments.pairs import mixture_of, pair_of
from usage_instrument.experiments.sample_ratio import LEAST_UNITS, THRESHOLD
from usage_instrument.experiments.sequential import always_valid_p, always_valid_p_of_fall, critical_value

EXPERIMENTS, DAYS, ALPHA = 2_000, 28, 0.05
"""Of the simulation."""
SEED = 2026

Draw: TypeAlias = Callable[[Any, int], Any]
"""Draws the cumulative units, converted units, sums and sums of squares of experiments on each day."""


def conversions(share: float, daily: int, lift: float = 0.0) -> Draw:
    """Draws the cumulative figures of a variant: each unit converts, or not, on its first day."""

    def draw(random: Any, experiments: int) -> Any:
        units = random.poisson(daily, (experiments, DAYS))
        converted = random.binomial(units, share * (1 + lift))
        return np.stack([units, converted, converted, converted]).cumsum(axis=2)

    return draw


def values(share: float, daily: int, lift: float = 0.0) -> Draw:
    """As conversions, with a value of each converted unit from a lognormal distribution, whose tail is heavy."""

    def draw(random: Any, experiments: int) -> Any:
        units = random.poisson(daily, (experiments, DAYS))
        converted = random.binomial(units, share)
        figures = np.zeros((4, experiments, DAYS))
        figures[0], figures[1] = units, converted
        each = random.lognormal(3, 1, converted.sum()) * (1 + lift)
        cells = np.repeat(np.arange(converted.size), converted.ravel())
        figures[2] = np.bincount(cells, each, converted.size).reshape(converted.shape)
        figures[3] = np.bincount(cells, each**2, converted.size).reshape(converted.shape)
        return figures.cumsum(axis=2)

    return draw


def looks(control: Any, variant: Any, metric: Metric, minimum_effect: float) -> tuple[Any, Any, Any, Any]:
    """The difference, its standard error of the always-valid test, the naive p and the mixture's ratio, on each day.

    They are calculated for all at once, since the package needs 0.1 ms each, and compared with the package for some.
    """
    control, variant = (figures.astype(float) for figures in (control, variant))
    units = control[0] + variant[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "converted":
            difference = variant[1] / variant[0] - control[1] / control[0]
            pooled, smoothed = ((control[1] + variant[1] + more) / (units + 2 * more) for more in (0.0, 0.5))
            inverse = 1 / control[0] + 1 / variant[0]
            error, planned = (np.sqrt(share * (1 - share) * inverse) for share in (pooled, smoothed))
            least = minimum_effect * smoothed
            naive = np.where(error > 0, 2 * special.ndtr(-np.abs(difference / error)), 1.0)
        else:
            means = [each[2] / each[0] for each in (control, variant)]
            spreads = [each[3] - each[2] ** 2 / each[0] for each in (control, variant)]
            parts = [spread / (each[0] - 1) / each[0] for spread, each in zip(spreads, (control, variant), strict=True)]
            difference, error = means[1] - means[0], np.sqrt(parts[0] + parts[1])
            degrees = error**4 / (parts[0] ** 2 / (control[0] - 1) + parts[1] ** 2 / (variant[0] - 1))
            deviation = np.sqrt((spreads[0] + spreads[1]) / (units - 2))
            least = np.maximum(minimum_effect * (control[2] + variant[2]) / units, 0.01 * deviation)
            naive = np.where(error > 0, 2 * special.stdtr(degrees, -np.abs(difference / error)), 1.0)
            is_settled = (control[1] + variant[1]) * np.minimum(control[0], variant[0]) >= 25 * units
            error = planned = np.where(
                is_settled & (error > 0),
                np.maximum(error, deviation * np.sqrt(1 / control[0] + 1 / variant[0])),
                0.0,
            )
        ratio = (least / planned) ** 2
    is_known = (error > 0) & np.isfinite(error)
    difference, error, ratio = (np.where(is_known, each, 0) for each in (difference, error, ratio))
    found = np.stack([difference, error, naive, ratio])
    _compare(found, control, variant, metric, minimum_effect, is_known)
    return difference, error, naive, ratio


def _compare(found: Any, control: Any, variant: Any, metric: Metric, minimum_effect: float, is_known: Any) -> None:
    """Fail if the package calculates otherwise."""
    for place in np.argwhere(is_known)[:: max(1, is_known.sum() // 200)]:
        pair = pair_of(_figures("a", control, place), _figures("b", variant, place), metric)
        mixture = mixture_of(pair, minimum_effect)
        ours = pair.difference, pair.null_variance**0.5 * mixture.inflation, pair.p_value, mixture.ratio
        np.testing.assert_allclose(found[(slice(None), *place)], ours, rtol=1e-6, atol=1e-9)


def _figures(name: str, drawn: Any, place: Any) -> VariantFigures:
    units, converted, total, squares = (drawn[(row, *place)].item() for row in range(4))
    return VariantFigures(name, int(units), int(converted), total, squares)


class Case(NamedTuple):
    """Two variants that are equal."""

    name: str
    metric: Metric
    control: Draw
    variant: Draw
    minimum_effect: float = 0.1
    weights: tuple[float, float] = (0.5, 0.5)


CASES = (
    Case("10 % convert, 500 units a day", "converted", conversions(0.1, 500), conversions(0.1, 500)),
    Case("the same, minimum effect 2 %", "converted", conversions(0.1, 500), conversions(0.1, 500), 0.02),
    Case("the same, minimum effect 50 %", "converted", conversions(0.1, 500), conversions(0.1, 500), 0.5),
    Case("1 % convert, 50 units a day, 90 %", "converted", conversions(0.01, 50), conversions(0.01, 50), 0.9),
    Case("50 % convert, 20,000 units a day", "converted", conversions(0.5, 20_000), conversions(0.5, 20_000)),
    Case(
        "10 % convert, 900 and 100 units a day",
        "converted",
        conversions(0.1, 900),
        conversions(0.1, 100),
        0.3,
        (0.9, 0.1),
    ),
    Case("values of 10 %, 200 units a day, 50 %", "value", values(0.1, 200), values(0.1, 200), 0.5),
    Case("values of 5 %, 20 units a day, 90 %", "value", values(0.05, 20), values(0.05, 20), 0.9),
    Case("values of 5 %, 950 and 50 units a day", "value", values(0.05, 950), values(0.05, 50), 0.5, (0.95, 0.05)),
)


def measure(scale: float) -> Iterator[Result]:
    random = np.random.default_rng(SEED)
    experiments = max(100, round(EXPERIMENTS * scale))
    print(f"\n{experiments:,} A/A tests, looked at on {DAYS} days; false positives:")
    print(f"  {'':40}  naive p, one look   naive p, every day   always-valid p, every day")
    worst = alarms = broken = 0.0
    for case in CASES:
        drawn = case.control(random, experiments), case.variant(random, experiments)
        estimate, error, naive, ratio = looks(*drawn, case.metric, case.minimum_effect)
        always = always_valid_p(_statistic(estimate, error), ratio)
        rates = [np.mean(naive[:, -1] < ALPHA), *(np.mean((p < ALPHA).any(axis=1)) for p in (naive, always))]
        print(f"  {case.name:40}  {rates[0]:17.1%}   {rates[1]:18.1%}   {rates[2]:25.1%}", flush=True)
        worst = max(worst, rates[2])
        falls = always_valid_p_of_fall(_statistic(estimate, error), ratio)
        alarms = max(alarms, np.mean((falls < ALPHA).any(axis=1)))
        broken = max(broken, np.mean(_is_broken(*drawn, case.weights).any(axis=1)))
    yield Bar("false positives of the always-valid p, every day, at worst", worst, ALPHA)
    yield Bar("false alarms of a guardrail, every day, at worst", alarms, ALPHA)
    yield Bar("sound splits called broken, every day, at worst", broken, 0.02)
    yield from _with_effect(
        Case(
            "10 % convert, 2,000 units a day, +10 %", "converted", conversions(0.1, 2000), conversions(0.1, 2000, 0.1)
        ),
        random,
        experiments,
        0.01,
    )
    yield from _with_effect(
        Case("values of 10 %, 2,000 units a day, +30 %", "value", values(0.1, 2000), values(0.1, 2000, 0.3), 0.3),
        random,
        experiments,
        0.1 * 0.3 * np.exp(3.5),
    )
    yield _assigning(scale)


def _statistic(estimate: Any, error: Any) -> Any:
    return np.divide(estimate, error, out=np.zeros_like(error), where=error > 0)


def _is_broken(control: Any, variant: Any, weights: tuple[float, float]) -> Any:
    units = control[0] + variant[0]
    expected = [weight * units for weight in weights]
    chi_square = sum(
        (each[0] - wanted) ** 2 / wanted for each, wanted in zip((control, variant), expected, strict=True)
    )
    return (units >= LEAST_UNITS) & (special.chdtrc(1, chi_square) < THRESHOLD)


def _assigning(scale: float) -> Table:
    units = [str(number) for number in range(1000)]

    def case(call: Callable[[str], object]) -> Callable[[], float]:
        def run() -> float:
            start = now()
            for unit in units:
                call(unit)
            return (now() - start) / len(units)

        return run

    names, weights = ["red", "blue"], {"red": 1, "blue": 3}
    cases = {
        "SHA-256 of the text": case(
            lambda unit: hashlib.sha256(f"12:button_color,{len(unit)}:{unit},".encode()).digest()
        ),
        "assign, equal weights": case(lambda unit: assign("button_color", unit, names)),
        "assign, weights": case(lambda unit: assign("button_color", unit, weights)),
    }
    return compare("Assigning a unit", cases, "SHA-256 of the text", rounds=times(100, scale))


def _with_effect(case: Case, random: Any, experiments: int, effect: float) -> Iterator[Result]:
    drawn = case.control(random, experiments), case.variant(random, experiments)
    estimate, error, _, ratio = looks(*drawn, case.metric, case.minimum_effect)
    width = np.where(error > 0, critical_value(ratio, ALPHA) * error, np.inf)
    is_decided = np.abs(estimate) > width
    decided = is_decided.any(axis=1)
    days = np.where(decided, is_decided.argmax(axis=1) + 1, DAYS + 1)
    print(f"\n{case.name}: {decided.mean():.0%} find the effect, half of them by day {np.median(days):.0f}")
    yield Bar(
        "intervals that miss the effect on any day", np.mean((np.abs(estimate - effect) > width).any(axis=1)), ALPHA
    )


if __name__ == "__main__":
    main(measure, __doc__, "scipy", "numpy")
