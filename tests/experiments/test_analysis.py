"""The analysis as a whole: its verdicts, its words, its edges, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.errors import ExperimentError
from usage_instrument.experiments import (
    Analysis,
    Comparison,
    GuardrailFigures,
    VariantFigures,
    Verdict,
    analyse,
    figures_of,
    sample_size,
)


def figures(
    *counts: tuple[int, int], weights: Any = None, names: tuple[str, ...] = ("red", "blue", "green", "old")
) -> Any:
    """Variants by their units and converted units, with equal weights."""
    weights = weights or [1] * len(counts)
    return [
        VariantFigures(name, units, converted, weight=weight)
        for name, (units, converted), weight in zip(names, counts, weights, strict=False)
    ]


def comparison(analysis: Analysis, position: int = 1) -> Comparison:
    found = analysis.variants[position].comparison
    assert found is not None
    return found


# ---- verdicts


def test_better() -> None:
    found = analyse(figures((20_000, 2000), (20_000, 2400)))
    assert (found.verdict, found.leader, found.control) == (Verdict.BETTER, "blue", "red")
    assert found.words == "Blue is better: +20 % (10 to 31 %)"
    assert found.units_needed is None
    red, blue = found.variants
    assert red.comparison is None
    assert red.conversion is not None
    assert red.conversion.value == 0.1
    assert (red.mean, blue.mean) == (None, None)
    assert blue.probability_best == pytest.approx(1)
    assert red.expected_loss == pytest.approx(0.02, abs=1e-4)
    against = comparison(found)
    assert against.verdict is Verdict.BETTER
    assert against.lift is not None
    assert against.always_valid_lift is not None
    assert against.lift.value == against.always_valid_lift.value == pytest.approx(0.2)
    assert against.always_valid_lift.low < against.lift.low < against.lift.high < against.always_valid_lift.high
    assert against.p_value < against.always_valid_p < 0.001
    assert against.p_value == pytest.approx(
        scipy.stats.chi2_contingency([[2000, 18000], [2400, 17600]], correction=False)[1]
    )


def test_worse() -> None:
    found = analyse(figures((20_000, 2400), (20_000, 2000)))
    assert (found.verdict, found.leader) == (Verdict.WORSE, "blue")
    assert found.words == "Blue is worse: −17 % (−24 to −9 %)"


def test_undecided_says_how_many_users_are_missing() -> None:
    found = analyse(figures((5000, 500), (5000, 540)))
    assert (found.verdict, found.leader) == (Verdict.UNDECIDED, None)
    assert found.words == "Not decided: 43,000 more users needed"
    assert found.units_needed is not None
    assert 42_000 < found.units_needed <= 43_000
    # As sample_size says it for two variants of the pooled share.
    assert found.units_needed + 10_000 == pytest.approx(2 * sample_size(0.104, 0.1), rel=0.05)


def test_one_missing_user_is_a_singular() -> None:
    assert analyse(figures((100, 100), (100, 100))).words == "Not decided: 1 more user needed"


def test_beyond_the_planned_units_as_many_are_missing_as_decide_for_certain() -> None:
    found = analyse(figures((40_000, 4000), (40_000, 4190)))
    assert found.verdict is Verdict.UNDECIDED
    assert found.units_needed is not None
    assert found.units_needed > 10_000


def test_no_difference() -> None:
    found = analyse(figures((200_000, 20_000), (200_000, 20_100)))
    assert (found.verdict, found.leader, found.units_needed) == (Verdict.NO_DIFFERENCE, "blue", None)
    assert found.words == "No difference of 10 % or more: +0.5 % (−2.6 to 3.7 %)"
    assert analyse(figures((200_000, 20_000), (200_000, 20_100)), minimum_effect=0.025).verdict is Verdict.UNDECIDED


def test_broken_before_all_else() -> None:
    found = analyse(figures((6000, 600), (4000, 800)))
    assert (found.verdict, found.words) == (Verdict.BROKEN, "Broken: 60/40 split where 50/50 was meant")
    assert found.sample_ratio.is_broken
    planned = analyse(figures((6000, 600), (4000, 800), weights=[3, 2]))
    assert planned.verdict is Verdict.BETTER
    assert analyse(figures((6000, 600), (4000, 800), weights=[None, None])).verdict is Verdict.BETTER


@pytest.mark.parametrize(
    ("units", "weights", "split"),
    [
        ((1_000_000, 1_010_000), (1, 1), "49.8/50.2 split where 50.0/50.0 was meant"),
        ((5000, 4000, 3000), (1, 1, 1), "42/33/25 split where 33/33/33 was meant"),
        ((900, 200), (9, 1), "82/18 split where 90/10 was meant"),
        ((500, 3), (1, 0), "99/1 split where 100/0 was meant"),
    ],
)
def test_the_split_in_words(units: tuple[int, ...], weights: tuple[int, ...], split: str) -> None:
    assert analyse(figures(*((each, 1) for each in units), weights=weights)).words == f"Broken: {split}"


def test_too_few_units_are_no_broken_split() -> None:
    assert analyse(figures((60, 6), (30, 8))).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize("variants", [(), ((0, 0),), ((0, 0), (0, 0))])
def test_without_data(variants: Any) -> None:
    found = analyse(figures(*variants))
    assert (found.verdict, found.words) == (Verdict.NO_DATA, "No data: nobody has seen a variant yet")


def test_one_variant() -> None:
    found = analyse(figures((100, 7)))
    assert (found.verdict, found.words) == (Verdict.NO_DATA, "Nothing to compare: there is only one variant")
    (only,) = found.variants
    assert (only.probability_best, only.expected_loss, only.comparison) == (1.0, 0.0, None)


def test_one_variant_that_nobody_has_seen() -> None:
    found = analyse(figures((50, 5), (0, 0)))
    assert found.words == "Not decided: there are too few users to say how many are needed"
    assert found.variants[1].conversion is None
    assert comparison(found) == Comparison("red", None, None, 1.0, 1.0, None, None, Verdict.UNDECIDED, None)


def test_nobody_has_converted() -> None:
    found = analyse(figures((5000, 0), (5000, 0)))
    assert found.words == "Not decided: nobody has reached the goal yet"
    assert (comparison(found).p_value, comparison(found).always_valid_p) == (1.0, 1.0)
    assert [each.probability_best for each in found.variants] == pytest.approx([0.5, 0.5])


def test_everyone_has_converted() -> None:
    found = analyse(figures((5000, 5000), (5000, 5000)))
    assert found.verdict is Verdict.NO_DIFFERENCE
    assert comparison(found).p_value == 1.0


def test_a_control_without_conversions_has_no_lift() -> None:
    found = analyse(figures((5000, 0), (5000, 200)))
    assert comparison(found).lift is None
    assert found.words == "Blue is better: +4.0 percentage points (3.0 to 5.4)"


def test_the_control_can_be_named() -> None:
    found = analyse(figures((20_000, 2400), (20_000, 2000)), control="blue")
    assert (found.verdict, found.leader, found.control) == (Verdict.BETTER, "red", "blue")
    assert comparison(found, 0).control == "blue"


# ---- several variants


def test_the_best_of_several() -> None:
    found = analyse(figures((50_000, 5000), (50_000, 5600), (50_000, 6000)))
    assert (found.verdict, found.leader) == (Verdict.BETTER, "green")
    assert found.variants[2].probability_best == max(each.probability_best or 0 for each in found.variants)


def test_one_of_several_is_open() -> None:
    found = analyse(figures((50_000, 5000), (50_000, 5200), (50_000, 4000)))
    assert found.verdict is Verdict.UNDECIDED
    assert [comparison(found, 1).verdict, comparison(found, 2).verdict] == [Verdict.UNDECIDED, Verdict.WORSE]


def test_all_of_several_are_worse() -> None:
    found = analyse(figures((50_000, 6000), (50_000, 5000), (50_000, 4000)))
    assert (found.verdict, found.leader) == (Verdict.WORSE, "blue")
    assert found.words.startswith("Blue is the least bad, and worse: −17 %")


def test_comparisons_are_corrected() -> None:
    two, three = analyse(figures((5000, 500), (5000, 600))), analyse(figures((5000, 500), (5000, 600), (5000, 520)))
    one, other = comparison(two), comparison(three)
    assert other.p_value == pytest.approx(2 * one.p_value)
    assert other.always_valid_p == pytest.approx(2 * one.always_valid_p)
    assert one.lift is not None
    assert other.lift is not None
    assert other.lift.low < one.lift.low
    strict = comparison(analyse(figures((5000, 500), (5000, 600)), alpha=0.025))
    assert (other.lift, other.always_valid_lift) == (strict.lift, strict.always_valid_lift)


@given(
    st.lists(
        st.integers(0, 20_000).flatmap(lambda units: st.tuples(st.integers(0, units), st.just(units))),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([1e-6, 0.01, 0.1, 0.99]),
)
def test_any_counts_give_a_coherent_analysis(counts: list[tuple[int, int]], minimum_effect: float) -> None:
    found = analyse(
        figures(*((units, converted) for converted, units in counts), weights=[None] * 4), minimum_effect=minimum_effect
    )
    assert found.words
    assert json.dumps(dataclasses.asdict(found), allow_nan=False)
    best = [each.probability_best for each in found.variants if each.probability_best is not None]
    assert not best or sum(best) == pytest.approx(1, abs=1e-6)
    for each in found.variants[1:]:
        against = each.comparison
        assert against is not None
        assert 0 <= against.p_value <= 1
        assert 0 <= against.always_valid_p <= 1
        interval = against.always_valid_lift or against.always_valid_difference
        if against.verdict in {Verdict.BETTER, Verdict.WORSE}:
            assert interval is not None
            assert against.always_valid_p < 0.05 * (1 + 1e-6)
            assert (interval.low > 0) == (against.verdict is Verdict.BETTER)
        elif interval is not None:
            assert interval.low <= 0 <= interval.high
            assert against.always_valid_p > 0.05 * (1 - 1e-6)


# ---- means


def uses(name: str, units: int, mean: float, deviation: float) -> VariantFigures:
    squares = (units - 1) * deviation**2 + units * mean**2
    return VariantFigures(name, units, 0, units * mean, squares, weight=1)


def test_uses() -> None:
    found = analyse([uses("red", 5000, 4.0, 5.0), uses("blue", 5000, 5.0, 6.0)], metric="uses")
    assert (found.verdict, found.metric) == (Verdict.BETTER, "uses")
    assert found.words == "Blue is better: +25 % (16 to 35 %)"
    red, blue = found.variants
    assert red.mean is not None
    assert red.mean.value == pytest.approx(4.0)
    assert blue.expected_loss == pytest.approx(0, abs=1e-9)
    assert red.expected_loss == pytest.approx(1.0, abs=1e-6)
    expected = scipy.stats.ttest_ind_from_stats(5.0, 6.0, 5000, 4.0, 5.0, 5000, equal_var=False).pvalue
    assert comparison(found).p_value == pytest.approx(expected)


def test_negative_values() -> None:
    found = analyse([uses("red", 5000, -1.0, 5.0), uses("blue", 5000, 1.0, 5.0)], metric="value")
    assert found.verdict is Verdict.BETTER
    assert comparison(found).lift is None
    assert found.words == "Blue is better: +2.0 per user (1.4 to 2.6)"
    fell = analyse([uses("red", 5000, 1.0, 5.0), uses("blue", 5000, -1.0, 5.0)], metric="value")
    assert fell.words.startswith("Blue is worse: −200 % (")
    same = analyse([uses("red", 900_000, 0.0, 5.0), uses("blue", 900_000, 0.0, 5.0)], metric="value")
    assert same.words == "No difference that matters: +0.000 per user (−0.024 to 0.024)"


@pytest.mark.parametrize("units", [0, 1, 2, 50])
def test_means_of_few_or_equal_units(units: int) -> None:
    found = analyse(
        [VariantFigures("a", units, 0, 2 * units, 4 * units), VariantFigures("b", units, 0, 3 * units, 9 * units)],
        metric="uses",
    )
    assert found.verdict is (Verdict.UNDECIDED if units else Verdict.NO_DATA)
    assert [each.probability_best for each in found.variants] == [None, None]
    assert comparison(found).p_value == 1.0


# ---- guardrails


def test_a_guardrail_that_falls() -> None:
    checkout = GuardrailFigures("checkout", figures((50_000, 5000), (50_000, 4300)))
    support = GuardrailFigures("support", figures((50_000, 500), (50_000, 505)))
    found = analyse(figures((50_000, 5000), (50_000, 5700)), guardrails=[support, checkout])
    assert (found.verdict, found.leader) == (Verdict.GUARDRAIL, "blue")
    assert found.words == "Blue is better, but checkout falls: −14 % (−19 to −9 %)"
    held, fallen = found.guardrails
    assert (held.feature, held.variant, held.has_fallen) == ("support", "blue", False)
    assert (fallen.feature, fallen.has_fallen) == ("checkout", True)
    assert fallen.p_value < fallen.always_valid_p < 0.05
    undecided = analyse(figures((50_000, 5000), (50_000, 5001)), guardrails=[checkout])
    assert undecided.words == "Blue does harm: checkout falls: −14 % (−19 to −9 %)"


def test_several_guardrails_that_fall() -> None:
    variants = figures((50_000, 5000), (50_000, 4300))
    guardrails = [GuardrailFigures(feature, variants) for feature in ("checkout", "support")]
    found = analyse(figures((50_000, 5000), (50_000, 5001)), guardrails=guardrails)
    assert found.words == "Blue does harm: checkout falls: −14 % (−19 to −9 %); support too"


def test_a_variant_without_harm_wins() -> None:
    """Green gains the most and harms, blue gains less and does not; or blue harms without a gain."""
    green_harms = GuardrailFigures("checkout", figures((50_000, 5000), (50_000, 5000), (50_000, 4300)))
    found = analyse(figures((50_000, 5000), (50_000, 5700), (50_000, 6000)), guardrails=[green_harms])
    assert (found.verdict, found.leader) == (Verdict.BETTER, "blue")
    blue_harms = GuardrailFigures("checkout", figures((50_000, 5000), (50_000, 4300), (50_000, 5000)))
    found = analyse(figures((50_000, 5000), (50_000, 5010), (50_000, 6000)), guardrails=[blue_harms])
    assert (found.verdict, found.leader) == (Verdict.BETTER, "green")
    found = analyse(figures((50_000, 5000), (50_000, 5010), (50_000, 5020)), guardrails=[blue_harms])
    assert (found.verdict, found.leader) == (Verdict.GUARDRAIL, "blue")


def test_a_guardrail_is_one_sided() -> None:
    rises = GuardrailFigures("checkout", figures((50_000, 4300), (50_000, 5000)))
    (found,) = analyse(figures((50_000, 5000), (50_000, 5700)), guardrails=[rises]).guardrails
    assert found.p_value == pytest.approx(1)
    assert (found.always_valid_p, found.has_fallen) == (1.0, False)
    falls = GuardrailFigures("checkout", figures((50_000, 5000), (50_000, 4900)))
    (found,) = analyse(figures((50_000, 5000), (50_000, 5700)), guardrails=[falls]).guardrails
    two_sided = scipy.stats.chi2_contingency([[5000, 45_000], [4900, 45_100]], correction=False)[1]
    assert found.p_value == pytest.approx(two_sided / 2)


def test_a_guardrail_of_a_worse_variant_does_not_matter() -> None:
    checkout = GuardrailFigures("checkout", figures((50_000, 5000), (50_000, 4300)))
    assert analyse(figures((50_000, 5700), (50_000, 5000)), guardrails=[checkout]).verdict is Verdict.WORSE


def test_a_guardrail_of_means() -> None:
    sessions = GuardrailFigures("sessions", [uses("red", 5000, 5.0, 5.0), uses("blue", 5000, 4.0, 5.0)], "uses")
    found = analyse(figures((5000, 500), (5000, 510)), guardrails=[sessions])
    assert found.words.startswith("Blue does harm: sessions falls: −20 % (")


def test_guardrails_without_data() -> None:
    nothing = GuardrailFigures("checkout", figures((0, 0), (0, 0)))
    (found,) = analyse(figures((0, 0), (0, 0)), guardrails=[nothing]).guardrails
    assert (found.p_value, found.always_valid_p, found.has_fallen, found.always_valid_lift) == (1.0, 1.0, False, None)
    assert not found.has_data


# ---- the rest


def test_excluded_units_are_reported() -> None:
    assert analyse(figures((10, 1), (10, 2)), excluded=7).excluded == 7


def test_a_result_is_immutable_json_and_pickles() -> None:
    found = analyse(figures((5000, 500), (5000, 540)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.words = "x"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(found)) == found
    read = json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))
    assert read["verdict"] == "undecided"
    assert read["variants"][1]["comparison"]["verdict"] == "undecided"


def test_it_is_deterministic() -> None:
    variants = figures((5000, 500), (5000, 540), (4990, 515))
    assert analyse(variants) == analyse(variants)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "clicks"}, "metric is one of 'converted', 'uses', 'value', not 'clicks'"),
        ({"control": "pink"}, "the control 'pink' is none of the variants: red, blue"),
        ({"excluded": -1}, "excluded is a number of units, not -1"),
        ({"alpha": 1}, "alpha is a number between 0 and 1, not 1"),
        ({"power": 0}, "power is a number between 0 and 1, not 0"),
        ({"minimum_effect": 0}, "minimum_effect is a number between 0 and 1, not 0"),
        ({"minimum_effect": 1e-7}, "minimum_effect is at least 0.000001, not 1e-07"),
        ({"guardrails": [GuardrailFigures("checkout", ())]}, "the guardrail 'checkout' has other variants"),
        (
            {"guardrails": [GuardrailFigures("checkout", figures((1, 1), (1, 1)), "clicks")]},  # type: ignore[arg-type]
            "the metric of the guardrail 'checkout' is wrong: 'clicks'",
        ),
    ],
)
def test_wrong_options_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        analyse(figures((10, 1), (10, 2)), **options)


def test_a_variant_that_is_there_twice_raises() -> None:
    with pytest.raises(ExperimentError, match="a variant is there twice: red, red"):
        analyse(figures((1, 1), (1, 1), names=("red", "red")))


def test_without_scipy_the_error_names_the_extra() -> None:
    program = (
        "import sys\n"
        "sys.modules['scipy'] = None\n"
        "from usage_instrument import experiments\n"
        "assert experiments.assign('e', '1', ['a']) == 'a'\n"
        "experiments.VariantFigures('a', 1)\n"
        "try:\n"
        "    experiments.analyse([])\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error, sep=': ')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "ConfigurationError: usage_instrument.experiments.analyse calculates with SciPy: "
        'pip install "usage-instrument[experiments]"\n'
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    from usage_instrument import experiments

    with pytest.raises(AttributeError, match="has no attribute 'analyze'"):
        experiments.analyze  # type: ignore[attr-defined]  # noqa: B018


def test_figures_of_rows_of_the_query() -> None:
    rows = [
        {"variant": "blue", "units": 9, "converted": 2, "uses": 5, "uses_squares": 13.0, "excluded": 1},
        {"variant": "red", "units": 7, "converted": 0, "uses": 0, "uses_squares": 0.0, "excluded": 1},
    ]
    blue, red = VariantFigures("blue", 9, 2, 5, 13.0), VariantFigures("red", 7)
    assert figures_of(rows) == (blue, red)
    assert figures_of(rows, {"red": 1, "blue": 3, "green": 2}) == (
        dataclasses.replace(red, weight=1),
        dataclasses.replace(blue, weight=3),
        VariantFigures("green", 0, weight=2),
    )
    with pytest.raises(ExperimentError, match="lack variants that were seen: 'blue'"):
        figures_of(rows, {"red": 1})
