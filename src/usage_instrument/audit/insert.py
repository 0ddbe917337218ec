"""The multi-row INSERT into the audit trail. SQLAlchemy would compile it anew for each number of rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, MetaData, Table, insert, text

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

ROWS_PER_STATEMENT = 70
"""SQLite takes 999 parameters in its oldest configuration, and a row has 13."""
_PIPELINING = {"psycopg", "psycopg_async", "asyncpg"}
_NAMED, _NUMBERED = re.compile(r"%\((\w+)\)s"), re.compile(r"\$\d+")


class AccessInsert:
    """Adds rows to the trail, each statement up to ROWS_PER_STATEMENT of them: all, or none."""

    def __init__(self, connection: Connection, tables: Tables) -> None:
        dialect = connection.dialect
        schema: Any = _schema_of(connection, tables.access)
        access = tables.access.to_metadata(MetaData(), schema=schema)
        compiled = insert(access).compile(dialect=dialect)
        self._head, _, row = str(compiled).rpartition(" VALUES ")
        self._row = _NAMED.sub("%s", row)
        names = compiled.positiontup or _NAMED.findall(row)
        types = [access.c[name].type for name in names]
        processors = [type_.dialect_impl(dialect).bind_processor(dialect) for type_ in types]
        self._columns = list(zip(names, processors, strict=True))
        self._texts: dict[int, str] = {}

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows, in as many statements as it takes. Raises what SQLAlchemy raises."""
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            some = rows[start : start + ROWS_PER_STATEMENT]
            connection.exec_driver_sql(
                self._text(len(some)), tuple(value for row in some for value in self._values(row))
            )

    def run_in_transaction(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """As run, where a transaction has begun: by single-row statements if the driver sends them together, since it
        reads and plans a long statement anew each time."""
        if len(rows) > 1 and connection.dialect.driver in _PIPELINING:
            connection.exec_driver_sql(self._text(1), [tuple(self._values(row)) for row in rows])
        else:
            self.run(connection, rows)

    def _values(self, row: Mapping[str, Any]) -> list[Any]:
        return [row[name] if process is None else process(row[name]) for name, process in self._columns]

    def _text(self, rows: int) -> str:
        statement = self._texts.get(rows)
        if statement is None:
            numbers = itertools.count(1)
            values = _NUMBERED.sub(lambda match: f"${next(numbers)}", ", ".join([self._row] * rows))
            statement = self._texts[rows] = f"{self._head} VALUES {values}"
        return statement


def _schema_of(connection: Connection, access: Table) -> str | None:
    """The schema of the live table: no temporary table of another client of a pooler may hide it."""
    schema: str | None = access.schema
    options = connection.get_execution_options()
    schema = (options.get("schema_translate_map") or {}).get(schema, schema)
    if schema is None and connection.dialect.name == "postgresql":
        schema = connection.scalar(_SCHEMA, {"name": access.name})
    return schema


_SCHEMA = text(  # current_schemas(false) leaves out pg_temp
    "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "JOIN unnest(current_schemas(false)) WITH ORDINALITY AS s(name, place) ON s.name = n.nspname "
    "WHERE c.relname = :name ORDER BY s.place LIMIT 1"
)
