"""Means: against published examples, SciPy and statsmodels, and at the edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pytest
import scipy
from hypothesis import example, given
from hypothesis import strategies as st

from usage_instrument.errors import ExperimentError
from usage_instrument.experiments.figures import VariantFigures
from usage_instrument.experiments.means import Means, student

samples = st.lists(st.floats(-1000, 1000).map(lambda value: round(value, 3)), min_size=2, max_size=40)


def figures(name: str, sample: Sequence[float]) -> VariantFigures:
    return VariantFigures(name, len(sample), 0, math.fsum(sample), math.fsum(value * value for value in sample))


def means(control: Sequence[float], variant: Sequence[float]) -> Means:
    return Means(figures("control", control), figures("variant", variant))


# The first ten of rnorm() of R after set.seed(12345).
NORMAL = (0.5855288, 0.7094660, -0.1093033, -0.4534972, 0.6058875)
OTHER = (-1.8179560, 0.6300986, -0.2761841, -0.2841597, -0.9193220)


def test_welch_as_published() -> None:
    """Example 1 of the article Welch's t-test of the English Wikipedia."""
    first = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
    second = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4]
    pair = means(second, first)
    assert pair.statistic == pytest.approx(-2.46, abs=0.005)
    assert pair.degrees == pytest.approx(24.99, abs=0.005)
    assert pair.p_value == pytest.approx(0.021, abs=0.0005)


def test_welch_and_fieller_as_r() -> None:
    """`t.test` of R, and `t.test.ratio` of its package mratios, on `rnorm(5, 1)` and `rnorm(5, 2)` after seed 12345."""
    pair = means([2 + each for each in OTHER], [1 + each for each in NORMAL])
    assert (pair.statistic, pair.degrees) == pytest.approx((-0.4263, 6.363), abs=5e-4)
    assert pair.p_value == pytest.approx(0.684, abs=5e-4)
    difference = pair.difference_interval(pair.critical_value(0.05))
    assert difference is not None
    assert (difference.low, difference.high) == pytest.approx((-1.3249365, 0.9271785), abs=1e-6)
    # mratios has the degrees of freedom of the estimated ratio, we have those of the test.
    lift = pair.lift_interval(float(scipy.stats.t.ppf(0.975, 6.938238685728117)))
    assert lift is not None
    assert (1 + lift.low, 1 + lift.value, 1 + lift.high) == pytest.approx((0.4056763, 0.8643849, 2.6170008), abs=1e-6)


@given(samples, samples)
def test_welch_as_scipy_and_statsmodels(control: list[float], variant: list[float]) -> None:
    from statsmodels.stats import weightstats  # takes seconds: with Pandas

    pair = means(control, variant)
    if min(np.ptp(control), np.ptp(variant)) < 0.01:
        return
    expected = scipy.stats.ttest_ind(variant, control, equal_var=False)
    assert pair.statistic == pytest.approx(expected.statistic, rel=1e-6, abs=1e-9)
    assert pair.p_value == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-12)
    assert pair.p_value_of_fall == pytest.approx(
        scipy.stats.ttest_ind(variant, control, equal_var=False, alternative="less").pvalue, rel=1e-5, abs=1e-12
    )
    compared = weightstats.CompareMeans(weightstats.DescrStatsW(variant), weightstats.DescrStatsW(control))
    difference = pair.difference_interval(pair.critical_value(0.05))
    assert difference is not None
    assert (difference.low, difference.high) == pytest.approx(
        compared.tconfint_diff(alpha=0.05, usevar="unequal"), rel=1e-5, abs=1e-6
    )


@given(samples)
def test_student_as_scipy(sample: list[float]) -> None:
    if np.ptp(sample) < 0.01:
        return
    estimate = student(figures("a", sample), 0.05)
    expected = scipy.stats.t.interval(0.95, len(sample) - 1, np.mean(sample), scipy.stats.sem(sample))
    assert (estimate.low, estimate.high) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(samples, samples, st.sampled_from([0.5, 0.05]))
@example([0.0, 1.0], [1.312, 1.312], 0.5)  # whose upper bound is almost infinite
def test_fieller_excludes_nothing_exactly_if_the_test_does(
    control: list[float], variant: list[float], alpha: float
) -> None:
    pair = means(control, variant)
    critical = pair.critical_value(alpha)
    lift = pair.lift_interval(critical)
    if lift is None:
        is_zero_possible = pair.control.mean <= critical * math.sqrt(pair.control.variance / len(control))
        assert is_zero_possible or not pair.null_variance
        return
    assert lift.low <= lift.value <= lift.high
    if abs(pair.p_value / alpha - 1) > 1e-6:
        assert (lift.low > 0 or lift.high < 0) == (pair.p_value < alpha)
    for ratio in (1 + lift.low, 1 + lift.high):
        distance = pair.variant.mean - ratio * pair.control.mean
        error = pair.variant.variance / len(variant) + ratio**2 * pair.control.variance / len(control)
        assert distance**2 == pytest.approx(critical**2 * error, rel=1e-4, abs=1e-9)


def test_variance_keeps_its_digits() -> None:
    sample = [10**9 + each for each in (0, 1, 2, 3)]
    assert VariantFigures("a", 4, 0, sum(sample), sum(each * each for each in sample)).variance == 5 / 3
    assert VariantFigures("a", 2, 0, Decimal("3.3"), Decimal("5.45")).variance == pytest.approx(0.005, rel=1e-12)


def test_without_variance_nothing_is_tested() -> None:
    pair = means([2.0, 2.0], [3.0, 3.0, 3.0])
    assert (pair.statistic, pair.p_value, pair.difference) == (0.0, 1.0, 1.0)
    assert (pair.difference_interval(2.0), pair.lift_interval(2.0)) == (None, None)
    assert pair.lift == 0.5


def test_negative_means_have_no_lift() -> None:
    pair = means([-5.0, -4.0, -6.0], [2.0, 1.0, 3.0])
    assert (pair.lift, pair.lift_interval(2.0)) == (None, None)
    assert pair.difference == 7.0
    assert pair.p_value == pytest.approx(scipy.stats.ttest_ind([2, 1, 3], [-5, -4, -6], equal_var=False).pvalue)


def test_very_large_counts() -> None:
    units = 10**15
    pair = Means(
        VariantFigures("a", units, 0, 3 * units, 13 * units),
        VariantFigures("b", units, 0, 3 * units + 10**8, 13 * units + 10**9),
    )
    assert pair.statistic == pytest.approx(10**8 / units / math.sqrt(2 * 4 / units), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": -1}, "units of 'a' is a whole number of at least 0, not -1"),
        ({"units": 1.5}, "units of 'a' is a whole number"),
        ({"units": True}, "units of 'a' is a whole number"),
        ({"units": 1, "converted": 2}, "'a' has 2 converted units of only 1"),
        ({"units": 1, "total": math.nan}, "total of 'a' is a finite number, not nan"),
        ({"units": 1, "total_squares": math.inf}, "total_squares of 'a' is a finite number, not inf"),
        ({"units": 1, "total": "1"}, "total of 'a' is a finite number, not '1'"),
        ({"units": 2, "total": 4, "total_squares": 7}, "total_squares of 'a' is too small for its total"),
        ({"units": 0, "total": 4, "total_squares": 16}, "total_squares of 'a' is too small for its total"),
        ({"units": 1, "weight": -1}, "the weight of 'a' is a finite number of at least 0, not -1"),
        ({"units": 1, "weight": math.nan}, "the weight of 'a' is a finite number of at least 0, not nan"),
    ],
)
def test_figures_that_cannot_be_raise(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        VariantFigures("a", **arguments)  # type: ignore[arg-type]
