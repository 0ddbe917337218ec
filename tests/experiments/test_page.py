"""The page on the statistics says what the code does, and each formula names its source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import usage_instrument.experiments
from usage_instrument.experiments import Verdict, sample_size

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "experiment-statistics.md").read_text(encoding="utf-8")
SOURCES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in Path(usage_instrument.experiments.__file__).parent.glob("*.py")
}


def test_the_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (said,) = re.findall(r"print\(.*\)  # (.*)", program)
    exec(program, {})
    assert capsys.readouterr().out.strip() == said


def test_the_sizes() -> None:
    found = re.search(r"`sample_size\(0\.1, 0\.1\)` .*: ([\d,]+) with daily looks, ([\d,]+) for one test", PAGE)
    assert found is not None
    assert [int(number.replace(",", "")) for number in found.groups()] == [
        sample_size(0.1, 0.1),
        sample_size(0.1, 0.1, always_valid=False),
    ]


def test_every_verdict_has_its_row() -> None:
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.MULTILINE)) == set(Verdict.__members__)


def test_each_source_of_the_page_stands_in_a_docstring_and_the_other_way_round() -> None:
    """By the first author and the year."""
    references = PAGE.partition("## References")[2]
    listed = set(re.findall(r"^- ([A-Z]\w+)[^(\n]*\((\d{4})\)", references, re.MULTILINE))
    text = re.sub(r"\s+", " ", " ".join(SOURCES.values()))
    assert {(name, year) for name, year in listed if not (name in text and f"({year})" in text)} == set()
    named = set(re.findall(r"([A-Z][a-z]+), [A-Z]\. (?:[A-Z]\. )*(?:et al\. |and [^()]*|, [^()]*)?\((\d{4})\)", text))
    assert len(named) > 10
    assert {each for each in named if f"{each[0]}" not in references or f"({each[1]})" not in references} == set()


def test_each_module_with_a_formula_names_a_source() -> None:
    for module in ("proportions", "means", "sequential", "posteriors", "sample_ratio", "planning", "analysis"):
        assert re.search(r"\((?:19|20)\d\d\)", SOURCES[module]), module
