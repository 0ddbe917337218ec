"""Rows as a CSV file in which no cell is a formula."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

CONTENT_TYPE = "text/csv; charset=utf-8; header=present"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def written(names: Sequence[str], rows: Iterable[Sequence[Any]], line_end: str = "\r\n") -> bytes:
    """The rows below their names, in UTF-8. A text that a spreadsheet would compute begins with `'`."""
    text = io.StringIO(newline="")
    # All text is quoted: where the list separator is a semicolon, the rest after one would be a cell of its own.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator=line_end)
    writer.writerow(names)
    writer.writerows([cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def cell(value: Any) -> Any:
    """A value as it is written: a text that a spreadsheet would compute begins with `'`, which `plain` takes off."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return value
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = str(value)
    return f"'{text}" if _is_marked(text) else text


def plain(text: str) -> str:
    """The text that `cell` has written."""
    return text[1:] if text.startswith("'") and _is_marked(text) else text


def _is_marked(text: str) -> bool:
    """Whether `cell` marks a text: also one that looks marked already, so that each text reads back as it was."""
    return text.lstrip(" '").startswith(_FORMULA)
