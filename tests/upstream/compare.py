"""Compares two runs of a framework's own tests, as pytest's JUnit files tell of them."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

EXPECTED = {
    # Flask's documentation puts a middleware up as `app.wsgi_app = Middleware(app.wsgi_app)`. So they refer to each
    # other, and only the garbage collector frees them. The extension does as the documentation says.
    ("instrument", "tests.test_basic::test_app_freed_on_zero_refcount"),
}
"""What can only fail, by way and test."""


def outcomes(report: Path) -> dict[str, str]:
    """How each test ended; one that fails twice, in itself and at its end, failed."""
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        said = {child.tag for child in case} & {"failure", "error", "skipped"}
        name = f"{case.get('classname')}::{case.get('name')}"
        if found.get(name) in (None, "passed", "skipped"):
            found[name] = "failed" if said & {"failure", "error"} else "skipped" if said else "passed"
    return found


def main(without: Path, *ways: Path) -> int:
    """Print the counts of each run; 1 if a test passes without the middleware and not with it."""
    before = outcomes(without)
    print(f"{without.stem}: {_counts(before)}")
    for name in sorted(name for name, outcome in before.items() if outcome == "failed"):
        print(f"  failed: {name}")
    lost = 0
    for way in ways:
        after = outcomes(way)
        worse = sorted(name for name, outcome in before.items() if outcome == "passed" != after.get(name))
        print(f"{way.stem}: {_counts(after)}")
        for name in worse:
            is_expected = (way.stem, name) in EXPECTED
            lost += not is_expected
            print(f"  {after.get(name, 'not run')}{', as expected' if is_expected else ''}: {name}")
    return 1 if lost or "passed" not in before.values() else 0


def _counts(found: dict[str, str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(Counter(found.values()).items()))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
