"""The analysis of an experiment: each figure from the module that knows its formula, and the verdict from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from usage_instrument.errors import ExperimentError

from . import posteriors
from .figures import GuardrailFigures, Metric, VariantFigures
from .means import Means, student
from .pairs import Pair, least_difference, mixture_of, pair_of
from .planning import SMALLEST_EFFECT, certain_units, checked_fraction, required_units
from .proportions import wilson
from .results import Analysis, Comparison, Estimate, GuardrailResult, VariantResult, Verdict
from .sample_ratio import sample_ratio
from .verdict import conclude


def analyse(
    variants: Iterable[VariantFigures],
    *,
    metric: Metric = "converted",
    control: str | None = None,
    excluded: int = 0,
    guardrails: Iterable[GuardrailFigures] = (),
    minimum_effect: float = 0.1,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Analysis:
    """Analyse an experiment by the figures of its variants.

    `metric` is what decides: the share of converted units, or the mean of `uses` or of a `value`. `control` is the
    variant that the others are compared with, the first one by default. `excluded` units saw more than one variant.
    `guardrails` are features that must not fall.

    `minimum_effect` is the smallest lift that matters, 0.1 for 10 %. Fix it before the experiment begins: the
    always-valid test is the quickest for an effect of about this size, and the experiment also ends when none as large
    is possible any more. `alpha` is the probability that a difference is claimed where there is none, and `power` that
    of finding the minimum effect by the time that `units_needed` announces.

    Raises ExperimentError for figures or options that cannot be, and ConfigurationError without SciPy.
    """
    figures = tuple(variants)
    names = _checked(figures, control)
    if metric not in get_args(Metric):
        raise ExperimentError(f"metric is one of {', '.join(map(repr, get_args(Metric)))}, not {metric!r}")
    if isinstance(excluded, bool) or not isinstance(excluded, int) or excluded < 0:
        raise ExperimentError(f"excluded is a number of units, not {excluded!r}")
    if checked_fraction(minimum_effect, "minimum_effect") < SMALLEST_EFFECT:
        raise ExperimentError(f"minimum_effect is at least {SMALLEST_EFFECT:f}, not {minimum_effect!r}")
    checked_fraction(alpha, "alpha")
    checked_fraction(power, "power")
    control = names[0] if names and control is None else control
    plan = _Plan(figures, control, metric, minimum_effect, alpha, power)
    ratio = sample_ratio(figures)
    results = plan.results()
    guarded = [result for guardrail in guardrails for result in _guard(guardrail, plan)]
    verdict, leader, words = conclude(results, ratio, guarded, metric, minimum_effect)
    needed = [result.comparison.units_needed for result in results if result.comparison]
    return Analysis(
        metric=metric,
        verdict=verdict,
        words=words,
        leader=leader,
        control=control,
        variants=results,
        sample_ratio=ratio,
        excluded=excluded,
        guardrails=tuple(guarded),
        units_needed=max((units for units in needed if units), default=None) if verdict is Verdict.UNDECIDED else None,
        minimum_effect=minimum_effect,
        alpha=alpha,
        power=power,
    )


def _checked(figures: Sequence[VariantFigures], control: str | None) -> list[str]:
    names = [variant.name for variant in figures]
    if len(set(names)) < len(names):
        raise ExperimentError(f"a variant is there twice: {', '.join(names)}")
    if figures and all(variant.weight == 0 for variant in figures):
        raise ExperimentError("all weights are 0: give one a positive weight, or pass none")
    if control is not None and control not in names:
        raise ExperimentError(f"the control {control!r} is none of the variants: {', '.join(names)}")
    return names


class _Plan:
    """The variants, the control, and what was decided before."""

    def __init__(
        self,
        figures: Sequence[VariantFigures],
        control: str | None,
        metric: Metric,
        minimum_effect: float,
        alpha: float,
        power: float,
    ) -> None:
        self.figures = figures
        self.control = next((each for each in figures if each.name == control), None)
        self.metric = metric
        self.minimum_effect = minimum_effect
        self.alpha = alpha
        self.power = power
        self.comparisons = max(len(figures) - 1, 1)
        """By Bonferroni's inequality, alpha is divided among them: Dunn, O. J. (1961), Multiple comparisons among
        means, JASA 56, 52-64."""

    def results(self) -> tuple[VariantResult, ...]:
        best = _best(self.figures, self.metric)
        return tuple(
            VariantResult(
                name=each.name,
                units=each.units,
                converted=each.converted,
                conversion=wilson(each.converted, each.units, self.alpha) if each.units else None,
                mean=student(each, self.alpha) if self.metric != "converted" and each.units > 1 else None,
                probability_best=probability,
                expected_loss=loss,
                comparison=self.compare(self.control, each) if self.control and each is not self.control else None,
            )
            for each, (probability, loss) in zip(self.figures, best, strict=True)
        )

    def compare(self, control: VariantFigures, variant: VariantFigures) -> Comparison:
        pair = pair_of(control, variant, self.metric)
        if pair is None:
            return Comparison(control.name, None, None, 1.0, 1.0, None, None, Verdict.UNDECIDED, None)
        alpha = self.alpha / self.comparisons
        mixture = mixture_of(pair, self.minimum_effect)
        fixed, always = pair.critical_value(alpha), mixture.critical_value(alpha)
        difference = _interval(pair.difference_interval, always)
        lift = _interval(pair.lift_interval, always)
        verdict = self.decide(pair, lift or difference, is_relative=lift is not None)
        return Comparison(
            control=control.name,
            difference=pair.difference_interval(fixed),
            lift=pair.lift_interval(fixed),
            p_value=min(1.0, pair.p_value * self.comparisons),
            always_valid_p=min(1.0, mixture.p_value * self.comparisons),
            always_valid_difference=difference,
            always_valid_lift=lift,
            verdict=verdict,
            units_needed=self.units_needed(control, variant, pair) if verdict is Verdict.UNDECIDED else None,
        )

    def decide(self, pair: Pair, interval: Estimate | None, *, is_relative: bool) -> Verdict:
        if interval is None:
            return Verdict.UNDECIDED
        if interval.low > 0:
            return Verdict.BETTER
        if interval.high < 0:
            return Verdict.WORSE
        effect = self.minimum_effect if is_relative else least_difference(pair, self.minimum_effect)
        return Verdict.NO_DIFFERENCE if -effect < interval.low and interval.high < effect else Verdict.UNDECIDED

    def units_needed(self, control: VariantFigures, variant: VariantFigures, pair: Pair) -> int | None:
        """More units in all variants together, of which each has its planned share, or else the share it has had."""
        units = sum(each.units for each in self.figures)
        weights = [each.weight for each in self.figures if each.weight is not None]
        total = sum(weights)
        is_planned = len(weights) == len(self.figures) and control.weight and variant.weight
        shares = [(each.weight or 0) / total if is_planned else each.units / units for each in (control, variant)]
        if isinstance(pair, Means):
            variances = [max(each.variance, pair.deviation**2) for each in (control, variant)]
        elif not pair.pooled:
            return None
        else:
            variances = [pair.smoothed * (1 - pair.smoothed)] * 2
        effect, alpha = least_difference(pair, self.minimum_effect), self.alpha / self.comparisons
        variance = sum(each / share for each, share in zip(variances, shares, strict=True))
        if not variance or not effect:
            return None
        enough = required_units(effect, variance, variance, power=self.power, alpha=alpha)
        if enough <= units:
            enough = certain_units(effect, variance, alpha=alpha)
        return max(math.ceil(enough - units), 1) if math.isfinite(enough) else None


def _interval(interval: Callable[[float], Estimate | None], critical: float) -> Estimate | None:
    return interval(critical) if math.isfinite(critical) else None


def _best(figures: Sequence[VariantFigures], metric: Metric) -> list[tuple[float | None, float | None]]:
    """The probability that each variant is the best, and its expected loss; None if they cannot be known yet."""
    nothing: list[tuple[float | None, float | None]] = [(None, None)] * len(figures)
    if metric == "converted":
        if not any(each.units for each in figures):
            return nothing
        return [*posteriors.best([posteriors.BetaPosterior(each.converted, each.units) for each in figures])]
    if not figures or any(each.units < 2 or not each.variance for each in figures):
        return nothing
    errors = [math.sqrt(each.variance / each.units) for each in figures]
    return [
        *posteriors.best(
            [posteriors.NormalPosterior(each.mean, error) for each, error in zip(figures, errors, strict=True)]
        )
    ]


def _guard(guardrail: GuardrailFigures, plan: _Plan) -> list[GuardrailResult]:
    """Test whether the feature has fallen in a variant."""
    by_name = {each.name: each for each in guardrail.variants}
    if guardrail.metric not in get_args(Metric):
        raise ExperimentError(f"the metric of the guardrail {guardrail.feature!r} is wrong: {guardrail.metric!r}")
    if by_name.keys() != {each.name for each in plan.figures}:
        raise ExperimentError(f"the guardrail {guardrail.feature!r} has other variants than the experiment")
    results = []
    for each in plan.figures:
        if plan.control is None or each is plan.control:
            continue
        pair = pair_of(by_name[plan.control.name], by_name[each.name], guardrail.metric)
        lift = difference = None
        p_value = always_valid_p = 1.0
        if pair is not None:
            mixture = mixture_of(pair, plan.minimum_effect)
            always = mixture.critical_value(plan.alpha / plan.comparisons)
            lift, difference = _interval(pair.lift_interval, always), _interval(pair.difference_interval, always)
            p_value = min(1.0, pair.p_value_of_fall * plan.comparisons)
            always_valid_p = min(1.0, mixture.p_value_of_fall * plan.comparisons)
        results.append(
            GuardrailResult(
                feature=guardrail.feature,
                variant=each.name,
                metric=guardrail.metric,
                always_valid_lift=lift,
                always_valid_difference=difference,
                p_value=p_value,
                always_valid_p=always_valid_p,
                has_fallen=always_valid_p < plan.alpha,
                has_data=any(each.converted for each in guardrail.variants),
            )
        )
    return results
