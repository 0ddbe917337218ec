"""The multi-row INSERT into the audit trail. SQLAlchemy would compile it anew for each number of rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert

if TYPE_CHECKING:
    from sqlalchemy import Dialect

    from usage_instrument.database.tables import Tables

ROWS_PER_STATEMENT = 70
"""SQLite takes 999 parameters in its oldest configuration, and a row has 13."""
_NAMED, _NUMBERED = re.compile(r"%\((\w+)\)s"), re.compile(r"\$\d+")


class AccessInsert:
    """Adds rows to the trail, each statement up to ROWS_PER_STATEMENT of them: all, or none."""

    def __init__(self, dialect: Dialect, tables: Tables) -> None:
        compiled = insert(tables.access).compile(dialect=dialect)
        self._head, _, row = str(compiled).rpartition(" VALUES ")
        self._row = _NAMED.sub("%s", row)
        names = compiled.positiontup or _NAMED.findall(row)
        types = [tables.access.c[name].type for name in names]
        processors = [type_.dialect_impl(dialect).bind_processor(dialect) for type_ in types]
        self._columns = list(zip(names, processors, strict=True))
        self._texts: dict[int, str] = {}

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows, in as many statements as it takes. Raises what SQLAlchemy raises."""
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            some = rows[start : start + ROWS_PER_STATEMENT]
            values = [
                row[name] if process is None else process(row[name]) for row in some for name, process in self._columns
            ]
            connection.exec_driver_sql(self._text(len(some)), tuple(values))

    def _text(self, rows: int) -> str:
        text = self._texts.get(rows)
        if text is None:
            numbers = itertools.count(1)
            values = _NUMBERED.sub(lambda match: f"${next(numbers)}", ", ".join([self._row] * rows))
            text = self._texts[rows] = f"{self._head} VALUES {values}"
        return text
