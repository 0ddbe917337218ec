"""The assignment of units to variants: fixed for ever by vectors, exact in its weights, and strict at once."""

from __future__ import annotations

import enum
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.capture.assignment import assign
from usage_instrument.errors import ExperimentError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api" / "experiments.md"
VECTORS: list[tuple[str, str, Any, str, str]] = [
    ("button_color", "ada", ["red", "blue"], "0b9c9907c1b93276", "red"),
    ("button_color", "1", ["red", "blue"], "de64372b705bd461", "blue"),
    ("button_color", "2", ["red", "blue"], "779b62e9c2fa7111", "red"),
    ("button_color", "018f3c9e-7b5a-7c31-9d2e-4f6a1b2c3d4e", ["red", "blue"], "c79f9953cdf2d1c4", "blue"),
    ("button_color", "ada", {"red": 1, "blue": 3}, "0b9c9907c1b93276", "red"),
    ("button_color", "2", {"red": 1, "blue": 3}, "779b62e9c2fa7111", "blue"),
    ("button_color", "ada", {"blue": 3, "red": 1}, "0b9c9907c1b93276", "blue"),
    ("price", "ada", {"old": 0.1, "new": 0.2, "newest": 0.7}, "15b0116c9f6c4e64", "old"),
    ("price", "2", {"old": 1, "new": 2, "newest": 7}, "970a294489acef75", "newest"),
    ("größe", "Łukasz 🎲", ["klein", "groß", "riesig"], "5e33a7864bdb8816", "groß"),
    ("a", "b,1:c", ["x", "y"], "ad495a065b06df35", "y"),
    ("a,1:b", "c", ["x", "y"], "b09621c135f04b20", "y"),
    ("dark", "ada", {"off": 0, "on": 1}, "3d8e9666bdaa37c6", "on"),
]
"""Experiment, unit, variants, hash in hexadecimal, variant. None may ever change: users would change their variant."""

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
weights = st.integers(0, 50) | st.floats(0, 1e300, allow_nan=False) | st.fractions(0, 9, max_denominator=99)


def hash_of(experiment: str, unit: str) -> int:
    """As the documentation describes it."""
    text = "".join(f"{len(each.encode())}:{each}," for each in (experiment, unit))
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)


def expected(experiment: str, unit: str, variants: Mapping[str, Any]) -> str:
    """The fourth step of the description, word by word."""
    exact = [Fraction(str(weight)) for weight in variants.values()]
    h, total, cumulative = hash_of(experiment, unit), sum(exact), Fraction(0)
    for name, weight in zip(variants, exact, strict=True):
        cumulative += weight
        if h * total < cumulative * 2**64:
            return name
    raise AssertionError


@pytest.mark.parametrize(("experiment", "unit", "variants", "hashed", "variant"), VECTORS)
def test_the_vectors(experiment: str, unit: str, variants: Any, hashed: str, variant: str) -> None:
    assert f"{hash_of(experiment, unit):016x}" == hashed
    assert assign(experiment, unit, variants) == variant


def test_the_documentation_has_the_vectors() -> None:
    rows = re.findall(
        r"^\| `(.+)` \| `(.+)` \| `(.+)` \| `([0-9a-f]{16})` \| `(.+)` \|$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    found = [(experiment, unit, json.loads(variants), h, variant) for experiment, unit, variants, h, variant in rows]
    assert found == VECTORS
    assert [[*each[2]] for each in found] == [[*each[2]] for each in VECTORS]  # in this order


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_javascript_of_the_documentation_agrees() -> None:
    (program,) = re.findall(r"```js\n(.*?)\nawait assign", PAGE.read_text("utf-8"), re.DOTALL)
    whole = [
        (experiment, unit, dict.fromkeys(variants, 1) if isinstance(variants, list) else variants)
        for experiment, unit, variants, _, _ in VECTORS
        if "price" not in experiment or unit != "ada"
    ]
    program += f"\nfor (const each of {json.dumps(whole)}) console.log(await assign(...each));"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", program], capture_output=True, encoding="utf-8", check=True, timeout=60
    )
    assert done.stdout.split() == [assign(*each) for each in whole]


@given(names, names, st.dictionaries(names, weights, min_size=1, max_size=6).filter(lambda each: any(each.values())))
def test_any_declaration_is_assigned_as_described(experiment: str, unit: str, variants: Mapping[str, Any]) -> None:
    assert assign(experiment, unit, variants) == expected(experiment, unit, variants)


def test_other_processes_agree() -> None:
    program = (
        "from usage_instrument.capture.assignment import assign\n"
        "print(*(assign('button_color', str(i), ['red', 'blue']) for i in range(100)))"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.split() == [assign("button_color", str(i), ["red", "blue"]) for i in range(100)]


@pytest.mark.parametrize(
    "variants",
    [("red", "blue"), {"red": 1, "blue": 1}, {"red": 0.5, "blue": 0.5}, MappingProxyType({"red": 7, "blue": 7})],
)
def test_equal_weights_are_the_same_however_they_are_written(variants: Any) -> None:
    units = [str(unit) for unit in range(300)]
    assert [assign("e", each, variants) for each in units] == [assign("e", each, ["red", "blue"]) for each in units]


def test_weights_of_other_types_of_numbers() -> None:
    same: list[dict[str, Any]] = [{"a": 1, "b": 9}, {"a": 0.1, "b": 0.9}, {"a": Fraction(1, 10), "b": Fraction(9, 10)}]
    same += [{"a": np.int64(1), "b": np.int64(9)}, {"a": np.float64(0.1), "b": np.float64(0.9)}]
    units = [str(unit) for unit in range(300)]
    assert len({tuple(assign("e", unit, variants) for unit in units) for variants in same}) == 1
    assert assign("e", "u", {"a": 1e308, "b": 5e-324}) == "a"


def test_the_shares_are_the_weights() -> None:
    counts = Counter(assign("pricing", str(unit), {"a": 1, "b": 3, "c": 0, "d": 6}) for unit in range(20_000))
    assert counts.keys() == {"a", "b", "d"}
    chi_square = sum(
        (counts[name] - share * 20_000) ** 2 / share / 20_000 for name, share in {"a": 0.1, "b": 0.3, "d": 0.6}.items()
    )
    assert chi_square < 13.8  # p = 0.001 with 2 degrees of freedom


def test_experiments_are_independent() -> None:
    pairs = Counter(
        (assign("one", str(unit), ["a", "b"]), assign("two", str(unit), ["a", "b"])) for unit in range(20_000)
    )
    assert len(pairs) == 4
    assert sum((count - 5000) ** 2 / 5000 for count in pairs.values()) < 16.3  # p = 0.001 with 3 degrees of freedom


def test_text_is_taken_by_value() -> None:
    class Color(str, enum.Enum):
        RED = "red"
        BLUE = "blue"

    class Unit(str):
        def __str__(self) -> str:
            return "another"

    found = assign("button_color", Unit("1"), [Color.RED, Color.BLUE])
    assert (found, type(found)) == ("blue", str)
    assert assign(Color.RED, "1", ["x"]) == "x"


def test_a_variant_that_was_cached_is_checked_nevertheless() -> None:
    assert assign("cached", "1", {"a": 1}) == "a"
    with pytest.raises(ExperimentError):
        assign("cached", "1", {"a": -1})
    with pytest.raises(ExperimentError):
        assign("cached", "1", [("a", 1)])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([], "has no variants: name at least one"),
        ({}, "has no variants: name at least one"),
        (["a", "b", "a"], "names the variant 'a' twice"),
        (["a", ""], "the name of a variant has 1 to 100 characters, not 0"),
        (["a", "b" * 101], "the name of a variant has 1 to 100 characters, not 101"),
        (["a", "b\0"], "the name of a variant holds no NUL"),
        (["a", 1], "the name of a variant is a str, not int"),
        (["a", ["b"]], "the name of a variant is a str, not list"),
        ({"a": [1]}, r"the weight of 'a' is a number, not \[1\]"),
        ({"a": "1"}, "the weight of 'a' is a number, not '1'"),
        ({"a": None}, "the weight of 'a' is a number, not None"),
        ({"a": 1, "b": -0.5}, "the weight of 'b' is at least 0, not -0.5"),
        ({"a": 1, "b": float("nan")}, "the weight of 'b' is a finite number, not nan"),
        ({"a": 1, "b": float("inf")}, "the weight of 'b' is a finite number, not inf"),
        ({"a": 0, "b": 0.0}, "all weights of the experiment 'e' are 0: give one a positive weight"),
        ("ab", "variants are a list of names or a mapping of names to weights, not str"),
        (b"ab", "variants are a list of names or a mapping of names to weights, not bytes"),
        ({"a", "b"}, "not set"),
        (None, "not NoneType"),
        (iter("ab"), "not str_"),
    ],
)
def test_wrong_variants_raise_at_once(variants: Sequence[str], message: str) -> None:
    for _ in range(2):  # nothing wrong is kept
        with pytest.raises(ExperimentError, match=message):
            assign("e", "1", variants)


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ("", "the name of an experiment has 1 to 100 characters, not 0"),
        ("e" * 101, "the name of an experiment has 1 to 100 characters, not 101"),
        ("e\0", "the name of an experiment holds no NUL"),
        ("\ud800", "no lone surrogate"),
        (7, "the name of an experiment is a str, not int"),
        (["e"], "the name of an experiment is a str, not list"),
    ],
)
def test_wrong_experiments_raise_at_once(experiment: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        assign(experiment, "1", ["a", "b"])
    assert assign("e" * 100, "1", ["v" * 100]) == "v" * 100


@pytest.mark.parametrize("unit", ["", 7, None, b"7", "\ud800"])
def test_wrong_units_raise_at_once(unit: str) -> None:
    with pytest.raises(ExperimentError, match="a unit "):
        assign("e", unit, ["a", "b"])
