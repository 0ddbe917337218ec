"""Corrects what Alembic autogenerates for the tables: expression indexes, virtual columns, an import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from alembic.autogenerate import renderers
from alembic.operations import ops
from sqlalchemy import Column, Connection, Dialect, MetaData, String, Table, inspect

from usage_instrument.errors import ConfigurationError

from . import dialects
from .definitions import ROOM_FOR_UPDATES
from .inspection import lacks_primary_key
from .live_tables import LiveTables
from .rollups import RollupTables
from .schema import default_tables
from .tables import Tables, defined_tables

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext


NAMES = {table.name for table in default_tables()} | RollupTables.of(default_tables().history).names
"""The tables, which Alembic leaves alone if the host's MetaData does not define them: `db create` made them."""


class _Statements(ops.ExecuteSQLOp):
    """SQL with the SQL that reverts it."""

    def __init__(self, forward: str, back: str) -> None:
        super().__init__(forward)
        self._back = back

    def reverse(self) -> ops.MigrateOperation:
        return _Statements(self._back, str(self.sqltext))


class _IndexesOfNewTable(ops.ModifyTableOps):
    """Indexes that are dropped with their table: a foreign key may depend on one."""

    def reverse(self) -> Any:
        return _Import()


class _Import(ops.MigrateOperation):
    """Imports `Text`, which Alembic renders in the type of `metadata` without importing it."""

    def reverse(self) -> ops.MigrateOperation:
        return self

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return ("import", "Text")


@renderers.dispatch_for(_Import)
def _render(context: AutogenContext, op: _Import) -> list[str]:
    context.imports.add("from sqlalchemy import Text")
    return []


def correct(context: AutogenContext, upgrade: ops.UpgradeOps) -> None:
    """Correct the changes that Alembic found, so that they lead to the defined tables."""
    connection = context.connection
    if connection is None:
        return
    for op in upgrade.ops:
        if isinstance(op, ops.CreateTableOp) and op.table_name in NAMES:
            op.columns = [_on_server(column, connection.dialect) for column in op.columns]
    known = {table.name for tables in _defined(context) for table in tables}
    partitions = {
        name
        for schema in {getattr(op, "schema", None) for op in upgrade.ops}
        for name in _partitions(connection, schema)
    }
    upgrade.ops[:] = [
        op
        for op in upgrade.ops
        if getattr(op, "table_name", None) not in NAMES - known and _full_name(connection, op) not in partitions
    ]
    for tables in _defined(context):
        _correct_exposures(connection, upgrade, tables.exposures)
        for table, unique in tables.uniques:
            _Correction(connection, tables, table, unique).apply(upgrade)


def _on_server(column: Any, dialect: Dialect) -> Any:
    """A column with the collation of this server for user ids, which a revision has to state; without one elsewhere."""
    from .user_text import UserText, on_server

    if not isinstance(column, Column) or not any(isinstance(each, UserText) for each in _types(column)):
        return column
    found: Column[Any] = column._copy()
    type_: Any = column.type.dialect_impl(dialect)
    found.type = on_server(type_, dialect) if isinstance(type_, UserText) else String(type_.length)
    return found


def _types(column: Column[Any]) -> Iterator[Any]:
    yield column.type
    yield from column.type._variant_mapping.values()


def _correct_exposures(connection: Connection, upgrade: ops.UpgradeOps, table: Table) -> None:
    """Leave room for updates, and let a new table take its indexes along when it is dropped."""
    created = [op for op in upgrade.ops if isinstance(op, ops.CreateTableOp) and op.table_name == table.name]
    for number, op in enumerate(upgrade.ops if created else ()):
        if isinstance(op, ops.ModifyTableOps) and op.table_name == table.name:
            upgrade.ops[number] = _IndexesOfNewTable(op.table_name, op.ops, schema=op.schema)
    if created:
        upgrade.ops.extend(_room_for_updates(connection, table))


def _room_for_updates(connection: Connection, table: Table) -> list[_Statements]:
    if connection.dialect.name != "postgresql":
        return []
    room = str(ROOM_FOR_UPDATES.against(table).compile(dialect=connection.dialect))
    return [_Statements(room, room.replace("SET (fillfactor = 85)", "RESET (fillfactor)"))]


def _new_partitions(connection: Connection, table: Table) -> list[_Statements]:
    """The partitions of a new table, which are dropped with it."""
    statements = dialects.get(connection.dialect.name).partitioning.new(connection, table)
    if statements is None:
        raise ConfigurationError(
            f"history_partitions='month' needs PostgreSQL, and this is {connection.dialect.name}: leave the option out"
        )
    return [_Statements(statement, "SELECT 1") for statement in statements]


def _partitions(connection: Connection, schema: str | None) -> set[str]:
    """The quoted full names of the partitions that maintenance adds and drops."""
    found = dialects.get(connection.dialect.name).partitioning.find(connection, default_tables(schema).history)
    return set() if found is None else {*(each.name for each in found.ranges), found.default or ""}


def _full_name(connection: Connection, op: ops.MigrateOperation) -> str:
    name, schema = getattr(op, "table_name", None), getattr(op, "schema", None)
    if name is None:
        return ""
    table = Table(name, MetaData(), schema=schema or connection.dialect.default_schema_name)
    return str(connection.dialect.identifier_preparer.format_table(table))


def _defined(context: AutogenContext) -> Iterator[Tables]:
    metadata = context.metadata
    for one in metadata if isinstance(metadata, list | tuple) else [metadata]:
        yield from defined_tables(one) if isinstance(one, MetaData) else ()


class _Correction:
    """The changes that Alembic found for one table, corrected."""

    def __init__(self, connection: Connection, tables: Tables, table: Table, unique: str) -> None:
        self._dialect = dialects.get(connection.dialect.name)
        self._connection = connection
        self._tables = tables
        self._table = table
        self._unique = unique
        self._schema = None if table.schema == connection.dialect.default_schema_name else table.schema

    def apply(self, upgrade: ops.UpgradeOps) -> None:
        exists = inspect(self._connection).has_table(self._table.name, schema=self._table.schema)
        created = any(isinstance(op, ops.CreateTableOp) and self._is_mine(op) for op in upgrade.ops)
        if not exists and not created:
            return  # excluded by the host's include_object or include_name
        if created and self._table is self._tables.usage:
            upgrade.ops.insert(0, _Import())
        live = LiveTables(self._connection, [self._table])
        has_unique = exists and self._dialect.has_unique(self._connection, live, self._table, self._unique)
        for number, op in reversed(list(enumerate(upgrade.ops))):
            if isinstance(op, ops.ModifyTableOps) and self._is_mine(op):
                upgrade.ops[number : number + 1] = self._corrected(op, created, has_unique)
        statements = self._dialect.unique_statements(
            self._connection, self._table, self._unique, self._tables.user_id_type
        )
        if created:
            is_partitioned = self._table is self._tables.history and self._tables.history_partitions == "month"
            upgrade.ops.extend(
                (_new_partitions if is_partitioned else _room_for_updates)(self._connection, self._table)
            )
        if exists and (key := self._primary_key()):
            upgrade.ops.append(key)
        if has_unique or self._has_index(upgrade):
            return
        if statements is not None:
            upgrade.ops.append(_Statements(*statements))
        else:  # Alembic does not compare expression indexes
            index = next(index for index in self._table.indexes if index.name == self._unique)
            add = ops.CreateIndexOp.from_index(index)
            upgrade.ops.append(ops.ModifyTableOps(self._table.name, [add], schema=self._table.schema))

    def _primary_key(self) -> _Statements | None:
        if not lacks_primary_key(LiveTables(self._connection, [self._table]), self._table):
            return None
        add = self._dialect.primary_key_sql(self._connection, self._table)
        preparer = self._connection.dialect.identifier_preparer
        column = preparer.quote(self._table.primary_key.columns.keys()[0])
        return (
            None
            if add is None
            else _Statements(add, f"ALTER TABLE {preparer.format_table(self._table)} DROP COLUMN {column}")
        )

    def _corrected(self, op: ops.ModifyTableOps, created: bool, has_unique: bool) -> list[ops.MigrateOperation]:
        hidden = self._dialect.hidden_columns
        kept = []
        for change in op.ops:
            if isinstance(change, ops.AddColumnOp) and change.column.primary_key:
                continue  # see _primary_key: autogenerate would add the column without its key
            name = getattr(change, "index_name", None) or getattr(change, "constraint_name", None)
            if self._connection.dialect.name == "sqlite" and isinstance(
                change, ops.DropConstraintOp | ops.CreateForeignKeyOp
            ):
                continue  # SQLite cannot alter the foreign key of an older table; `db upgrade` rebuilds it
            is_hidden = isinstance(change, ops.DropColumnOp) and change.column_name in hidden
            if not is_hidden and not (name == self._unique and (has_unique or hidden)):
                kept.append(change)
        if not kept:
            return []
        make = _IndexesOfNewTable if created and hidden else ops.ModifyTableOps
        return [make(op.table_name, kept, schema=op.schema)]

    def _has_index(self, upgrade: ops.UpgradeOps) -> bool:
        changes = [change for op in upgrade.ops if isinstance(op, ops.ModifyTableOps) for change in op.ops]
        return any(isinstance(change, ops.CreateIndexOp) and change.index_name == self._unique for change in changes)

    def _is_mine(self, op: Any) -> bool:
        return bool(op.table_name == self._table.name and op.schema in {self._schema, self._table.schema})
