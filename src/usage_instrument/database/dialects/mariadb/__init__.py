"""MariaDB 10.7 and later, and MySQL 8, by PyMySQL and other drivers, sync or async."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    DDL,
    Column,
    ColumnElement,
    Connection,
    Executable,
    FromClause,
    MetaData,
    Table,
    collate,
    event,
    exc,
    func,
    inspect,
    literal_column,
    text,
)
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects.mysql import TIMESTAMP, VARCHAR
from sqlalchemy.schema import CreateColumn, DefaultClause
from sqlalchemy.types import TypeEngine

from usage_instrument.typing import Unit, UserIdType

from ...driver_errors import Fault
from ..base import WRITTEN_AS_NULL, Dialect, Flush, as_uuid, is_shorter
from ..grants import grants
from .flush import FEATURE_KEY, TEXT, USER_KEY, MariaDBFlush, has_uuid, nobody, patience
from .prefixed import Prefixed

if TYPE_CHECKING:
    from usage_instrument.settings import Settings

    from ...tables import Tables


def _binary(value: ColumnElement[Any]) -> ColumnElement[Any]:
    return collate(func.convert(value.op("USING")(literal_column("utf8mb4"))), "utf8mb4_bin")


_COLLATION = text(
    "SELECT character_set_name, collation_name FROM information_schema.columns WHERE table_name = :table "
    "AND table_schema = COALESCE(:schema, DATABASE()) AND column_name = :column AND collation_name IS NOT NULL"
)


class MariaDB(Dialect):
    """MariaDB and MySQL."""

    views_hold_columns = False

    utc_now = literal_column("utc_timestamp(6)", sqltypes.DateTime())
    local_now = literal_column("current_timestamp(6)", sqltypes.DateTime())

    def constrain(self, table: Table, name: str, user_id_type: UserIdType) -> None:
        make: Any = DDL  # SQLAlchemy leaves both of these untyped
        for native in (True, False):
            ddl = make(_add_unique(table, name, user_id_type, "%(fullname)s", native, table.c.user_id.type))
            event.listen(table, "after_create", ddl.execute_if(dialect=("mysql", "mariadb"), callable_=_knows(native)))

    def has_unique(self, connection: Connection, table: Table, name: str) -> bool:
        found = connection.execute(
            text(
                "SELECT count(*) FROM information_schema.statistics WHERE table_schema = COALESCE(:schema, DATABASE()) "
                "AND table_name = :table AND index_name = :name AND non_unique = 0"
            ),
            {"schema": table.schema, "table": table.name, "name": name},
        )
        return bool(found.scalar())

    def add_unique(self, connection: Connection, table: Table, name: str, user_id_type: UserIdType) -> None:
        fullname = connection.dialect.identifier_preparer.format_table(table)
        columns = inspect(connection).get_columns(table.name, schema=table.schema)
        live = {column["name"]: column["type"] for column in columns}
        native = has_uuid(connection.dialect)
        connection.exec_driver_sql(
            _add_unique(table, name, user_id_type, fullname, native, live["user_id"], present=live)
        )

    hidden_columns = frozenset({USER_KEY, FEATURE_KEY})

    def key(self, rows: FromClause, user_id_type: UserIdType) -> list[ColumnElement[Any]]:
        # Somebody else's table may have a collation in which more names are the same.
        user, *rest = super().key(rows, user_id_type)
        rest[0] = _binary(rest[0])
        return [_binary(user) if user_id_type == "string" else user, *rest]

    def differences(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> list[str]:
        return super().differences(connection, table, column, live) + self._mistyped(connection, table, column, live)

    def _mistyped(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> list[str]:
        type_ = live["type"]
        if isinstance(type_, TIMESTAMP):
            return ["is TIMESTAMP, which is converted between time zones, and must be DATETIME(6), in UTC"]
        if column.name == "user_id" or not isinstance(column.type, sqltypes.String):
            return []
        charset = getattr(self.column_type(connection, table.name, table.schema, live), "charset", None)
        if is_shorter(type_, column.type) or charset not in {None, "utf8mb4"}:
            return [f"is {type_.compile(connection.dialect)} and must be {column.type.compile(connection.dialect)}"]
        return []

    def change_column(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> None:
        mistyped = column.name == "metadata" or self._mistyped(connection, table, column, live)
        ours = column.server_default
        default: Any = ours.arg if isinstance(ours, DefaultClause) else live["default"]
        new: Column[Any] = Column(
            column.name,
            column.type if mistyped else live["type"],
            primary_key=column is table.autoincrement_column,
            nullable=live["nullable"] or column.name in WRITTEN_AS_NULL,
            server_default=text(default) if isinstance(default, str) else default,
            comment=live["comment"],
        )
        Table(table.name, MetaData(), new)
        # A TIMESTAMP that becomes a DATETIME keeps what the session's time zone makes of it.
        prefix = "SET STATEMENT time_zone='+00:00' FOR " if getattr(connection.dialect, "is_mariadb", False) else ""
        name = connection.dialect.identifier_preparer.format_table(table)
        definition = CreateColumn(new).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"{prefix}ALTER TABLE {name} MODIFY {definition}".replace("%", "%%"))

    def unique_statements(
        self, connection: Connection, table: Table, name: str, user_id_type: UserIdType
    ) -> tuple[str, str]:
        fullname = connection.dialect.identifier_preparer.format_table(table)
        drop = f"ALTER TABLE {fullname} DROP INDEX {name}, DROP COLUMN {USER_KEY}, DROP COLUMN {FEATURE_KEY}"
        native = has_uuid(connection.dialect)
        return _add_unique(table, name, user_id_type, fullname, native, table.c.user_id.type), drop

    def users_schemas(self, schema: str | None, default: str | None) -> tuple[str | None, ...]:
        # A bare name in a foreign key is of the referring table's database, not of the connection's.
        return (None,) if schema is None else tuple(dict.fromkeys((schema, default)))

    def column_type(self, connection: Connection, table: str, schema: str | None, column: Any) -> TypeEngine[Any]:
        type_ = as_uuid(column["type"])
        if not isinstance(type_, sqltypes.String):
            return type_
        # A foreign key needs the same collation on both sides, and reflection leaves out the table's default.
        found = connection.execute(_COLLATION, {"schema": schema, "table": table, "column": column["name"]}).first()
        return VARCHAR(type_.length, charset=found[0], collation=found[1]) if found is not None else type_

    def begin(self, connection: Connection, settings: Settings) -> Connection:
        # For the next transaction alone: what is set for the session stays there, and a pooler hands it to others.
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return connection

    def at_once(self, connection: Connection, statement: Executable, settings: Settings) -> Executable:
        is_mariadb = getattr(connection.dialect, "is_mariadb", False)
        return Prefixed(patience(settings, 0), statement) if is_mariadb else statement

    def begin_reading(self, connection: Connection, timeout: int) -> Connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ")  # ends an AUTOCOMMIT of the host's
        is_mariadb = getattr(connection.dialect, "is_mariadb", False)
        limit = f"max_statement_time = {timeout}" if is_mariadb else f"max_execution_time = {timeout * 1000}"
        connection.exec_driver_sql(f"SET SESSION {limit}")
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        return connection

    def flush(
        self, connection: Connection, tables: Tables, settings: Settings, users: ColumnElement[Any] | None = None
    ) -> Flush:
        return MariaDBFlush(connection, tables, settings, users)

    def audit_role(self, connection: Connection, tables: Tables, role: str) -> list[str]:
        user, _, host = role.partition("@")
        name = "@".join("'" + part.replace("\\", "\\\\").replace("'", "''") + "'" for part in (user, host or "%"))
        access = connection.dialect.identifier_preparer.format_table(tables.access)
        return [*grants(connection, tables, name), f"GRANT INSERT ON {access} TO {name}"]

    def classify(self, error: exc.DBAPIError) -> Fault:
        code = _code(error)
        if code in {1216, 1452}:
            return Fault.UNKNOWN_USER
        if code in {1044, 1045, 1049, 1054, 1142, 1143, 1146, 1227, 1290, 1698}:
            return Fault.CONFIGURATION
        if code in {1048, 1264, 1265, 1292, 1366, 1406, 3140, 3141, 4025, 4038, 4040}:
            return Fault.REFUSED
        return Fault.TRANSIENT

    def rolled_back(self, error: exc.DBAPIError) -> bool:
        return isinstance(error, exc.IntegrityError) or _code(error) == 1213  # Galera's answer to a lost certification

    def is_duplicate(self, error: exc.DBAPIError) -> bool:
        return _code(error) == 1062

    def now(self) -> str:
        return "UTC_TIMESTAMP(6)"

    def ago(self, number: int, unit: str) -> str:
        return f"({self.now()} - INTERVAL {number} {unit.upper()})"

    def instant(self, moment: dt.datetime) -> str:
        return f"TIMESTAMP '{moment}'"

    def start_of(self, unit: Unit, moment: str) -> str:
        day = f"TIMESTAMP(DATE({moment}))"
        return {
            "hour": f"({day} + INTERVAL HOUR({moment}) HOUR)",
            "day": day,
            "week": f"({day} - INTERVAL WEEKDAY({moment}) DAY)",
            "month": f"({day} - INTERVAL DAYOFMONTH({moment}) - 1 DAY)",
        }[unit]

    def later(self, unit: Unit, moment: str, number: str) -> str:
        return f"({moment} + INTERVAL {number} {unit.upper()})"

    def day(self, moment: str) -> str:
        return f"DATE({moment})"

    def real(self, number: str) -> str:
        return f"(({number}) * 1e0)"  # some servers cast to no float

    def json_text(self, document: str, key: str, quoted: Callable[[], str]) -> str:
        # Keys are compared by their spelling, and `ä` has two.
        spellings = (f"JSON_EXTRACT({document}, CONCAT('$.', {each}))" for each in (quoted(), f"JSON_QUOTE({key})"))
        found = f"COALESCE({', '.join(spellings)})"
        return f"CASE WHEN JSON_TYPE({found}) <> 'NULL' THEN JSON_UNQUOTE({found}) END"


def _code(error: exc.DBAPIError) -> int:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def _knows(native: bool) -> Any:
    return lambda *_, dialect, **__: has_uuid(dialect) is native


def _add_unique(
    table: Table,
    name: str,
    user_id_type: UserIdType,
    fullname: str,
    native: bool,
    type_: TypeEngine[Any],
    *,
    present: Collection[str] = (),
) -> str:
    """Virtual columns, as stored ones forbid foreign keys that act; invisible, as nobody needs to see them."""
    # What a CHAR is read as depends on the session, which the server refuses in a column that is generated.
    is_char = isinstance(type_, sqltypes.CHAR)
    if isinstance(type_, sqltypes.Uuid):
        is_char = not (native and type_.native_uuid)
    user = "RTRIM(user_id)" if is_char else "user_id"
    uuid = "UUID" if native else f"CHAR(32) {TEXT}"
    kind = {"uuid": uuid, "integer": "BIGINT", "string": f"VARCHAR(255) {TEXT}"}[user_id_type]
    columns = {
        USER_KEY: f"{kind} GENERATED ALWAYS AS (COALESCE({user}, {nobody(user_id_type, native)}))",
        FEATURE_KEY: f"VARCHAR(100) {TEXT} GENERATED ALWAYS AS (COALESCE(feature_name, ''))",
    }
    changes = [f"ADD COLUMN {key} {value} VIRTUAL INVISIBLE" for key, value in columns.items() if key not in present]
    bucket = ", bucket_start" if "bucket_start" in table.c else ""
    changes.append(f"ADD UNIQUE INDEX {name} ({USER_KEY}, {FEATURE_KEY}{bucket})")
    return f"ALTER TABLE {fullname} {', '.join(changes)}"


DIALECT = MariaDB()
