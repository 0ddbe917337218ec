"""The always-valid p: its formula, its interval, and its promise in a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from usage_instrument.experiments.figures import VariantFigures
from usage_instrument.experiments.means import Means
from usage_instrument.experiments.pairs import mixture_of
from usage_instrument.experiments.planning import certain_units, required_units
from usage_instrument.experiments.proportions import Proportions, normal_quantile
from usage_instrument.experiments.sequential import always_valid_p, always_valid_p_of_fall, critical_value

CASES = [(0.0, 1.0), (1.5, 0.1), (-1.5, 0.1), (2.5, 7.9), (-3.3, 40.0), (5.0, 2.0), (4.0, 1e6)]


def mixture(statistic: float, ratio: float, sides: float = 1.0) -> float:
    """The likelihood ratio, by quadrature over effects of the deviation sqrt(ratio), for a standard error of 1."""

    def density(effect: float) -> float:
        return float(sides * scipy.stats.norm.pdf(effect, scale=math.sqrt(ratio))) * math.exp(
            statistic * effect - effect**2 / 2
        )

    above = 0.0 if sides == 2 else math.inf
    return float(scipy.integrate.quad(density, -math.inf, above, epsabs=1e-13, epsrel=1e-11, limit=500)[0])


@pytest.mark.parametrize(("statistic", "ratio"), CASES)
def test_the_p_is_one_over_the_mixture(statistic: float, ratio: float) -> None:
    assert always_valid_p(statistic, ratio) == pytest.approx(min(1, 1 / mixture(statistic, ratio)), rel=1e-6)
    fall = 1 / mixture(statistic, ratio, sides=2)
    assert always_valid_p_of_fall(statistic, ratio) == pytest.approx(min(1, fall), rel=1e-6)


@pytest.mark.parametrize("units", [1_000, 40_000])
def test_the_p_as_johari_writes_it(units: int) -> None:
    """Johari et al. (2017), Peeking at A/B tests: n pairs, V the sum of both variances, theta_0 = 0."""
    control, variant, tau = 0.10, 0.11, 0.01
    v = control * (1 - control) + variant * (1 - variant)
    shrunk = v + units * tau**2
    likelihood = math.sqrt(v / shrunk) * math.exp(units**2 * tau**2 * (variant - control) ** 2 / (2 * v * shrunk))
    error = math.sqrt(v / units)
    assert always_valid_p((variant - control) / error, (tau / error) ** 2) == pytest.approx(min(1, 1 / likelihood))


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("ratio", [1e-6, 0.1, 7.9, 1e9])
def test_the_p_is_alpha_at_the_critical_value(ratio: float, alpha: float) -> None:
    critical = critical_value(ratio, alpha)
    assert always_valid_p(critical, ratio) == pytest.approx(alpha)
    assert always_valid_p(-critical, ratio) == pytest.approx(alpha)
    assert critical > normal_quantile(alpha)


def test_without_data() -> None:
    assert (always_valid_p(0.0, 0.0), always_valid_p_of_fall(0.0, 0.0)) == (1.0, 1.0)
    assert critical_value(0.0, 0.05) == math.inf


def test_extreme_statistics() -> None:
    assert always_valid_p(1e6, 10.0) == 0.0
    assert always_valid_p_of_fall(-1e6, 10.0) == 0.0
    assert always_valid_p_of_fall(1e6, 10.0) == 1.0


def test_arrays() -> None:
    statistic, ratio = np.array(CASES).T
    assert always_valid_p(statistic, ratio) == pytest.approx([float(always_valid_p(*each)) for each in CASES])


def test_the_minimum_effect_is_a_good_deviation_of_the_mixture() -> None:
    """At the units at which one test would find the effect, no other deviation has a much lower critical value."""
    units = required_units(0.01, 0.18, 0.18, power=0.8, alpha=0.05, always_valid=False)
    ratio = 0.01**2 * units / 0.18
    best = min(float(critical_value(ratio * factor, 0.05)) for factor in np.geomspace(0.01, 100, 400))
    assert critical_value(ratio, 0.05) < best * 1.001


def simulate(share: float, daily: int, minimum_effect: float, lift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The naive and the always-valid p of 500 experiments on each of 28 days."""
    random = np.random.default_rng(7)
    units = random.poisson(daily, (2, 500, 28))
    converted = random.binomial(units, np.array([share, share * (1 + lift)])[:, None, None])
    units, converted = units.cumsum(axis=2), converted.cumsum(axis=2)
    naive, always = np.ones((500, 28)), np.ones((500, 28))
    for place in np.ndindex(500, 28):
        pair = Proportions(*(int(each[(side, *place)]) for side in (0, 1) for each in (converted, units)))
        naive[place] = pair.p_value
        always[place] = mixture_of(pair, minimum_effect).p_value
    return naive, always


@pytest.mark.parametrize(("share", "daily", "minimum_effect"), [(0.1, 500, 0.1), (0.02, 50, 0.9)])
def test_false_positives_of_daily_looks(share: float, daily: int, minimum_effect: float) -> None:
    naive, always = simulate(share, daily, minimum_effect)
    assert (naive < 0.05).any(axis=1).mean() > 0.15
    assert (always < 0.05).any(axis=1).mean() <= 0.05


def test_false_positives_of_values_in_a_small_variant() -> None:
    """The values of few units of 5 % of the traffic: their own variance is far too low, and Welch's test wrong."""
    random = np.random.default_rng(3)
    experiments, naive, always = 150, np.zeros(150, bool), np.zeros(150, bool)
    for experiment in range(experiments):
        sums = np.zeros((2, 4))
        for _ in range(28):
            for each, daily in zip(sums, (950, 50), strict=True):
                bought = random.lognormal(3, 1, random.binomial(daily, 0.02))
                each += daily, len(bought), bought.sum(), np.square(bought).sum()
            figures = [
                VariantFigures(str(i), int(n), int(k), *map(float, rest)) for i, (n, k, *rest) in enumerate(sums)
            ]
            pair = Means(*figures)
            naive[experiment] |= pair.p_value < 0.05
            always[experiment] |= mixture_of(pair, 0.5).p_value < 0.05
    assert naive.mean() > 0.4
    assert always.mean() <= 0.05


def test_a_small_variant_waits_for_values_and_takes_the_greater_variance() -> None:
    control = VariantFigures("control", 1000, 100, 1000, 20_000)
    few, more = VariantFigures("few", 100, 1, 1, 1), VariantFigures("more", 300, 30, 200, 4000)
    assert mixture_of(Means(control, few), 0.1) == (0.0, 0.0, 1.0)
    pair = Means(control, more)
    mixture = mixture_of(pair, 0.1)
    assert mixture.ratio > 0
    assert mixture.inflation >= 1
    assert mixture.statistic == pytest.approx(pair.difference / math.sqrt(pair.cautious_variance))
    assert mixture.critical_value(0.05) == pytest.approx(mixture.inflation * critical_value(mixture.ratio, 0.05))
    assert pair.cautious_variance >= pair.null_variance
    # Without a number of units that reached the goal, all count.
    assert mixture_of(Means(VariantFigures("a", 100, 0, 50, 90), VariantFigures("b", 100, 0, 60, 99)), 0.1).ratio > 0
    assert mixture_of(Means(VariantFigures("a", 10, 0, 5, 9), VariantFigures("b", 10, 0, 6, 9)), 0.1).ratio == 0


def test_an_effect_is_found() -> None:
    """In as many units as announced, and many experiments earlier."""
    units = required_units(0.01, 2 * 0.105 * 0.895, 2 * 0.105 * 0.895, power=0.8, alpha=0.05)
    daily = math.ceil(units / 28)
    _, always = simulate(0.1, daily, 0.1, lift=0.1)
    found = (always < 0.05).any(axis=1)
    assert 0.8 < found.mean() < 0.95
    assert np.median((always < 0.05).argmax(axis=1)[found]) < 20


def test_certain_units_separate_no_effect_from_the_minimum() -> None:
    units = certain_units(0.01, 0.18, alpha=0.05)
    half = float(critical_value(0.01**2 * units / 0.18, 0.05)) * math.sqrt(0.18 / units)
    assert 2 * half == pytest.approx(0.01)
