"""Run every benchmark on every Python that is named, and write docs/explanation/performance.md.

    scripts/bench [--scale 0.2] [PYTHON ...]

A Python is the path of one in whose environment the package and the peers are installed. What stands outside of the
page's markers stays as it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from rounds import Bar, Row, Table, in_words

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "explanation" / "performance.md"
IMAGES = HERE.parent / "docs" / "images"
BEGIN, END = "<!-- measured: scripts/bench writes from here -->\n", "<!-- to here -->\n"
MODULES = ("capture", "transactions", "fold", "middleware", "serving", "flush", "fleet", "audit", "memory", "startup")
PLOTS = {
    "A function, its user from the request": "performance-capture.svg",
    "A request of Starlette": "performance-starlette.svg",
    "A request of Flask": "performance-flask.svg",
}
"""The tables that are drawn."""
_OURS = ("@tracks", "usage-instrument", "a flush")


def run(python: str, module: str, scale: float) -> dict[str, Any]:
    """What a benchmark says, as JSON."""
    print(f"{module} by {python} …", file=sys.stderr, flush=True)
    command = [python, str(HERE / f"{module}.py"), "--json", "--scale", str(scale)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def tables(said: dict[str, Any]) -> list[Table]:
    return [Table(**{**one, "rows": tuple(Row(**row) for row in one["rows"])}) for one in said["tables"]]


def bars(said: dict[str, Any]) -> list[Bar]:
    return [Bar(**one) for one in said["bars"]]


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def cell(bar: Bar | None) -> str:
    if bar is None:
        return ""
    return number(bar.found) if bar.is_reached else f"**{number(bar.found)}**"


def overview(by_python: dict[str, list[Bar]]) -> list[str]:
    """What is to be reached, and what is, on each Python."""
    lines = [f"| measure | bar | {' | '.join(by_python)} |", f"| --- | --- |{' ---: |' * len(by_python)}"]
    for bar in next(iter(by_python.values())):
        found = [next((one for one in each if one.what == bar.what), None) for each in by_python.values()]
        said = " | ".join(map(cell, found))
        limit = f"{'≥' if bar.is_least else '≤'} {bar.limit:g} {bar.unit}".rstrip()
        lines.append(f"| {bar.what} | {limit} | {said} |")
    return [*lines, "", "What is **bold** misses its bar.", ""]


def section(by_python: dict[str, Table]) -> list[str]:
    """One table, the Pythons side by side."""
    first = next(iter(by_python.values()))
    lines = [f"### {first.title}", ""]
    if first.title in PLOTS:
        draw(first, IMAGES / PLOTS[first.title])
        lines += [f"![{first.title}](../images/{PLOTS[first.title]})", "", "Its scale is logarithmic.", ""]
    lines += [
        f"| | {' | '.join(f'{name} | ratio' for name in by_python)} |",
        f"| --- |{' ---: | ---: |' * len(by_python)}",
    ]
    for row in first.rows:
        cells = []
        for table in by_python.values():
            same = next((one for one in table.rows if one.name == row.name), None)
            cells.append(" | " if same is None else f"{in_words(same.seconds)} | {same.ratio:.2f}")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return [*lines, "", *([f"{first.note}.", ""] if first.note else [])]


def draw(table: Table, file: Path) -> None:
    """The rows as bars, the shortest above."""
    rows = sorted(table.rows, key=lambda row: -row.seconds)
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(rows) + 0.7))
    colours = ["#2f6f4f" if row.name.startswith(_OURS) else "#b9b9b9" for row in rows]
    drawn = axes.barh([row.name for row in rows], [row.seconds for row in rows], color=colours)
    axes.bar_label(drawn, [in_words(row.seconds) for row in rows], padding=4, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=max(row.seconds for row in rows) * 3)
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.xaxis.set_visible(False)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def write(said: dict[str, dict[str, dict[str, Any]]]) -> None:
    """The page, from what each Python's benchmarks said by their names."""
    lines = []
    for by_module in said.values():
        versions: dict[str, str] = {}
        for one in by_module.values():
            versions |= one["versions"]
        lines += [", ".join(f"{name} {version}" for name, version in versions.items()) + ".", ""]
    lines += overview({python: [bar for one in by.values() for bar in bars(one)] for python, by in said.items()})
    for module in MODULES:
        by_python = {python: tables(by[module]) for python, by in said.items()}
        for at in range(len(next(iter(by_python.values())))):
            lines += section({python: found[at] for python, found in by_python.items()})
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", default=[sys.executable])
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the usual rounds (default 1)")
    options = parser.parse_args()
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "usage-instrument"  # the same figures, the same file
    said: dict[str, dict[str, dict[str, Any]]] = {}
    for python in options.pythons:
        results = {module: run(python, module, options.scale) for module in MODULES}
        said[results["memory"]["versions"]["Python"]] = results
    write(said)


if __name__ == "__main__":
    main()
