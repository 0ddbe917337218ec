"""How answers are printed: a table for people; a list of objects, CSV or Markdown for others."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .options import Format

_UNBOUNDED = 10_000
"""Columns where no terminal bounds them, so that nothing is folded in a file."""


def show(rows: Sequence[Mapping[str, Any]], output: Format, *, empty: str, names: Sequence[str] = ()) -> None:
    """Print rows that all have the same keys, `names` if there are none; `empty` is what people read then."""
    names = list(rows[0]) if rows else list(names)
    if output is Format.JSON:
        typer.echo(json.dumps([dict(row) for row in rows], indent=2, default=str, ensure_ascii=False))
    elif output is Format.CSV:
        text = _csv(names, rows)
        # As it is, for whoever reads it; typer would take escape sequences out of a file.
        sys.stdout.write("\n".join(map(printable, text.split("\n"))) if sys.stdout.isatty() else text)
    elif not rows:
        typer.echo(empty)
    elif output is Format.MARKDOWN:
        typer.echo(_markdown(names, rows))
    else:
        console().print(table(names, rows))


def console() -> Console:
    """Of the width of the terminal, if there is one."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _UNBOUNDED, soft_wrap=False)


def table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows in columns, numbers to the right."""
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in names:
        drawn.add_column(Text(name), justify="right" if _is_numeric(rows, name) else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(printable(cell(row[name]))) for name in names))
    return drawn


def cell(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def printable(text: str) -> str:
    """Without what would move a terminal's cursor or colour what follows: names come from the app's users too."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _is_numeric(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row[name] for row in rows if row[name] is not None]
    return bool(values) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _csv(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(
            json.dumps(row[name], ensure_ascii=False) if isinstance(row[name], dict | list) else row[name]
            for name in names
        )
    return text.getvalue()


def _markdown(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(printable(text).replace("\\", "\\\\").replace("|", "\\|") for text in cells) + " |"

    rule = ["---:" if _is_numeric(rows, name) else "---" for name in names]
    return "\n".join(line(cells) for cells in [names, rule, *([cell(row[name]) for name in names] for row in rows)])
