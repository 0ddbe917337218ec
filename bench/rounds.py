"""Cases measured side by side: in short rounds in which they take turns, so that what slows the machine slows all.

The seconds are medians over the rounds; ratios and differences are medians of the rounds' own. Trust the ratios: the
seconds are this machine's, now.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

Case: TypeAlias = Callable[[], float]
"""Does its work once and tells the seconds that one piece of it took."""
now = time.thread_time
"""Seconds of work of this thread: what the machine does for others meanwhile, and how long that takes, is left out."""
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


@dataclass(frozen=True)
class Row:
    """What one case took."""

    name: str
    seconds: float
    ratio: float
    """To the reference."""
    over: float
    """Seconds more than the reference."""


@dataclass(frozen=True)
class Table:
    """Cases that did the same thing."""

    title: str
    reference: str
    rows: tuple[Row, ...]
    note: str = ""

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = [f"\n{self.title}"]
        lines += [f"  {row.name:<{width}}  {in_words(row.seconds):>9}  {row.ratio:7.2f}" for row in self.rows]
        return "\n".join([*lines, *([f"  {self.note}"] if self.note else [])])


@dataclass(frozen=True)
class Bar:
    """What a figure is to reach."""

    what: str
    found: float
    limit: float
    is_least: bool = False
    unit: str = ""

    @property
    def is_reached(self) -> bool:
        """Whether it is."""
        return self.found >= self.limit if self.is_least else self.found <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.is_least else "≤"
        said = "reached" if self.is_reached else "MISSED"
        return f"{said}: {self.what}: {self.found:.3g} {self.unit} ({sign} {self.limit:g})"


Result: TypeAlias = Table | Bar


def compare(
    title: str,
    cases: Mapping[str, Case],
    reference: str,
    *,
    rounds: int,
    between: Callable[[], object] = lambda: None,
    note: str = "",
) -> Table:
    """Run all cases in turns, `rounds` times after one to warm up, and `between` after each round.

    Each round has an order of its own: what one case leaves to do, such as a checkpoint, is not always the next one's.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    order, dice = list(cases), random.Random(7)
    gc.collect()
    for number in range(rounds + 1):
        dice.shuffle(order)
        for name in order:
            seconds = cases[name]()
            if number:
                times[name].append(seconds)
        between()
    base = times[reference]
    return Table(
        title,
        reference,
        tuple(
            Row(
                name,
                statistics.median(taken),
                statistics.median(a / b for a, b in zip(taken, base, strict=True)),
                statistics.median(a - b for a, b in zip(taken, base, strict=True)),
            )
            for name, taken in times.items()
        ),
        note,
    )


def in_words(seconds: float) -> str:
    """As people read it."""
    size, unit = next(((size, unit) for size, unit in _UNITS if abs(seconds) >= size), _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


def versions(*packages: str) -> dict[str, str]:
    """Of Python, the machine and those packages that are installed."""
    found = {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
    }
    for package in ("usage-instrument", "wrapt", "SQLAlchemy", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()


def main(measure: Callable[[float], Iterable[Result]], text: str | None, *packages: str) -> None:
    """The command line of a benchmark, whose measure takes by how much its rounds are to be multiplied."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the usual rounds (default 1)")
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    options = parser.parse_args()
    known = versions(*packages)
    if options.json:
        results = list(measure(options.scale))
        print(json.dumps({"versions": known, "tables": _dicts(results, Table), "bars": _dicts(results, Bar)}))
        return
    print(", ".join(f"{name} {version}" for name, version in known.items()))
    for result in measure(options.scale):
        print(result, flush=True)


def _dicts(results: Iterable[Result], kind: type[Result]) -> list[dict[str, object]]:
    return [asdict(result) for result in results if isinstance(result, kind)]


def times(rounds: int, scale: float) -> int:
    """So many rounds, scaled; never fewer than three."""
    return max(3, round(rounds * scale))
