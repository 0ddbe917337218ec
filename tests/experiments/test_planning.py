"""The sample size: against published examples and statsmodels."""

from __future__ import annotations

import pytest

from usage_instrument.errors import ExperimentError
from usage_instrument.experiments import sample_size


@pytest.mark.parametrize(
    ("baseline", "effect", "power", "units"),
    [
        (0.50, 0.5, 0.90, 77),  # ?power.prop.test of R: n = 76.7
        (0.01, 1.0, 0.80, 2319),  # power.prop.test(p1=.01, p2=.02, power=0.8) of R: n = 2318.165
        (0.20, 0.25, 0.80, 1094),  # power.prop.test(p1=.2, p2=.25, power=0.8) of R: n = 1093.739
        (0.25, -0.2, 0.80, 1094),
    ],
)
def test_shares_as_published(baseline: float, effect: float, power: float, units: int) -> None:
    assert sample_size(baseline, effect, power=power, always_valid=False) == units


@pytest.mark.parametrize(("mean", "deviation", "effect"), [(10.0, 5.0, 0.1), (3.0, 12.0, 0.05), (1.0, 1.0, -0.5)])
def test_means_as_statsmodels(mean: float, deviation: float, effect: float) -> None:
    from statsmodels.stats import power as power_of  # takes seconds: with Pandas

    expected = power_of.NormalIndPower().solve_power(effect * mean / deviation, alpha=0.05, power=0.8)
    assert sample_size(mean, effect, deviation=deviation, always_valid=False) == pytest.approx(expected, abs=1)


def test_daily_looks_cost_about_twice_the_units() -> None:
    assert 1.7 < sample_size(0.2, 0.25) / sample_size(0.2, 0.25, always_valid=False) < 2.2
    assert 1.7 < sample_size(10, 0.1, deviation=9) / sample_size(10, 0.1, deviation=9, always_valid=False) < 2.2


def test_more_comparisons_power_and_certainty_need_more() -> None:
    least = sample_size(0.1, 0.1)
    assert sample_size(0.1, 0.1, comparisons=2) == sample_size(0.1, 0.1, alpha=0.025) > least
    assert sample_size(0.1, 0.1, power=0.9) > least
    assert sample_size(0.1, 0.05) > 3.5 * least
    assert sample_size(1e-6, 0.01) > 10**10


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0.0, 0.1), {}, "not between 0 and 1"),
        ((1.0, 0.1), {}, "not between 0 and 1"),
        ((0.95, 0.1), {}, "the share with an effect of 0.1 on 0.95 is not between 0 and 1"),
        ((-0.1, 0.1), {}, "not between 0 and 1"),
        ((0.1, 0.0), {}, "minimum_effect is a relative effect"),
        ((0.1, float("nan")), {}, "minimum_effect is a relative effect"),
        ((0.1, -1.1), {}, "minimum_effect is a relative effect"),
        ((0.1, 1e-7), {}, "minimum_effect is a relative effect"),
        ((1e-6, 1e-6), {}, "no experiment has as many units: choose a greater minimum_effect"),
        ((0.1, 0.1), {"alpha": 0}, "alpha is a number between 0 and 1, not 0"),
        ((0.1, 0.1), {"power": 1.0}, "power is a number between 0 and 1, not 1.0"),
        ((0.1, 0.1), {"comparisons": 0}, "comparisons is a whole number"),
        ((-5.0, 0.1), {"deviation": 2.0}, "a mean and its deviation are positive"),
        ((5.0, 0.1), {"deviation": 0.0}, "a mean and its deviation are positive"),
    ],
)
def test_what_cannot_be_raises(arguments: tuple[float, float], options: dict[str, float], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        sample_size(*arguments, **options)  # type: ignore[arg-type]
