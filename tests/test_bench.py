"""The benchmarks import names that exist: nothing else runs them between two measurements."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench"


def exists(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.util.find_spec(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


def test_what_the_benchmarks_import_exists() -> None:
    missing = []
    for path in sorted(BENCH.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "usage_instrument":
                module = node.module or ""
                missing += [f"{path.name}: {module}.{a.name}" for a in node.names if not exists(module, a.name)]
    assert missing == []
