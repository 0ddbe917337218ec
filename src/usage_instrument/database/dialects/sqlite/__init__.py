"""SQLite 3.24 and later, in a file, with sqlite3 or aiosqlite."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    DateTime,
    ForeignKeyConstraint,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    exc,
    literal_column,
    text,
)
from sqlalchemy.schema import CreateIndex, CreateTable, DefaultClause
from sqlalchemy.types import TypeEngine

from usage_instrument.settings import Settings
from usage_instrument.typing import Unit, UserIdType

from ...driver_errors import Fault
from ...live_tables import LiveTables
from ...tables import Tables
from ...users_column import UsersColumn
from ..base import Dialect, Flush, as_uuid
from .flush import SQLiteFlush, merged_metadata


def rebuild(connection: Connection, table: Table, change: Callable[[Table], object]) -> None:
    """Recreate a live table with changes that ALTER TABLE does not support; columns, rows, indexes and triggers stay.

    The caller has opened a transaction without enforcement of foreign keys.
    """
    quote = connection.dialect.identifier_preparer.quote
    schema = f"{quote(table.schema)}." if table.schema else ""
    attached = connection.exec_driver_sql(
        f"SELECT sql FROM {schema}sqlite_master "  # noqa: S608 - quoted above
        "WHERE tbl_name = ? AND type <> 'table' AND sql IS NOT NULL",
        (table.name,),
    ).scalars()
    statements = list(attached)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exc.SAWarning)  # expression indexes cannot be reflected; `attached` has them
        live = Table(table.name, MetaData(), schema=table.schema, autoload_with=connection)
    stored = [quote(column.name) for column in live.c if column.computed is None]
    change(live)
    new = live.to_metadata(live.metadata, name=f"{table.name}_rebuilt")
    connection.execute(CreateTable(new))
    columns, fresh, name = ", ".join(stored), quote(new.name), quote(table.name)
    copy = f"INSERT INTO {schema}{fresh} ({columns}) SELECT {columns} FROM {schema}{name}"  # noqa: S608 - quoted above
    connection.exec_driver_sql(copy)
    connection.exec_driver_sql(f"DROP TABLE {schema}{name}")
    connection.exec_driver_sql(f"ALTER TABLE {schema}{fresh} RENAME TO {name}")
    for statement in statements:
        connection.exec_driver_sql(statement)


class SQLite(Dialect):
    """SQLite."""

    excludes_writers = True

    utc_now = literal_column("strftime('%Y-%m-%d %H:%M:%f000', 'now')", DateTime())
    local_now = utc_now  # CURRENT_TIMESTAMP is in UTC

    def has_unique(self, connection: Connection, reflected: LiveTables, table: Table, name: str) -> bool:
        schema = f"{table.schema}." if table.schema else ""
        found = connection.execute(
            text(
                f"SELECT count(*) FROM {schema}sqlite_master "  # noqa: S608 - a name out of a Table
                "WHERE type = 'index' AND name = :name AND tbl_name = :table"
            ),
            {"name": name, "table": table.name},
        )
        return bool(found.scalar())

    def add_unique(self, connection: Connection, table: Table, name: str, user_id_type: UserIdType) -> None:
        index = next(index for index in table.indexes if index.name == name)
        connection.execute(CreateIndex(index))

    def add_column(self, connection: Connection, table: Table, column: Column[Any]) -> None:
        default: Any = column.server_default.arg if isinstance(column.server_default, DefaultClause) else None
        new: Column[Any] = Column(column.name, column.type, nullable=column.nullable, server_default=default)
        rebuild(connection, table, lambda live: live.append_column(new))

    def primary_key_sql(self, connection: Connection, table: Table) -> str | None:
        return None

    def add_primary_key(self, connection: Connection, table: Table) -> None:
        def change(live: Table) -> None:
            for column in table.primary_key.columns:
                if column.name not in live.c:
                    live.append_column(Column(column.name, column.type, nullable=False))
            live.append_constraint(PrimaryKeyConstraint(*(live.c[column.name] for column in table.primary_key.columns)))

        rebuild(connection, table, change)

    def is_numbered(self, connection: Connection, table: Table, live: Any) -> bool:
        # Only INTEGER PRIMARY KEY is numbered, INT PRIMARY KEY is not.
        quote = connection.dialect.identifier_preparer.quote
        schema = f"{quote(table.schema)}." if table.schema else ""
        rows = connection.exec_driver_sql(f"PRAGMA {schema}table_info({quote(table.name)})")
        return any(row.name == live["name"] and row.pk and row.type.upper() == "INTEGER" for row in rows)

    def change_column(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> None:
        def change(live: Table) -> None:
            live.c[column.name].nullable = bool(column.nullable)
            if column is table.autoincrement_column:
                live.c[column.name].type = column.type
                live.append_constraint(PrimaryKeyConstraint(live.c[column.name]))

        rebuild(connection, table, change)

    def add_foreign_key(
        self, connection: Connection, table: Table, users: UsersColumn, replaced: Sequence[str]
    ) -> None:
        def change(live: Table) -> None:
            for constraint in list(live.foreign_key_constraints):
                if constraint.column_keys == ["user_id"]:
                    live.constraints.discard(constraint)
                    live.c.user_id.foreign_keys.difference_update(constraint.elements)
            referred = Table(users.table, live.metadata, schema=table.schema, autoload_with=connection)
            live.append_constraint(
                ForeignKeyConstraint(["user_id"], [referred.c[users.column]], ondelete="CASCADE", onupdate="CASCADE")
            )

        rebuild(connection, table, change)

    @contextlib.contextmanager
    def schema_change(self, connection: Connection, tables: Sequence[Table]) -> Iterator[Connection]:
        # The driver begins no transaction for DDL. Foreign keys are not enforced meanwhile: dropping the old table
        # would delete the rows that refer to it.
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        enforced = connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        finally:
            connection.exec_driver_sql(f"PRAGMA foreign_keys = {int(bool(enforced))}")
            connection.rollback()

    def users_equality(self, connection: Connection, users: UsersColumn) -> str | None:
        # Only an index shows the collation of a column, and a foreign key needs one with that collation.
        quote = connection.dialect.identifier_preparer.quote
        schema = f"{quote(users.schema)}." if users.schema else ""
        found = set()
        for index in connection.exec_driver_sql(f"PRAGMA {schema}index_list({quote(users.table)})").all():
            keys = connection.exec_driver_sql(f"PRAGMA {schema}index_xinfo({quote(index.name)})").all()
            if index.unique and [row.name for row in keys if row.key] == [users.column]:
                found.add(next(row.coll for row in keys if row.key))
        return None if not found or "BINARY" in found else min(found)

    def users_schemas(self, schema: str | None, default: str | None) -> tuple[str | None, ...]:
        return (schema,)  # a foreign key cannot refer to another file

    def column_type(self, connection: Connection, table: str, schema: str | None, column: Any) -> TypeEngine[Any]:
        return as_uuid(column["type"])

    def begin(self, connection: Connection, settings: Settings) -> Connection:
        # The driver, or a listener of the host's, begins deferred transactions. The first write of one fails if another
        # process wrote after its first read, whatever the timeout.
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {math.ceil(settings.lock_timeout * 1000)}")
        if getattr(connection.connection.dbapi_connection, "in_transaction", False):
            connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return connection

    def begin_read_only(self, connection: Connection, timeout: int) -> Connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("PRAGMA query_only = ON")
        if not getattr(connection.connection.dbapi_connection, "in_transaction", False):
            connection.exec_driver_sql("BEGIN")
        return connection

    def commit(self, connection: Connection) -> None:
        connection.exec_driver_sql("COMMIT")

    def rollback(self, connection: Connection) -> None:
        connection.exec_driver_sql("ROLLBACK")

    def flush(
        self,
        connection: Connection,
        tables: Tables,
        settings: Settings,
        users: ColumnElement[Any] | None = None,
        reflected: LiveTables | None = None,
    ) -> Flush:
        table = connection.dialect.identifier_preparer.format_table(tables.usage, use_schema=False)
        return SQLiteFlush(tables, merged_metadata(table, settings.metadata_max_bytes))

    def classify(self, error: exc.DBAPIError) -> Fault:
        message = str(error.orig)
        for part, fault in _FAULTS.items():
            if part in message:
                return fault
        refused = exc.IntegrityError | exc.DataError | exc.InterfaceError
        return Fault.REFUSED if isinstance(error, refused) else Fault.TRANSIENT

    def is_rolled_back(self, error: exc.DBAPIError) -> bool:
        return True  # a failed COMMIT leaves the transaction open; the rollback that follows ends it

    def is_duplicate(self, error: exc.DBAPIError) -> bool:
        return "UNIQUE constraint failed" in str(error.orig)

    # Times are text with microseconds, like those of the tables: text of another length would compare wrongly.

    def now(self) -> str:
        return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

    def ago(self, number: int, unit: str) -> str:
        return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '-{number} {unit}s')"

    def instant(self, moment: dt.datetime) -> str:
        return f"'{moment.isoformat(' ', 'microseconds')}'"

    def start_of(self, unit: Unit, moment: str) -> str:
        day = f"date(substr({moment}, 1, 10), '-6 days', 'weekday 1')" if unit == "week" else moment
        kept, rest = _STARTS[unit]
        if unit == "day":
            return f"({self.day(moment)} || '{rest}')"
        return f"(substr({day}, 1, {kept}) || '{rest}')"

    def later(self, unit: Unit, moment: str, number: str) -> str:
        number, step = (f"(7 * {number})", "days") if unit == "week" else (number, f"{unit}s")
        return f"strftime('%Y-%m-%d %H:%M:%f000', {moment}, {number} || ' {step}')"

    def day(self, moment: str) -> str:
        if moment.startswith("(date(") and moment.endswith(_MIDNIGHT):
            return moment[1 : -len(_MIDNIGHT)]
        # The clock has whole milliseconds; of other times, date() may round up to the next day.
        is_clock = moment.startswith(_CLOCK)
        return f"date('now'{moment.removeprefix(_CLOCK)}" if is_clock else f"substr({moment}, 1, 10)"

    def days_between(self, moment: str, later: str) -> str:
        return f"CAST(julianday({self.day(later)}) - julianday({self.day(moment)}) AS INTEGER)"

    def hour_of_day(self, moment: str) -> str:
        return f"CAST(substr({moment}, 12, 2) AS INTEGER)"

    def weekday(self, moment: str) -> str:
        return f"((strftime('%w', {self.day(moment)}) + 6) % 7 + 1)"

    def real(self, number: str) -> str:
        return f"CAST({number} AS REAL)"

    def whole(self, number: str) -> str:
        return number  # a sum of integers is one

    def json_text(self, document: str, key: str, quoted: Callable[[], str]) -> str:
        # A path of JSON_EXTRACT cannot express every key.
        object_ = f"CASE WHEN json_valid({document}) THEN {document} END"
        text = "CASE type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' ELSE CAST(value AS TEXT) END"
        return f"(SELECT {text} FROM json_each({object_}) WHERE key = {key} LIMIT 1)"  # noqa: S608 - of SQL text alone


_CLOCK = "strftime('%Y-%m-%d %H:%M:%f000', 'now'"
_MIDNIGHT = " || ' 00:00:00.000000')"
_STARTS: dict[Unit, tuple[int, str]] = {
    "hour": (13, ":00:00.000000"),
    "day": (10, " 00:00:00.000000"),
    "week": (10, " 00:00:00.000000"),
    "month": (7, "-01 00:00:00.000000"),
}
"""The start of each unit: how many characters of the time it keeps, and the rest. strftime would round up."""

_FAULTS = {
    "FOREIGN KEY": Fault.UNKNOWN_USER,
    "UNIQUE": Fault.TRANSIENT,  # another writer was faster
    "no such table": Fault.CONFIGURATION,
    "no such column": Fault.CONFIGURATION,
    "has no column": Fault.CONFIGURATION,
    "readonly": Fault.CONFIGURATION,
    "unable to open": Fault.CONFIGURATION,
    "not a database": Fault.CONFIGURATION,
}
"""By a part of the message."""

DIALECT = SQLite()
