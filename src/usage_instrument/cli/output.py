"""How answers are printed: columns for people, a list of objects for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from .options import Format


def show(rows: Sequence[Mapping[str, Any]], output: Format, *, empty: str) -> None:
    """Print rows that all have the same keys; `empty` is what people read when there are none."""
    if output is Format.JSON:
        typer.echo(json.dumps(list(rows), indent=2, default=str))
    elif not rows:
        typer.echo(empty)
    else:
        names = list(rows[0])
        cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
        for line in cells:
            typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
