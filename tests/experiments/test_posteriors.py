"""The probability to be the best and the expected loss: against published values, closed forms and samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.experiments.posteriors import BetaPosterior, NormalPosterior, best

counts = st.integers(0, 400).flatmap(lambda units: st.tuples(st.integers(0, units), st.just(units)))


def beta(a: int, b: int) -> BetaPosterior:
    """By the parameters of the distribution."""
    return BetaPosterior(a - 1, a + b - 2)


def miller(a: BetaPosterior, b: BetaPosterior) -> float:
    """Miller, E. (2015), Formulas for Bayesian A/B testing: the probability that b is greater than a."""
    alpha_a, beta_a = a.converted + 1, a.units - a.converted + 1
    alpha_b, beta_b = b.converted + 1, b.units - b.converted + 1
    i = np.arange(alpha_b)
    logs = scipy.special.betaln(alpha_a + i, beta_a + beta_b) - np.log(beta_b + i)
    return float(np.sum(np.exp(logs - scipy.special.betaln(1 + i, beta_b) - scipy.special.betaln(alpha_a, beta_a))))


def stucchio(a: BetaPosterior, b: BetaPosterior) -> float:
    """Stucchio, C. (2015), Bayesian A/B testing at VWO: the mean of what b has more than a, where it has."""
    more_b, more_a = BetaPosterior(b.converted + 1, b.units + 1), BetaPosterior(a.converted + 1, a.units + 1)
    mean_a, mean_b = ((each.converted + 1) / (each.units + 2) for each in (a, b))
    return mean_b * miller(a, more_b) - mean_a * miller(more_a, b)


def test_as_published() -> None:
    """The tests of cprior 0.4 (Navas-Palencia 2019), exact: A is Beta(40, 60), B is Beta(70, 90)."""
    (probability_a, loss_a), (probability_b, loss_b) = best([beta(40, 60), beta(70, 90)])
    assert (probability_a, probability_b) == pytest.approx((0.2737282537, 0.7262717462), abs=1e-9)
    assert (loss_a, loss_b) == pytest.approx((0.0481119843, 0.0106119843), abs=1e-9)


@pytest.mark.parametrize(
    ("parameters", "probability"),
    [
        ((10, 50, 60, 250), 0.7088919200),
        ((600, 550, 52, 60), 0.1223144258),
        ((1000, 900, 1200, 1000), 0.8898254504),
        ((1000, 900, 1200, 800), 0.9999982656),
        ((100, 90, 100, 90), 0.5),
    ],
)
def test_the_probability_as_published(parameters: tuple[int, int, int, int], probability: float) -> None:
    """The tests of cprior, too."""
    assert best([beta(*parameters[:2]), beta(*parameters[2:])])[1][0] == pytest.approx(probability, abs=1e-9)


@given(counts, counts)
def test_as_the_closed_forms(a: tuple[int, int], b: tuple[int, int]) -> None:
    one, other = BetaPosterior(*a), BetaPosterior(*b)
    (probability_a, loss_a), (probability_b, loss_b) = best([one, other])
    assert probability_b == pytest.approx(miller(one, other), abs=1e-8)
    assert probability_a + probability_b == pytest.approx(1, abs=1e-8)
    assert loss_a == pytest.approx(stucchio(one, other), abs=1e-8)
    assert loss_b == pytest.approx(stucchio(other, one), abs=1e-8)


@given(st.lists(counts, min_size=3, max_size=5))
def test_several_variants(each: list[tuple[int, int]]) -> None:
    found = best([BetaPosterior(*count) for count in each])
    assert sum(probability for probability, _ in found) == pytest.approx(1, abs=1e-7)
    # What two variants lose differs by their means: the best has the same mean for both.
    means = [(converted + 1) / (units + 2) for converted, units in each]
    for (_, loss), mean in zip(found, means, strict=True):
        assert loss + mean == pytest.approx(found[0][1] + means[0], abs=1e-8)
        assert loss >= 0


def test_three_variants_as_sampled() -> None:
    posteriors = [BetaPosterior(50, 500), BetaPosterior(60, 500), BetaPosterior(55, 400)]
    random = np.random.default_rng(1)
    drawn = np.array([random.beta(p.converted + 1, p.units - p.converted + 1, 1_000_000) for p in posteriors])
    wins = np.bincount(drawn.argmax(axis=0), minlength=3) / drawn.shape[1]
    losses = (drawn.max(axis=0) - drawn).mean(axis=1)
    for (probability, loss), win, expected in zip(best(posteriors), wins, losses, strict=True):
        assert (probability, loss) == pytest.approx((win, expected), abs=2e-3)


@pytest.mark.parametrize(("mean", "error"), [(0.1, 1.0), (3.0, 0.5), (-2.0, 1e-3), (1e6, 1e5)])
def test_normal_posteriors_as_the_closed_form(mean: float, error: float) -> None:
    """The difference of two is normal; its positive part has the mean `d Φ(d / s) + s φ(d / s)`."""
    found = best([NormalPosterior(0.0, 1.0), NormalPosterior(mean, error)])
    spread = math.hypot(1.0, error)
    assert found[1][0] == pytest.approx(scipy.stats.norm.cdf(mean / spread), abs=1e-9)
    for sign, (_, loss) in zip((1, -1), found, strict=True):
        d = sign * mean / spread
        expected = spread * (d * scipy.stats.norm.cdf(d) + scipy.stats.norm.pdf(d))
        assert loss == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_edges() -> None:
    assert best([BetaPosterior(3, 10)]) == [(1.0, 0.0)]
    nobody, everyone = BetaPosterior(0, 1000), BetaPosterior(1000, 1000)
    (worst, loss), (sure, nothing) = best([nobody, everyone])
    assert (worst, sure) == pytest.approx((0.0, 1.0), abs=1e-12)
    assert loss == pytest.approx(1001 / 1002 - 1 / 1002)
    assert nothing == pytest.approx(0, abs=1e-12)
    unknown = best([BetaPosterior(0, 0), BetaPosterior(0, 0)])
    assert unknown[0] == pytest.approx((0.5, 1 / 6))  # of two uniform variables, the mean of the greater is 2/3


@pytest.mark.parametrize("units", [10**6, 10**9, 10**12])
def test_large_counts_as_the_normal_approximation(units: int) -> None:
    converted = units // 10
    spread = math.sqrt(2 * 0.09 / units)
    (_, loss), (probability, _) = best(
        [BetaPosterior(converted, units), BetaPosterior(converted + round(spread * units), units)]
    )
    assert probability == pytest.approx(scipy.stats.norm.cdf(1), abs=1e-3)
    assert loss == pytest.approx(spread * (scipy.stats.norm.cdf(1) + scipy.stats.norm.pdf(1)), rel=5e-3)
