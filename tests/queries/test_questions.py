"""Each question is described once, and everything shows all of them."""

from __future__ import annotations

import datetime as dt
import inspect
import re
from pathlib import Path
from typing import Any

import usage_instrument.queries
from usage_instrument import queries
from usage_instrument.queries.arguments import default_tables
from usage_instrument.queries.questions import QUESTIONS

ROOT = Path(__file__).parents[2]
FIGURES = {"experiment", "experiments"}
"""Not questions: commands of their own make a verdict of them."""
HELPERS = {
    *("arguments", "comparison", "display_names", "hours", "months", "numbers", "printed"),
    *("questions", "robust", "rollups", "sources", "steps", "windows", "zones"),
}


def test_each_file_describes_its_question() -> None:
    files = {path.stem for path in Path(usage_instrument.queries.__file__).parent.glob("*.py")}
    described = {question.select.__name__ for question in QUESTIONS}
    assert files - HELPERS - {"__init__"} == described | FIGURES == {*queries.__all__} - {"check_days", "check_hours"}
    for question in QUESTIONS:
        assert bool(question.compared) == any(each.name == "compare" for each in question.arguments), question.name
        assert question.select is getattr(queries, question.select.__name__)
        given = {each.name: _given(each) for each in question.arguments}
        names = question.query(given, default_tables("integer")).selected_columns.keys()
        assert {column.name for column in question.columns if not column.is_optional} <= {*names}, question.name


def test_the_page_of_the_analysts_lists_each_with_its_arguments() -> None:
    page = (ROOT / "docs" / "guides" / "analysts.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([^`]+)` \| `(\w+\(.*\))` \|$", page, re.MULTILINE)
    assert listed == [
        (" ".join([question.name, *_required(question)]), f"{question.select.__name__}({_signature(question.select)})")
        for question in QUESTIONS
    ]


def _given(argument: Any) -> Any:
    needed = ["7", "8"] if argument.type.schema["type"] == "array" else "7"
    return needed if argument.is_required else argument.written_default


def _required(question: Any) -> list[str]:
    return [each.name.removesuffix("_id").upper() for each in question.arguments if each.is_required]


def _signature(function: Any) -> str:
    def written(name: str, default: Any) -> str:
        if default is inspect.Parameter.empty:
            return name
        return f"{name}={f'timedelta(days={default.days})' if isinstance(default, dt.timedelta) else _repr(default)}"

    given = inspect.signature(function).parameters.items()
    return ", ".join(written(name, parameter.default) for name, parameter in given if name != "tables")


def _repr(default: object) -> str:
    return repr(default).replace("'", '"')
