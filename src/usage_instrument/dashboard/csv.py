"""An answer as a file for spreadsheets, in which no cell is a formula."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

CONTENT_TYPE = "text/csv; charset=utf-8; header=present"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def written(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """The rows below their names, in UTF-8. All text is quoted, and what a spreadsheet would compute gets a `'`."""
    text = io.StringIO(newline="")
    # Quoted, because where the list separator is a semicolon, the part behind one is a cell of its own.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(names)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, int | float):
        return value
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = str(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
