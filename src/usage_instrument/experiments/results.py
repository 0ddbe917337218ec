"""What an analysis finds. All values are immutable and of plain types: `dataclasses.asdict` makes JSON of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .figures import Metric


class Verdict(str, enum.Enum):
    """What the figures allow to say. Of a whole experiment, or of one variant against the control."""

    NO_DATA = "no_data"
    """Nobody has seen a variant, or there is only one."""
    BROKEN = "broken"
    """The units are not split as planned, so no figure can be trusted."""
    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no_difference"
    """The effect, whatever its direction, is smaller than the minimum effect."""
    UNDECIDED = "undecided"
    GUARDRAIL = "guardrail"
    """A feature that must not fall has fallen."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant against the control.

    An interval is None as long as the figures cannot bound it. Where several variants are compared with the control,
    p-values are multiplied by the number of comparisons, and intervals hold for all of them at once (Bonferroni).
    """

    control: str
    difference: Estimate | None
    """The difference of the shares (0.02 are two percentage points) or of the means, in the unit of the metric."""
    lift: Estimate | None
    """The difference relative to the control: 0.12 is +12 %. None also if the control's value may be 0 or negative."""
    p_value: float
    """Two-sided, of a test that is looked at once, after a number of units that was fixed before."""
    always_valid_p: float
    """Two-sided, however often it is looked at."""
    always_valid_difference: Estimate | None
    """As `difference`, however often it is looked at."""
    always_valid_lift: Estimate | None
    """As `lift`, however often it is looked at."""
    verdict: Verdict
    """BETTER, WORSE, NO_DIFFERENCE or UNDECIDED, by the always-valid interval."""
    units_needed: int | None
    """More units, in all variants together, after which the verdict is likely. None if it is known, or nothing is."""


@dataclass(frozen=True, slots=True)
class VariantResult:
    """A variant by itself and, unless it is the control, against the control."""

    name: str
    units: int
    converted: int
    conversion: Estimate | None
    """The share of converted units. None without units."""
    mean: Estimate | None
    """The mean of uses or values. None for the metric `converted`, and below two units."""
    probability_best: float | None
    """The probability that this variant is the best of all. It does not allow for repeated looks."""
    expected_loss: float | None
    """What choosing this variant costs on average, should another be better, in the unit of the metric."""
    comparison: Comparison | None
    """None for the control."""


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Whether the units are split as planned."""

    observed: tuple[float, ...]
    """The share of each variant, in their order."""
    planned: tuple[float, ...] | None
    """None if the weights are not known."""
    p_value: float | None
    """None below 100 units, or if the weights are not known."""
    is_broken: bool


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """A feature that must not fall, in one variant against the control."""

    feature: str
    variant: str
    metric: Metric
    always_valid_lift: Estimate | None
    """As in a Comparison: two-sided."""
    always_valid_difference: Estimate | None
    """As in a Comparison: two-sided."""
    p_value: float
    """One-sided: small if the feature has fallen. Of a test that is looked at once."""
    always_valid_p: float
    """One-sided, however often it is looked at."""
    has_fallen: bool
    """By the always-valid p."""
    has_data: bool
    """Whether any unit used the feature, with a number for the metric `value`. Without, no fall can be found."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """The analysis of an experiment."""

    metric: Metric
    verdict: Verdict
    words: str
    """The verdict for people: `Blue is better: +12 % (3 to 21 %)`."""
    leader: str | None
    """The variant that `words` is about, if it is about one."""
    control: str | None
    variants: tuple[VariantResult, ...]
    sample_ratio: SampleRatio
    excluded: int
    """Units that saw more than one variant, which no figure contains."""
    guardrails: tuple[GuardrailResult, ...]
    units_needed: int | None
    """More units, in all variants together, after which a verdict is likely. None if there is one, or nothing known."""
    minimum_effect: float
    """The smallest lift that matters."""
    alpha: float
    power: float
