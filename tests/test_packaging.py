"""The metadata of the packages. `scripts/build` checks the packages themselves."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_classifiers_exist() -> None:
    known = pytest.importorskip("trove_classifiers").classifiers
    assert [each for each in PROJECT["classifiers"] if each not in known] == []


def test_extras_that_are_named_anywhere_exist() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py"), ROOT / "pyproject.toml"]
    named = {
        extra.strip()
        for page in pages
        for extras in re.findall(r"usage-instrument\[([a-z, -]+)\]", page.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert {"cli", "flask", "postgresql"} <= named
    assert named - PROJECT["optional-dependencies"].keys() == set()


def test_one_address_everywhere() -> None:
    address = PROJECT["urls"]["Source"]
    text = "".join(
        page.read_text(encoding="utf-8")
        for folder, pattern in ((".", "*.md"), (".", "*.toml"), ("docs", "**/*.md"), (".github", "**/*.yml"))
        for page in (ROOT / folder).glob(pattern)
    )
    found = set(re.findall(r"https://(?:raw\.)?github(?:usercontent)?\.com/[\w-]+/usage-instrument\b", text))
    assert found == {address, address.replace("//github.com", "//raw.githubusercontent.com")}
