"""An analysis from the rows of `queries.experiment`, and its parts for people and for programs, with its caveats."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from usage_instrument.errors import ExperimentError

from .figures import GuardrailFigures, Metric, figures_of
from .results import Analysis, VariantResult, Verdict
from .verdict import effect_of, estimate_words, lacks_numbers

Rows = Sequence[Mapping[str, Any]]
"""The rows of `queries.experiment`."""

RUNNING = dt.timedelta(days=7)
"""An experiment that exposed nobody for longer is idle."""

_ADVICE = {
    Verdict.NO_DATA: "Call usage.variant or usage.expose where a user sees the variant.",
    Verdict.BROKEN: (
        "No other figure can be trusted. Look for a variant that fails to load or redirects, for bots, and for weights "
        "that have changed since the start."
    ),
    Verdict.BETTER: "You can stop, and give {leader} to everybody. The interval allows for daily looks.",
    Verdict.WORSE: "You can stop, and keep {control}. The interval allows for daily looks.",
    Verdict.NO_DIFFERENCE: "You can stop, and keep either, such as the simpler one.",
    Verdict.UNDECIDED: "What differs so far may be chance. Let it run, and look as often as you like.",
    Verdict.GUARDRAIL: "Find out why before you give it to everybody.",
}


def is_running(last_exposed_at: dt.datetime, now: dt.datetime) -> bool:
    """Whether an experiment still exposes somebody; both times are in UTC."""
    return now - last_exposed_at < RUNNING


def advice_of(analysis: Analysis) -> str:
    """What to do after a verdict, in a sentence or two."""
    if analysis.verdict is Verdict.UNDECIDED and lacks_numbers(analysis.variants, analysis.metric):
        return "Pass value= where the goal is captured: then the numbers of its uses are compared."
    return _ADVICE[analysis.verdict].format(leader=analysis.leader, control=analysis.control)


def weights_of(text: str | None, variants: Sequence[str]) -> dict[str, float] | None:
    """The planned weights by variant, from `red=1,blue=3` or `equal`. None for None. Raises ExperimentError."""
    if text is None:
        return None
    if text == "equal":
        return dict.fromkeys(variants, 1.0)
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = (each.strip() for each in part.rpartition("="))
        if name in weights:
            raise ExperimentError(f"the weights name {name!r} twice: {text!r}")
        try:
            weights[name] = float(weight)
        except ValueError:
            name = ""
        if not name:
            raise ExperimentError(f"weights are given as red=1,blue=3, or as equal, not {text!r}")
    return weights


def analysed(
    rows: Rows,
    guardrails: Mapping[str, Rows],
    *,
    metric: Metric = "converted",
    control: str | None = None,
    weights: str | None = None,
    minimum_effect: float = 0.1,
) -> Analysis:
    """The analysis of the goal's rows and of those of each guardrail; the other arguments are those of `analyse`, and
    of `weights_of`. Raises ExperimentError, and ConfigurationError without SciPy."""
    from . import analyse  # imports SciPy

    planned = weights_of(weights, [row["variant"] for row in rows])
    return analyse(
        figures_of(rows, planned),
        metric=metric,
        control=control,
        excluded=max((row["excluded"] for row in rows), default=0),
        guardrails=[
            GuardrailFigures(feature, figures_of(found, planned), metric) for feature, found in guardrails.items()
        ],
        minimum_effect=minimum_effect,
    )


def caveats(analysis: Analysis, rows: Rows, goal: str, fix: str) -> Iterator[str]:
    """What the figures leave out. `fix` is how the weights are given here."""
    unknown, converted = (sum(row[name] for row in rows) for name in ("order_unknown", "converted"))
    if unknown:
        yield (
            f"{unknown} of {converted} units used {goal} only in the day (hour) of their first exposure, perhaps "
            "before it: the true effect may be larger"
        )
    if visitors := sum(row["without_user"] for row in rows):
        are = "unit is a visitor" if visitors == 1 else "units are visitors"
        yield f"{visitors} {are} without a user: uses of visitors are unknown, and count as none"
    if analysis.excluded:
        saw = "unit saw several variants and is" if analysis.excluded == 1 else "units saw several variants and are"
        yield f"{analysis.excluded} {saw} in no figure"
    for feature in dict.fromkeys(each.feature for each in analysis.guardrails if not each.has_data):
        lack = "no use of it has a number" if analysis.metric == "value" else "no unit has used it"
        yield f"whether {feature} falls cannot be known: {lack}"
    if analysis.sample_ratio.planned is None:
        yield f"the split between the variants is not checked: {fix}"


def words_of(result: VariantResult, analysis: Analysis) -> dict[str, Any]:
    """A variant for people."""
    metric = analysis.metric
    estimate = result.conversion if metric == "converted" else result.mean
    if lacks_numbers(analysis.variants, metric):
        estimate = None
    return {
        "variant": result.name,
        "units": result.units,
        "converted": result.converted,
        {"converted": "conversion", "uses": "uses per unit", "value": "value per unit"}[metric]: (
            "" if estimate is None else estimate_words(estimate, metric)
        ),
        "effect": effect_of(result, metric) if result.comparison else "control",
        "best": "" if result.probability_best is None else f"{100 * result.probability_best:.0f} %",
    }


def numbers_of(result: VariantResult, analysis: Analysis) -> dict[str, Any]:
    """A variant for programs: shares and lifts as fractions, None for what is not known."""
    compared = result.comparison
    estimates = {
        "conversion": result.conversion,
        "mean": result.mean,
        "lift": compared and compared.always_valid_lift,
        "difference": compared and compared.always_valid_difference,
    }
    return {
        "variant": result.name,
        "units": result.units,
        "converted": result.converted,
        **{
            f"{name}{suffix}": None if estimate is None else getattr(estimate, field)
            for name, estimate in estimates.items()
            for suffix, field in (("", "value"), ("_low", "low"), ("_high", "high"))
        },
        "always_valid_p": compared and compared.always_valid_p,
        "p_value": compared and compared.p_value,
        "probability_best": result.probability_best,
        "expected_loss": result.expected_loss,
        "verdict": compared and compared.verdict.value,
        "experiment_verdict": analysis.verdict.value,
    }
