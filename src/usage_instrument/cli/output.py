"""Prints rows: as a table for people; as JSON, CSV or Markdown for programs."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from usage_instrument.dashboard import csv

from .errors import printable
from .options import Format

UNBOUNDED = 10_000
"""The width of output that no terminal bounds: nothing is folded in a file."""
_LEAST = 12
"""The least width of a column of text, in characters."""
PADDING = 2
"""Characters between two columns of a table."""


def show(rows: Sequence[Mapping[str, Any]], output: Format, *, empty: str, names: Sequence[str] = ()) -> None:
    """Print rows that all have the same keys.

    `names` are the keys if there are no rows; tables and Markdown print `empty` then.
    """
    names = list(rows[0]) if rows else list(names)
    if output == "json":
        typer.echo(as_json([dict(row) for row in rows]))
    elif output == "csv":
        Printer().write(csv.written(names, ([row[name] for name in names] for row in rows), "\n").decode())
    elif not rows:
        typer.echo(empty)
    elif output == "markdown":
        typer.echo(_markdown(names, rows))
    elif _solid(names, rows) is None:
        typer.echo("\n\n".join(_record(names, cells) for cells in zip(*_columns(names, rows).values(), strict=True)))
    else:
        console().print(table(names, rows))


class Printer:
    """Standard output for whole files: to a terminal without control characters, elsewhere unchanged."""

    def write(self, text: str) -> None:
        """Print a text."""
        # Not by typer, which removes escape sequences from what goes to a file.
        sys.stdout.write("\n".join(map(printable, text.split("\n"))) if sys.stdout.isatty() else text)


def as_json(value: object) -> str:
    """JSON for a terminal or a file, whatever its encoding: characters that do not print are escaped."""
    text = json.dumps(value, indent=2, default=str, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower())
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def console() -> Console:
    """A console as wide as the terminal, if there is one."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else UNBOUNDED, soft_wrap=False)


def table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows in columns, numbers at the right. Names, ids and times are not broken where the width allows it."""
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    columns, solid = _columns(names, rows), _solid(names, rows) or set()
    for name in names:
        justify: Any = "right" if _is_numeric(rows, name) else "left"
        drawn.add_column(Text(name), justify=justify, overflow="fold", no_wrap=name in solid)
    for cells in zip(*columns.values(), strict=True):
        drawn.add_row(*map(Text, cells))
    return drawn


def _columns(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    return {name: [printable(text) for text in _cells([row[name] for row in rows])] for name in names}


def _solid(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> set[str] | None:
    """The columns of a table that are never broken; None if a name would be."""
    columns = _columns(names, rows)
    words = {
        name: max((len(word) for text in [name, *cells] for word in text.split()), default=0)
        for name, cells in columns.items()
    }
    whole = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    times = {name for name in names if any(isinstance(row[name], dt.datetime) for row in rows)}
    single = {name for name in names if words[name] == whole[name]}

    def fits(solid: set[str]) -> bool:
        needed = sum(whole[name] if name in solid else max(words[name], min(whole[name], _LEAST)) for name in names)
        return needed + PADDING * (len(names) - 1) <= console().width

    return next(filter(fits, (single | times, single)), None)


def _record(names: Sequence[str], cells: Sequence[str]) -> str:
    """A row with a line for each column that is not empty, for a terminal that is too narrow for the table."""
    width = max(map(len, names))
    return "\n".join(f"{name:{width}}  {text}" for name, text in zip(names, cells, strict=True) if text)


def cell(value: Any) -> str:
    """A value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def _cells(values: Sequence[Any]) -> list[str]:
    times = [value for value in values if isinstance(value, dt.datetime)]
    if times and all(value.time() == dt.time() for value in times):
        values = [value.date() if isinstance(value, dt.datetime) else value for value in values]
    return [cell(value) for value in values]


def _is_numeric(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row[name] for row in rows if row[name] is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _markdown(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(printable(text).replace("\\", "\\\\").replace("|", "\\|") for text in cells) + " |"

    rule = ["---:" if _is_numeric(rows, name) else "---" for name in names]
    return "\n".join(line(cells) for cells in [names, rule, *([cell(row[name]) for name in names] for row in rows)])
