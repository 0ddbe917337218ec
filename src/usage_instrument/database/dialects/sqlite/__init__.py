"""SQLite 3.24 and later, in a file, by sqlite3 or aiosqlite."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

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

from usage_instrument.typing import Unit, UserIdType

from ...driver_errors import Fault
from ..base import Dialect, Flush, Target, as_uuid
from .flush import MERGED, SQLiteFlush

if TYPE_CHECKING:
    from usage_instrument.settings import Settings

    from ...tables import Tables


def rebuild(connection: Connection, table: Table, change: Callable[[Table], object]) -> None:
    """Change a live table in a way that ALTER TABLE does not know, and keep all else of it: columns, rows, indexes,
    triggers. Foreign keys are not enforced, and a transaction is open."""
    quote = connection.dialect.identifier_preparer.quote
    schema = f"{quote(table.schema)}." if table.schema else ""
    attached = connection.exec_driver_sql(
        f"SELECT sql FROM {schema}sqlite_master "  # noqa: S608 - quoted above
        "WHERE tbl_name = ? AND type <> 'table' AND sql IS NOT NULL",
        (table.name,),
    ).scalars()
    statements = list(attached)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exc.SAWarning)  # it cannot reflect expression indexes, which come from above
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
    local_now = utc_now  # CURRENT_TIMESTAMP is in UTC there

    def has_unique(self, connection: Connection, table: Table, name: str) -> bool:
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

    def is_numbered(self, connection: Connection, table: Table, live: Any) -> bool:
        # Only INTEGER PRIMARY KEY is the number of the row; INT is another type.
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

    def refer(self, connection: Connection, table: Table, target: Target, wrong: Sequence[str]) -> None:
        def change(live: Table) -> None:
            for constraint in list(live.foreign_key_constraints):
                if constraint.column_keys == ["user_id"]:
                    live.constraints.discard(constraint)
                    live.c.user_id.foreign_keys.difference_update(constraint.elements)
            users = Table(target.table, live.metadata, schema=table.schema, autoload_with=connection)
            live.append_constraint(ForeignKeyConstraint(["user_id"], [users.c[target.column]], ondelete="CASCADE"))

        rebuild(connection, table, change)

    @contextlib.contextmanager
    def schema_change(self, connection: Connection, tables: Sequence[Table]) -> Iterator[Connection]:
        # By itself the driver begins no transaction for DDL. Enforcement ends first: it would empty, row by row, what
        # refers to a table that is rebuilt.
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

    def users_schemas(self, schema: str | None, default: str | None) -> tuple[str | None, ...]:
        return (schema,)  # a foreign key cannot leave its file

    def column_type(self, connection: Connection, table: str, schema: str | None, column: Any) -> TypeEngine[Any]:
        return as_uuid(column["type"])

    def begin(self, connection: Connection, settings: Settings) -> Connection:
        # The driver would begin a deferred transaction, whose first write fails at once if another process wrote since.
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        patience = math.ceil(settings.lock_timeout * 1000)
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {patience}")
        if not getattr(connection.connection.dbapi_connection, "in_transaction", False):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        return connection

    def begin_reading(self, connection: Connection, timeout: int) -> Connection:
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
        self, connection: Connection, tables: Tables, settings: Settings, users: ColumnElement[Any] | None = None
    ) -> Flush:
        table = connection.dialect.identifier_preparer.format_table(tables.usage, use_schema=False)
        limit = settings.metadata_max_bytes
        return SQLiteFlush(tables, MERGED.format(old=f"{table}.metadata", table=table, limit=limit))

    def classify(self, error: exc.DBAPIError) -> Fault:
        message = str(error.orig)
        if isinstance(error, exc.IntegrityError):
            if "FOREIGN KEY" in message:
                return Fault.UNKNOWN_USER
            return Fault.TRANSIENT if "UNIQUE" in message else Fault.REFUSED
        if isinstance(error, exc.DataError | exc.InterfaceError):
            return Fault.REFUSED
        signs = (
            "no such table",
            "no such column",
            "has no column",
            "readonly",
            "unable to open",
            "not a database",
        )
        return Fault.CONFIGURATION if any(sign in message for sign in signs) else Fault.TRANSIENT

    def rolled_back(self, error: exc.DBAPIError) -> bool:
        return True  # a failed COMMIT leaves the transaction open, and the rollback that follows ends it

    def is_duplicate(self, error: exc.DBAPIError) -> bool:
        return "UNIQUE constraint failed" in str(error.orig)

    # Times are text: to be compared with those of the tables, they are as long.

    def now(self) -> str:
        return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

    def ago(self, number: int, unit: str) -> str:
        return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '-{number} {unit}s')"

    def instant(self, moment: dt.datetime) -> str:
        return f"'{moment.isoformat(' ', 'microseconds')}'"

    def start_of(self, unit: Unit, moment: str) -> str:
        day = f"date(substr({moment}, 1, 10), '-6 days', 'weekday 1')" if unit == "week" else moment
        kept, rest = _STARTS[unit]
        return f"(substr({day}, 1, {kept}) || '{rest}')"

    def later(self, unit: Unit, moment: str, number: str) -> str:
        number, step = (f"(7 * {number})", "days") if unit == "week" else (number, f"{unit}s")
        return f"strftime('%Y-%m-%d %H:%M:%f000', {moment}, {number} || ' {step}')"

    def day(self, moment: str) -> str:
        return f"substr({moment}, 1, 10)"

    def real(self, number: str) -> str:
        return f"CAST({number} AS REAL)"

    def json_text(self, document: str, key: str, quoted: Callable[[], str]) -> str:
        # A path, which is what JSON_EXTRACT takes, has no way to write every key.
        object_ = f"CASE WHEN json_valid({document}) THEN {document} END"
        text = "CASE type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' ELSE CAST(value AS TEXT) END"
        return f"(SELECT {text} FROM json_each({object_}) WHERE key = {key} LIMIT 1)"  # noqa: S608 - of SQL text alone


_STARTS: dict[Unit, tuple[int, str]] = {
    "hour": (13, ":00:00.000000"),
    "day": (10, " 00:00:00.000000"),
    "week": (10, " 00:00:00.000000"),
    "month": (7, "-01 00:00:00.000000"),
}
"""What a start has of the moment, in characters, and what it ends in: strftime would round the moment up."""


DIALECT = SQLite()
