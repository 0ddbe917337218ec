"""Whether the units are split as planned."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import special

from .figures import VariantFigures
from .results import SampleRatio

LEAST_UNITS = 100
"""Below, the split is not judged."""
THRESHOLD = 0.001
"""A p-value below is no accident."""


def sample_ratio(variants: Sequence[VariantFigures]) -> SampleRatio:
    """Compare the units of the variants with the planned weights, by Pearson's chi² for goodness of fit.

    Fabijan, A. et al. (2019), Diagnosing sample ratio mismatch in online controlled experiments, KDD, 2156-2164;
    Kohavi, R., Tang, D. and Xu, Y. (2020), Trustworthy online controlled experiments, chapter 21.
    """
    units = sum(variant.units for variant in variants)
    observed = tuple(variant.units / units if units else 0.0 for variant in variants)
    weights = [variant.weight for variant in variants if variant.weight is not None]
    if len(weights) < len(variants) or not variants:
        return SampleRatio(observed, None, None, is_broken=False)
    total = sum(weights)
    planned = tuple(weight / total for weight in weights)
    if units < LEAST_UNITS:
        return SampleRatio(observed, planned, None, is_broken=False)
    if any(variant.units and not share for variant, share in zip(variants, planned, strict=True)):
        p_value = 0.0  # a unit has seen a variant that nobody was to see
    else:
        expected = [(variant.units, share * units) for variant, share in zip(variants, planned, strict=True) if share]
        chi_square = sum((count - wanted) ** 2 / wanted for count, wanted in expected)
        p_value = float(special.chdtrc(len(expected) - 1, chi_square)) if len(expected) > 1 else 1.0
    return SampleRatio(observed, planned, p_value, is_broken=p_value < THRESHOLD)
