"""Each promise of docs/threat-model.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_each_promise_has_its_tests() -> None:
    text = (DOCS / "threat-model.md").read_text(encoding="utf-8")
    promises = re.findall(
        r"^\| (?!promise|---|asset|actor|\*\*)(.+) \| (.+) \|$", text[text.index("## Promises") :], re.MULTILINE
    )
    assert len(promises) > 25
    for promise, proof in promises:
        links = re.findall(r"\[\w+\]\(([^)]+)\)((?:(?:: |, )`test_\w+`)*)", proof)
        assert links, promise
        for link, names in links:
            source = (DOCS / link).read_text(encoding="utf-8")
            for name in re.findall(r"test_\w+", names):
                assert f"def {name}(" in source, f"{link}: {name}"


def test_security_md_is_linked() -> None:
    for page in (DOCS / "threat-model.md", DOCS.parent / "README.md"):
        assert "SECURITY.md" in page.read_text(encoding="utf-8")
