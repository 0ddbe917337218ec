"""The tables as they are in a database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Table, bindparam, exc, inspect, text
from sqlalchemy.engine.reflection import ObjectKind, ObjectScope

_COLLATIONS = text(
    "SELECT table_name, column_name, character_set_name, collation_name FROM information_schema.columns "
    "WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name IN :names"
).bindparams(bindparam("names", expanding=True))


class LiveTables:
    """Reflects tables, and keeps what it has read: columns, keys and indexes, as an Inspector of SQLAlchemy does.

    PostgreSQL is asked once for the columns of several tables, and once for each kind of key. A question for each table
    takes four times the time, in each process that starts. Other databases are asked once for each table: their answer
    to whether there is a table are its columns.
    """

    def __init__(self, connection: Connection, tables: Iterable[Table]) -> None:
        self.dialect = connection.dialect
        self._connection = connection
        self._inspector = inspect(connection)
        self._names: dict[str | None, list[str]] = {}
        together = list(tables)
        self._is_at_once = self.dialect.name == "postgresql"
        if len(together) > 1:
            for table in together:
                self._names.setdefault(table.schema, []).append(table.name)
        self._read: dict[tuple[str, str | None], Any] = {}

    def has_table(self, name: str, *, schema: str | None = None) -> bool:
        """Whether there is a table or a view of that name."""
        if name not in self._names.get(schema, ()):
            return self._inspector.has_table(name, schema=schema)
        if self._is_at_once:
            return (schema, name) in self._all("columns", schema) or self._inspector.has_table(name, schema=schema)
        if schema is not None and self.dialect.name == "sqlite":  # which has no columns of a schema that is missing
            return self._inspector.has_table(name, schema=schema)
        try:
            return bool(self.get_columns(name, schema=schema))
        except exc.NoSuchTableError:
            return False

    def get_columns(self, name: str, *, schema: str | None = None) -> list[Any]:
        """The columns. Raises NoSuchTableError, as do the others."""
        found: list[Any] = self._get("columns", name, schema)
        return found

    def get_pk_constraint(self, name: str, *, schema: str | None = None) -> Any:
        """The primary key, which may have no columns."""
        return self._get("pk_constraint", name, schema)

    def get_indexes(self, name: str, *, schema: str | None = None) -> list[Any]:
        """The indexes."""
        found: list[Any] = self._get("indexes", name, schema)
        return found

    def get_foreign_keys(self, name: str, *, schema: str | None = None) -> list[Any]:
        """The foreign keys."""
        found: list[Any] = self._get("foreign_keys", name, schema)
        return found

    def get_collations(self, name: str, *, schema: str | None = None) -> dict[str, tuple[str | None, str | None]]:
        """The character set and collation of each column, on MariaDB and MySQL. Empty without the table."""
        found: dict[str, dict[str, tuple[str | None, str | None]]] = self._read.setdefault(("collations", schema), {})
        if name not in found:
            names = sorted({*self._names.get(schema, ()), name})
            found.update((each, {}) for each in names)
            rows = self._connection.execute(_COLLATIONS, {"schema": schema, "names": names})
            for table, column, *text_ in rows:
                if table in found:  # not one that differs in case
                    found[table][column] = (text_[0], text_[1])
        return found[name]

    def _get(self, kind: str, name: str, schema: str | None) -> Any:
        if self._is_at_once and name in self._names.get(schema, ()):
            together = self._all(kind, schema)
            if (schema, name) in together:
                return together[schema, name]
        return getattr(self._inspector, f"get_{kind}")(name, schema=schema)

    def _all(self, kind: str, schema: str | None) -> Any:
        if (kind, schema) not in self._read:
            read = getattr(self._inspector, f"get_multi_{kind}")
            names = self._names[schema]
            self._read[kind, schema] = read(
                schema=schema, filter_names=names, kind=ObjectKind.ANY, scope=ObjectScope.ANY
            )
        return self._read[kind, schema]
