"""The verdict on an experiment, as data and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .figures import Metric
from .results import Estimate, GuardrailResult, SampleRatio, VariantResult, Verdict

_MINUS = "\N{MINUS SIGN}"


def conclude(
    results: Sequence[VariantResult],
    ratio: SampleRatio,
    guardrails: Sequence[GuardrailResult],
    metric: Metric,
    minimum_effect: float,
) -> tuple[Verdict, str | None, str]:
    """The verdict, the variant it is about, and its words.

    A broken split makes all else meaningless, so it comes first. A variant in which a guardrail fell does not win.
    """
    if not any(each.units for each in results):
        return Verdict.NO_DATA, None, "No data: nobody has seen a variant yet"
    if len(results) < 2:
        return Verdict.NO_DATA, None, "Nothing to compare: there is only one variant"
    if ratio.is_broken:
        return Verdict.BROKEN, None, f"Broken: {_split(ratio)}"
    by_verdict: dict[Verdict, list[VariantResult]] = {}
    for each in results:
        if each.comparison is not None:
            by_verdict.setdefault(each.comparison.verdict, []).append(each)
    better = sorted(by_verdict.get(Verdict.BETTER, ()), key=_value, reverse=True)
    worse = {each.name for each in by_verdict.get(Verdict.WORSE, ())}
    fallen = [each for each in guardrails if each.has_fallen and each.variant not in worse]
    harmful = {each.variant for each in fallen}
    if best := next((each for each in better if each.name not in harmful), None):
        return Verdict.BETTER, best.name, f"{_name(best)} is better: {effect_of(best, metric)}"
    if fallen:
        first = better[0].name if better else fallen[0].variant
        return Verdict.GUARDRAIL, first, _fallen_words([each for each in fallen if each.variant == first], better)
    if undecided := by_verdict.get(Verdict.UNDECIDED):
        return Verdict.UNDECIDED, None, f"Not decided: {_missing(results, undecided, metric)}"
    if same := by_verdict.get(Verdict.NO_DIFFERENCE):
        nearest = max(same, key=_value)
        is_relative = nearest.comparison is not None and nearest.comparison.always_valid_lift is not None
        least = f"of {100 * minimum_effect:g} % or more" if is_relative else "that matters"
        return Verdict.NO_DIFFERENCE, nearest.name, f"No difference {least}: {effect_of(nearest, metric)}"
    nearest = max(by_verdict[Verdict.WORSE], key=_value)
    words = "is worse" if len(results) == 2 else "is the least bad, and worse"
    return Verdict.WORSE, nearest.name, f"{_name(nearest)} {words}: {effect_of(nearest, metric)}"


def effect_words(estimate: Estimate) -> str:
    """`+12 % (3 to 21 %)` of a lift or of a difference of shares."""
    digits = _digits(100 * (estimate.high - estimate.low))
    low, high = (_number(100 * each, digits) for each in (estimate.low, estimate.high))
    return f"{_percent(estimate.value, digits, sign='+')} ({low} to {high} %)"


def estimate_words(estimate: Estimate, metric: Metric) -> str:
    """`14.2 % (13.1 to 15.4 %)` of a share, `1.42 (1.31 to 1.54)` of a mean."""
    factor, unit = (100, " %") if metric == "converted" else (1, "")
    digits = _digits(factor * (estimate.high - estimate.low))
    value, low, high = (_number(factor * each, digits) for each in (estimate.value, estimate.low, estimate.high))
    return f"{value}{unit} ({low} to {high}{unit})"


def _value(result: VariantResult) -> float:
    comparison = result.comparison
    return comparison.difference.value if comparison and comparison.difference else -math.inf


def _name(result: VariantResult) -> str:
    return result.name[:1].upper() + result.name[1:]


def effect_of(result: VariantResult, metric: Metric) -> str:
    """The effect of a variant, by the intervals that decide: `+12 % (3 to 21 %)`; empty for the control."""
    comparison = result.comparison
    if comparison is None:
        return ""
    return change_words(comparison.always_valid_lift, comparison.always_valid_difference, metric)


def change_words(lift: Estimate | None, difference: Estimate | None, metric: Metric) -> str:
    """A lift in words, or the difference where no lift is known."""
    return effect_words(lift) if lift is not None else _difference_words(difference, metric)


def _difference_words(difference: Estimate | None, metric: Metric) -> str:
    if difference is None:
        return "by an unknown amount"
    factor, unit = (100, "percentage points") if metric == "converted" else (1, "per user")
    digits = _digits(factor * (difference.high - difference.low))
    value, low, high = (_number(factor * each, digits) for each in (difference.value, difference.low, difference.high))
    return f"{value if value.startswith(_MINUS) else '+' + value} {unit} ({low} to {high})"


def lacks_numbers(results: Sequence[VariantResult], metric: Metric) -> bool:
    """Whether the numbers beside the goal are compared, and there is none."""
    return metric == "value" and not any(each.converted for each in results)


def _missing(results: Sequence[VariantResult], undecided: Sequence[VariantResult], metric: Metric) -> str:
    needed = max((each.comparison.units_needed or 0 for each in undecided if each.comparison), default=0)
    if needed:
        return f"{_round_up(needed):,} more {'user' if needed == 1 else 'users'} needed"
    if lacks_numbers(results, metric):
        return "no use of the goal has a number"
    if not any(each.converted or (each.mean and each.mean.value) for each in results):
        return "nobody has reached the goal yet"
    return "there are too few users to say how many are needed"


def _fallen_words(fallen: Sequence[GuardrailResult], better: Sequence[VariantResult]) -> str:
    first = fallen[0]
    change = change_words(first.always_valid_lift, first.always_valid_difference, first.metric)
    gains = any(each.name == first.variant for each in better)
    name = first.variant[:1].upper() + first.variant[1:]
    words = f"{name} {'is better, but' if gains else 'does harm:'} {first.feature} falls: {change}"
    others = [each.feature for each in fallen[1:]]
    return f"{words}; {', '.join(others)} too" if others else words


def _split(ratio: SampleRatio) -> str:
    """`60/40 split where 50/50 was meant`, with as many decimals as the difference needs."""
    observed, planned = ratio.observed, ratio.planned or ()
    for digits in range(7):
        parts = ["/".join(f"{100 * share:.{digits}f}" for share in shares) for shares in (observed, planned)]
        if parts[0] != parts[1]:
            break
    return f"{parts[0]} split where {parts[1]} was meant"


def _percent(share: float, digits: int, sign: str = "") -> str:
    number = _number(100 * share, digits)
    return f"{number if number.startswith(_MINUS) else sign + number} %"


def _number(value: float, digits: int) -> str:
    """`1,234.5`; 0 has no sign."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.,") else text.replace("-", _MINUS)


def _digits(width: float) -> int:
    """The decimals that show two digits of an interval's width."""
    return max(0, 1 - math.floor(math.log10(width))) if width > 0 else 1


def _round_up(units: int) -> int:
    """To two digits: 3,912 are 4,000."""
    step = int(10 ** max(len(str(units)) - 2, 0))
    return -(-units // step) * step
