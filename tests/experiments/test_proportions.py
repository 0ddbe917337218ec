"""Shares: against published examples, statsmodels and SciPy, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.experiments.proportions import Proportions, normal_quantile, wilson
from usage_instrument.experiments.results import Estimate

Z = normal_quantile(0.05)
counts = st.integers(1, 3000).flatmap(lambda units: st.tuples(st.integers(0, units), st.just(units)))


def bounds(estimate: Estimate | None) -> tuple[float, float]:
    assert estimate is not None
    return estimate.low, estimate.high


@pytest.mark.parametrize(
    ("converted", "units", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(converted: int, units: int, low: float, high: float) -> None:
    """Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3."""
    assert bounds(wilson(converted, units, 0.05)) == pytest.approx((low, high), abs=5e-5)


@given(counts, st.sampled_from([0.2, 0.05, 0.001]))
def test_wilson_as_statsmodels(count: tuple[int, int], alpha: float) -> None:
    from statsmodels.stats import proportion  # takes seconds: with Pandas

    expected = proportion.proportion_confint(*count, alpha=alpha, method="wilson")
    estimate = wilson(*count, alpha)
    assert bounds(estimate) == pytest.approx(expected, abs=1e-12)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_wilson_of_very_many_units() -> None:
    estimate = wilson(10**17, 10**18, 0.05)
    assert estimate.high - estimate.low == pytest.approx(2 * Z * math.sqrt(0.09 / 10**18), rel=1e-6)


def test_chi_square_as_published() -> None:
    """Fagerland, Lydersen and Laake (2017), Statistical analysis of contingency tables, chapter 4: 3 of 4, 1 of 4."""
    pair = Proportions(1, 4, 3, 4)
    assert pair.statistic**2 == pytest.approx(2.0)
    assert pair.p_value == pytest.approx(0.15730, abs=5e-6)


@given(counts, counts)
def test_chi_square_as_scipy_and_statsmodels(control: tuple[int, int], variant: tuple[int, int]) -> None:
    from statsmodels.stats import proportion  # takes seconds: with Pandas

    pair = Proportions(*control, *variant)
    converted = [pair.control_converted, pair.converted]
    units = [pair.control_units, pair.units]
    if 0 < sum(converted) < sum(units):
        table = np.array([converted, np.subtract(units, converted)])
        assert pair.p_value == pytest.approx(scipy.stats.chi2_contingency(table, correction=False).pvalue, rel=1e-8)
        statistic, p_value = proportion.proportions_ztest(converted[::-1], units[::-1])
        assert pair.statistic == pytest.approx(statistic, abs=1e-9)
        assert pair.p_value == pytest.approx(p_value, rel=1e-8)
        fall = proportion.proportions_ztest(converted[::-1], units[::-1], alternative="smaller")[1]
        assert pair.p_value_of_fall == pytest.approx(fall, rel=1e-8)
    else:
        assert (pair.statistic, pair.p_value, pair.p_value_of_fall) == (0.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("pair", "low", "high"),
    [
        # Fagerland, Lydersen and Laake (2017), chapter 4, of Perondi et al. (2004)
        (Proportions(1, 34, 7, 34), 1.2209, 42.5757),
        # Koopman (1984)
        (Proportions(16, 80, 36, 40), 2.940, 7.152),
    ],
)
def test_the_ratio_as_published(pair: Proportions, low: float, high: float) -> None:
    assert bounds(pair.lift_interval(Z)) == pytest.approx((low - 1, high - 1), abs=5e-4)


@pytest.mark.parametrize(
    ("pair", "low", "high"),
    [
        # Fagerland, Lydersen and Laake (2017), chapter 4, of Perondi et al. (2004)
        (Proportions(1, 34, 7, 34), 0.0284, 0.3439),
        # Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 5
        (Proportions(48, 80, 56, 70), 0.0533, 0.3377),
    ],
)
def test_the_difference_as_published(pair: Proportions, low: float, high: float) -> None:
    assert bounds(pair.difference_interval(Z)) == pytest.approx((low, high), abs=5e-5)


PAIRS = [Proportions(12, 100, 21, 90), Proportions(500, 5000, 640, 5100), Proportions(980, 1000, 1960, 2010)]


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.001])
@pytest.mark.parametrize("pair", PAIRS)
def test_the_ratio_as_statsmodels(pair: Proportions, alpha: float) -> None:
    from statsmodels.stats import proportion  # takes seconds: with Pandas

    expected = proportion.confint_proportions_2indep(
        pair.converted, pair.units, pair.control_converted, pair.control_units,
        method="score", compare="ratio", alpha=alpha, correction=False,
    )  # fmt: skip
    low, high = bounds(pair.lift_interval(pair.critical_value(alpha)))
    assert (1 + low, 1 + high) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.001])
@pytest.mark.parametrize("pair", [*PAIRS, Proportions(0, 50, 3, 60), Proportions(50, 50, 55, 60)])
def test_the_difference_as_its_definition(pair: Proportions, alpha: float) -> None:
    """At a bound, the score test has the p-value alpha. SciPy finds the shares that are the most likely there; those of
    statsmodels 0.14 and 0.15 are others, and its intervals not the published ones."""
    interval = pair.difference_interval(pair.critical_value(alpha))
    for bound in bounds(interval):
        least, most = max(0.0, -bound), min(1.0, 1 - bound)

        def unlikely(share: float, bound: float = bound) -> float:
            return -float(
                scipy.stats.binom.logpmf(pair.control_converted, pair.control_units, share)
                + scipy.stats.binom.logpmf(pair.converted, pair.units, share + bound)
            )

        control = scipy.optimize.minimize_scalar(
            unlikely, bounds=(least, most), method="bounded", options={"xatol": 1e-12}
        ).x
        variance = control * (1 - control) / pair.control_units
        variance += (control + bound) * (1 - control - bound) / pair.units
        statistic = (pair.difference - bound) / math.sqrt(variance)
        assert 2 * scipy.stats.norm.sf(abs(statistic)) == pytest.approx(alpha, rel=1e-3)


@given(counts, counts, st.sampled_from([0.3, 0.05, 1e-6]))
def test_an_interval_excludes_nothing_exactly_if_the_test_does(
    control: tuple[int, int], variant: tuple[int, int], alpha: float
) -> None:
    pair = Proportions(*control, *variant)
    critical = pair.critical_value(alpha)
    difference, lift = pair.difference_interval(critical), pair.lift_interval(critical)
    assert -1 <= difference.low <= difference.value <= difference.high <= 1
    if abs(pair.p_value / alpha - 1) > 1e-6:
        is_significant = pair.p_value < alpha
        assert (difference.low > 0 or difference.high < 0) == is_significant
        if lift is not None:
            assert (lift.low > 0 or lift.high < 0) == is_significant
            assert -1 <= lift.low <= lift.value <= lift.high < math.inf


@given(counts, counts)
def test_the_bounds_are_where_the_score_test_is_critical(control: tuple[int, int], variant: tuple[int, int]) -> None:
    """The constrained estimates are right: no other shares with that ratio make the data more likely."""
    pair = Proportions(*control, *variant)
    lift = pair.lift_interval(Z)
    if lift is None or not pair.converted:
        return
    for ratio in (1 + lift.low, 1 + lift.high):
        share = pair._control_share_at_ratio(ratio)

        def likelihood(control_share: float, ratio: float = ratio) -> float:
            shares = np.clip([control_share, ratio * control_share], 1e-300, 1 - 1e-16)
            found = [(pair.control_converted, pair.control_units), (pair.converted, pair.units)]
            return sum(float(k * np.log(p) + (n - k) * np.log1p(-p)) for p, (k, n) in zip(shares, found, strict=True))

        best = likelihood(share)
        for other in (share * (1 - 1e-3), min(share * (1 + 1e-3), 1 / ratio, 1.0)):
            assert likelihood(other) <= best + 1e-6


def test_without_conversions() -> None:
    nobody = Proportions(0, 1000, 0, 1000)
    assert (nobody.lift, nobody.lift_interval(Z), nobody.p_value) == (None, None, 1.0)
    assert bounds(nobody.difference_interval(Z)) == pytest.approx((-0.003827, 0.003827), abs=1e-6)
    gained = Proportions(0, 1000, 30, 1000)
    assert gained.lift is None
    assert bounds(gained.difference_interval(Z))[0] > 0
    lost = Proportions(30, 1000, 0, 1000)
    lift = lost.lift_interval(Z)
    assert lift is not None
    assert (lift.value, lift.low) == (-1.0, -1.0)
    assert -1 < lift.high < -0.8


def test_with_nothing_but_conversions() -> None:
    everyone = Proportions(1000, 1000, 500, 500)
    assert (everyone.statistic, everyone.p_value, everyone.lift) == (0.0, 1.0, 0.0)
    low, high = bounds(everyone.lift_interval(Z))
    assert -0.01 < low < 0 < high < 0.01
    assert bounds(Proportions(0, 10, 10, 10).difference_interval(Z))[1] == 1.0
    assert everyone.smoothed_variance > 0


def test_very_large_counts() -> None:
    pair = Proportions(10**14, 10**15, 10**14 + 10**8, 10**15)
    lift = pair.lift_interval(Z)
    assert lift is not None
    half = Z * math.sqrt(0.9 * 2 / 10**14)
    assert (lift.low, lift.value, lift.high) == pytest.approx((1e-6 - half, 1e-6, 1e-6 + half), abs=half / 100)
    assert pair.p_value == pytest.approx(2 * scipy.stats.norm.sf(1e8 / math.sqrt(2 * 0.09 * 10**15)), rel=1e-4)
