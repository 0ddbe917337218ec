"""The statement that adds one row, made once: by itself, SQLAlchemy looks it up and through for each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert

if TYPE_CHECKING:
    from sqlalchemy import Dialect

    from usage_instrument.database.tables import Tables


class Insertion:
    """The INSERT into the trail, as the driver of a dialect takes it."""

    def __init__(self, dialect: Dialect, tables: Tables) -> None:
        compiled = insert(tables.access).compile(dialect=dialect)
        self._text = str(compiled)
        self._names: list[str] | None = compiled.positiontup
        columns = tables.access.c
        made = {name: column.type.dialect_impl(dialect).bind_processor(dialect) for name, column in columns.items()}
        self._processors = {name: process for name, process in made.items() if process is not None}

    def run(self, connection: Connection, row: Mapping[str, Any]) -> None:
        """Add a row. Raises what SQLAlchemy raises."""
        values = dict(row)
        for name, process in self._processors.items():
            values[name] = process(values[name])
        positions = self._names
        connection.exec_driver_sql(
            self._text, values if positions is None else tuple([values[name] for name in positions])
        )
