"""The check of the split: against published examples and SciPy."""

from __future__ import annotations

import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.experiments.figures import VariantFigures
from usage_instrument.experiments.results import SampleRatio
from usage_instrument.experiments.sample_ratio import sample_ratio


def ratio(*units_and_weights: tuple[int, float | None]) -> SampleRatio:
    return sample_ratio([VariantFigures(str(i), n, weight=w) for i, (n, w) in enumerate(units_and_weights)])


@pytest.mark.parametrize(
    ("units", "p_value"),
    [
        ((600, 400), 2.54e-10),  # the article Sample ratio mismatch of the English Wikipedia
        ((821_588, 815_482), 1.8e-6),  # Kohavi, Tang and Xu (2020), chapter 21
    ],
)
def test_as_published(units: tuple[int, int], p_value: float) -> None:
    found = ratio(*((each, 1) for each in units))
    assert found.p_value == pytest.approx(p_value, rel=0.02)
    assert found.is_broken


@given(st.lists(st.tuples(st.integers(1, 10_000), st.integers(1, 9)), min_size=2, max_size=6))
def test_as_scipy(variants: list[tuple[int, int]]) -> None:
    found = ratio(*variants)
    units, total = sum(n for n, _ in variants), sum(w for _, w in variants)
    if units < 100:
        assert (found.p_value, found.is_broken) == (None, False)
        return
    expected = scipy.stats.chisquare([n for n, _ in variants], [w / total * units for _, w in variants]).pvalue
    assert found.p_value == pytest.approx(expected, rel=1e-6, abs=1e-300)
    assert found.is_broken == (expected < 0.001)
    assert sum(found.observed) == pytest.approx(1)


def test_the_threshold_and_the_least_units() -> None:
    assert ratio((99, 1), (0, 1)).p_value is None
    assert ratio((100, 1), (0, 1)).is_broken
    assert not ratio((66, 1), (34, 1)).is_broken  # p = 0.0014
    assert ratio((67, 1), (33, 1)).is_broken  # p = 0.0007


def test_unknown_weights_are_not_checked() -> None:
    assert ratio((900, None), (100, None)) == SampleRatio((0.9, 0.1), None, None, is_broken=False)
    assert ratio((900, 1), (100, None)).planned is None


def test_edges() -> None:
    assert ratio() == SampleRatio((), None, None, is_broken=False)
    assert ratio((0, 1), (0, 1)).observed == (0.0, 0.0)
    assert ratio((500, 1)).p_value == 1.0
    assert ratio((500, 1), (0, 0)).p_value == 1.0
    assert ratio((500, 1), (1, 0)).p_value == 0.0
    assert ratio((10**15, 1), (10**15 + 10**7, 1)).is_broken is False
