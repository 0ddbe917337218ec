"""The page on the statistics says what the code does, and each formula names its source."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

import usage_instrument.experiments
from usage_instrument.experiments import VariantFigures, Verdict, analyse, sample_size
from usage_instrument.schema import create_all
from usage_instrument.testing import capture_usage

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "experiment-statistics.md").read_text(encoding="utf-8")
GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "experiments.md").read_text(encoding="utf-8")
SOURCES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in Path(usage_instrument.experiments.__file__).parent.glob("*.py")
}


def test_the_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (said,) = re.findall(r"print\(.*\)  # (.*)", program)
    exec(program, {})
    assert capsys.readouterr().out.strip() == said


def test_the_snippets_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openfeature")
    from openfeature import api

    monkeypatch.chdir(tmp_path)
    engine = create_engine("sqlite:///usage.db")
    create_all(engine)
    engine.dispose()
    names: dict[str, Any] = {"__name__": "guide"}
    snippets = re.findall(r"^( *)```python\n(.*?)^ *```$", GUIDE, re.DOTALL | re.MULTILINE)
    assert len(snippets) >= 6
    try:
        with capture_usage() as captured:
            for _, snippet in snippets:
                text = textwrap.dedent(snippet)
                # The apps run as a reader runs them, in tests/test_readme.py.
                if "# app.py" not in text and '"variant": variant' not in text:
                    exec(compile(text, "experiments.md", "exec"), names)
            assert ("button_color", "blue") in [(each.experiment, each.variant) for each in captured.exposures]
            assert [(each.feature, each.value) for each in captured.uses] == [("checkout", 49.5)]
    finally:
        api.clear_hooks()
        api.clear_providers()


def test_the_always_valid_p_is_the_formula_of_the_page() -> None:
    (control, units), (converted, others) = (100, 1_000), (137, 1_010)
    share, smoothed = (control + converted) / (units + others), (control + converted + 0.5) / (units + others + 1)
    z, s2 = (
        (converted / others - control / units) / math.sqrt(share * (1 - share) * (1 / units + 1 / others)),
        smoothed * (1 - smoothed) * (1 / units + 1 / others),
    )
    tau2 = (0.1 * smoothed) ** 2
    likelihood = math.sqrt(s2 / (s2 + tau2)) * math.exp(z**2 * tau2 / (2 * (s2 + tau2)))
    found = analyse([VariantFigures("red", units, control), VariantFigures("blue", others, converted)])
    compared = found.variants[1].comparison
    assert compared is not None
    assert compared.always_valid_p == pytest.approx(1 / likelihood)


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
