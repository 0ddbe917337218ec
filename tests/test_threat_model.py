"""Each promise of the threat model and of the page on reliability names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "threat-model.md"


def test_each_promise_has_its_tests() -> None:
    text = PAGE.read_text(encoding="utf-8")
    promises = re.findall(
        r"^\| (?!promise|---|asset|actor|\*\*)(.+) \| (.+) \|$", text[text.index("## Promises") :], re.MULTILINE
    )
    assert len(promises) > 25
    for promise, proof in promises:
        links = re.findall(r"\[\w+\]\(([^)]+)\)((?:(?:: |, )`test_\w+`)*)", proof)
        assert links, promise
        for link, names in links:
            source = (PAGE.parent / link).read_text(encoding="utf-8")
            for name in re.findall(r"test_\w+", names):
                assert f"def {name}(" in source, f"{link}: {name}"


def test_each_promise_of_reliability_has_its_tests() -> None:
    page = PAGE.with_name("reliability.md")
    text = page.read_text(encoding="utf-8")
    sources = {
        name: (page.parent / path).read_text() for name, path in re.findall(r"^\[(\w+)\]: (\S+)", text, re.MULTILINE)
    }
    proofs = re.findall(r"^\| [^|]+ \| (\[[^|]+|measured: [^|]+) \|$", text, re.MULTILINE)
    assert len(proofs) > 25
    for proof in proofs:
        for key, names in re.findall(r"\]\[(\w+)\](?:: `(\w+))?", proof):
            assert f"def {names}" in sources[key], proof


def test_security_md_is_linked() -> None:
    for page in (PAGE, PAGE.parents[2] / "README.md"):
        assert "SECURITY.md" in page.read_text(encoding="utf-8")
