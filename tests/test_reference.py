"""The pages of the reference name what there is: tables, views, metrics, exceptions and log lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from usage_instrument import Stats, errors
from usage_instrument.integrations.stats_metrics import METRICS
from usage_instrument.schema import define_tables
from usage_instrument.views import VIEWS

ROOT = Path(__file__).parents[1]
TABLES, METRIC_PAGE, ERRORS = (
    (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    for page in ("tables.md", "metrics.md", "errors.md")
)


def test_every_table_has_its_columns() -> None:
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", TABLES, re.DOTALL | re.MULTILINE))
    tables = define_tables(sa.MetaData(), users=None).usage.metadata.tables
    assert sections.keys() == tables.keys()
    for name, table in tables.items():
        cells = re.findall(r"^\| (`[^|]+) \|", sections[name], re.MULTILINE)
        assert {column for cell in cells for column in re.findall(r"`(\w+)`", cell)} == set(table.c.keys()), name


def test_every_view_has_its_columns() -> None:
    rows = dict(re.findall(r"^\| `(feature_usage_\w+)` \| [^|]+ \| (.+) \|$", TABLES, re.MULTILINE))
    assert {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows.items()} == {
        view.name: set(view.columns) for view in VIEWS
    }


def test_every_figure_has_its_names() -> None:
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", METRIC_PAGE, re.MULTILINE)}
    assert rows.keys() == set(Stats.__dataclass_fields__)
    for metric in METRICS:
        words = metric.name.split()
        assert rows[metric.field][1] == f"`usage_instrument.{'.'.join(words)}`"
        assert f"`usage_instrument_{'_'.join(words)}" in rows[metric.field][0]


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "UsageInstrumentError"])
def test_every_exception_is_listed(name: str) -> None:
    bases = getattr(errors, name).__mro__
    (builtin,) = re.findall(rf"^\| `{name}` \| .* \| ?(\w*) ?\|$", ERRORS, re.MULTILINE)
    assert builtin in {base.__name__ for base in bases} | {""}


def test_every_line_of_the_log_is_explained() -> None:
    missing = []
    for path in (ROOT / "src" / "usage_instrument").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) == "log"
                and node.func.attr in {"once", "warning", "info", "emit"}
            ):
                text = node.args[0 if node.func.attr == "info" else 1]  # elsewhere, a key or a level comes first
                message = text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else ""
                fixed = [part.strip(" :(),.;") for part in re.split(r"%[.\d]*[a-z]", message)]
                words = " ".join(next((part for part in fixed if " " in part), "").split()[:4])
                if words not in ERRORS:
                    missing.append(f"{path.name}: {message}")
    assert missing == []
