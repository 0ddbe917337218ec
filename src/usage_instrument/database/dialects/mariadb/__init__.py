"""MariaDB 10.7 and later, and MySQL 8, with PyMySQL and other drivers, sync or async."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    DDL,
    Column,
    ColumnElement,
    Connection,
    Executable,
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

from usage_instrument.errors import ConfigurationError
from usage_instrument.settings import Settings
from usage_instrument.typing import Unit, UserIdType

from ...driver_errors import Fault
from ...live_tables import LiveTables
from ...tables import Tables
from ...user_text import UserText, bytewise_collation, on_server
from ...users_column import UsersColumn, live_users_column
from ..base import KEY_COLUMNS, NULLABLE, Dialect, Flush, as_uuid, grants, is_shorter
from .flush import BINARY_TEXT, FEATURE_KEY, USER_KEY, MariaDBFlush, anonymous_literal, has_uuid, is_galera
from .locks import Prefixed, timeouts


def _binary(connection: Connection, value: ColumnElement[Any]) -> ColumnElement[Any]:
    utf8mb4 = func.convert(value.op("USING")(literal_column("utf8mb4")))
    return collate(utf8mb4, bytewise_collation(connection.dialect))


_COLLATION = text(
    "SELECT character_set_name, collation_name FROM information_schema.columns WHERE table_name = :table "
    "AND table_schema = COALESCE(:schema, DATABASE()) AND column_name = :column AND collation_name IS NOT NULL"
)


_IS_VISIBLE = text(
    "SELECT count(*) FROM information_schema.columns WHERE table_name = :table "
    "AND table_schema = COALESCE(:schema, DATABASE()) AND column_name = :column"
)


_RELATION = text(
    "SELECT table_type, engine, create_options FROM information_schema.tables "
    "WHERE table_name = :table AND table_schema = COALESCE(:schema, DATABASE())"
)


class MariaDB(Dialect):
    """MariaDB and MySQL."""

    views_hold_columns = False

    utc_now = literal_column("utc_timestamp(6)", sqltypes.DateTime())
    local_now = literal_column("current_timestamp(6)", sqltypes.DateTime())

    def create_unique_with(self, table: Table, name: str, user_id_type: UserIdType) -> None:
        make: Any = DDL  # SQLAlchemy leaves it untyped

        def add(target: Table, connection: Connection, **_: object) -> None:
            if connection.dialect.name in {"mysql", "mariadb"}:
                ddl = make(_add_unique(table, name, user_id_type, "%(fullname)s", connection, table.c.user_id.type))
                connection.execute(ddl.against(target))

        event.listen(table, "after_create", add)

    def has_unique(self, connection: Connection, reflected: LiveTables, table: Table, name: str) -> bool:
        indexes = reflected.get_indexes(table.name, schema=table.schema)
        return any(str(index["name"]).lower() == name and index["unique"] for index in indexes)

    def add_unique(self, connection: Connection, table: Table, name: str, user_id_type: UserIdType) -> None:
        fullname = connection.dialect.identifier_preparer.format_table(table)
        reflected = LiveTables(connection, [table])
        columns = reflected.get_columns(table.name, schema=table.schema)
        live = {column["name"]: column for column in columns}
        present = {USER_KEY, FEATURE_KEY} & live.keys()
        if present:
            index = [f"DROP INDEX {name}"] if self.has_unique(connection, reflected, table, name) else []
            drops = ", ".join([*index, *(f"DROP COLUMN {key}" for key in sorted(present))])
            connection.exec_driver_sql(f"ALTER TABLE {fullname} {drops}")
        type_: Any = live["user_id"]["type"]
        if user_id_type == "string":
            type_.collation = self._user_collation(connection, table)
            users = live_users_column(connection, table)
            if users is not None:
                connection.exec_driver_sql(_respell(connection, fullname, users))
        connection.exec_driver_sql(_add_unique(table, name, user_id_type, fullname, connection, type_))

    def unique_difference(self, connection: Connection, table: Table, user_id_type: UserIdType) -> str | None:
        wanted: dict[str, str | None] = {FEATURE_KEY: bytewise_collation(connection.dialect)}
        if user_id_type == "string":
            wanted[USER_KEY] = _key_collation(connection, self._user_collation(connection, table))
        for key, collation in wanted.items():
            live = _live_collation(connection, table, key)[1]
            if live not in {None, collation}:
                return f"compares {key} by {live} and must compare it by {collation}"
        return None

    hidden_columns = frozenset({USER_KEY, FEATURE_KEY})

    def _user_collation(self, connection: Connection, table: Table) -> str | None:
        """The collation that string ids of a live table must have."""
        if live_users_column(connection, table) is None:
            return bytewise_collation(connection.dialect)
        return _live_collation(connection, table, "user_id")[1]

    def unique_key(self, connection: Connection, table: Table, user_id_type: UserIdType) -> list[ColumnElement[Any]]:
        # A table made by hand may have a collation in which more names are equal.
        user, *rest = super().unique_key(connection, table, user_id_type)
        rest[0] = _binary(connection, rest[0])
        if user_id_type == "string" and live_users_column(connection, table) is None:
            user = _binary(connection, user)
        return [user, *rest]

    def live_columns(self, connection: Connection, reflected: LiveTables, table: Table) -> Sequence[Any]:
        # Reflection omits the default of the table.
        found = reflected.get_collations(table.name, schema=table.schema)
        follows_users, columns = self._has_foreign_key(reflected, table.schema), []
        for live in super().live_columns(connection, reflected, table):
            charset, collation = found.get(live["name"], (None, None))
            columns.append({**live, "charset": charset, "collation": collation, "follows_users": follows_users})
        return columns

    def differences(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> list[str]:
        found = super().differences(connection, table, column, live)
        if isinstance(live["type"], TIMESTAMP):
            found.append("is TIMESTAMP, which is converted between time zones, and must be DATETIME(6), in UTC")
        wanted = self._own_text_type(connection, table, column, live)
        if wanted is not None and (is_shorter(live["type"], wanted) or live["charset"] not in {None, wanted.charset}):
            found.append(_text_difference(connection, column, live))
        return found

    def harmless_differences(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> list[str]:
        if self._is_narrow_id(connection, table, column, live):
            return ["is INTEGER and must be BIGINT"]
        wanted = self._own_text_type(connection, table, column, live)
        if wanted is None or live["collation"] in {None, wanted.collation}:
            return []
        return [_text_difference(connection, column, live)]

    def _own_text_type(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> Any:
        """The definition of a text column with a collation of ours; None for one that follows the users table."""
        wanted = column.type.dialect_impl(connection.dialect)
        if not isinstance(live["type"], sqltypes.String) or not getattr(wanted, "collation", None):
            return None
        if column.name in {"user_id", "actor_id"} and live["follows_users"]:
            return None
        return on_server(wanted, connection.dialect) if isinstance(wanted, UserText) else wanted

    def _is_narrow_id(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> bool:
        """Whether an id is an INT and its definition wider. A foreign key keeps the type of the users' ids."""
        type_ = live["type"]
        if not isinstance(type_, sqltypes.Integer) or isinstance(type_, sqltypes.BigInteger):
            return False
        if not isinstance(column.type, sqltypes.BigInteger):
            return False
        is_users = column.name in {"user_id", "actor_id"}
        return column is table.autoincrement_column or (is_users and not live["follows_users"])

    def _has_foreign_key(self, reflected: LiveTables, schema: str | None) -> bool:
        """Whether the ids of users are those of a users table."""
        try:
            keys = reflected.get_foreign_keys("feature_usage", schema=schema)
        except exc.NoSuchTableError:
            return False
        except exc.DBAPIError as error:
            if self.classify(error) is not Fault.CONFIGURATION:
                raise
            return False  # hidden from a role without rights to it
        return any(key["constrained_columns"] == ["user_id"] for key in keys)

    def change_column(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> None:
        has_other_type = (
            column.name == "metadata"
            or isinstance(live["type"], TIMESTAMP)
            or self._own_text_type(connection, table, column, live) is not None
            or self._is_narrow_id(connection, table, column, live)
        )
        ours = column.server_default
        default: Any = ours.arg if isinstance(ours, DefaultClause) else live["default"]
        new: Column[Any] = Column(
            column.name,
            column.type if has_other_type else live["type"],
            primary_key=column is table.autoincrement_column,
            nullable=live["nullable"] or column.name in NULLABLE,
            server_default=text(default) if isinstance(default, str) else default,
            comment=live["comment"],
        )
        Table(table.name, MetaData(), new)
        # A TIMESTAMP becomes a DATETIME in the time zone of the session.
        prefix = "SET STATEMENT time_zone='+00:00' FOR " if getattr(connection.dialect, "is_mariadb", False) else ""
        name = connection.dialect.identifier_preparer.format_table(table)
        definition = CreateColumn(new).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"{prefix}ALTER TABLE {name} MODIFY {definition}".replace("%", "%%"))

    def unique_statements(
        self, connection: Connection, table: Table, name: str, user_id_type: UserIdType
    ) -> tuple[str, str]:
        fullname = connection.dialect.identifier_preparer.format_table(table)
        drop = f"ALTER TABLE {fullname} DROP INDEX {name}, DROP COLUMN {USER_KEY}, DROP COLUMN {FEATURE_KEY}"
        return _add_unique(table, name, user_id_type, fullname, connection, table.c.user_id.type), drop

    def users_schemas(self, schema: str | None, default: str | None) -> tuple[str | None, ...]:
        # An unqualified table in a foreign key is in the database of the referring table, not of the connection.
        return (None,) if schema is None else tuple(dict.fromkeys((schema, default)))

    follows_users = True

    def users_equality(self, connection: Connection, users: UsersColumn) -> str | None:
        collation = _collation_of(connection, users)[1] or ""
        return (
            None if not collation or collation.endswith("_nopad_bin") or collation == "utf8mb4_0900_bin" else collation
        )

    def spelling_query(self, connection: Connection, users: UsersColumn) -> str | None:
        names = {"schema": users.schema, "table": users.table, "column": users.column}
        if not connection.scalar(_IS_VISIBLE, names):
            raise ConfigurationError(
                f"this role may not read {users}, whose equality decides which ids are one user: "
                f"GRANT SELECT ({users.column}) ON {users.table} TO it"
            )
        if self.users_equality(connection, users) is None:
            return None
        charset, collation = _collation_of(connection, users)
        # A colon begins a parameter.
        table = users.sql_table(connection.dialect).replace(":", "\\:")
        column = connection.dialect.identifier_preparer.quote(users.column).replace(":", "\\:")
        text_ = "CONVERT(:{id} USING utf8mb4)"
        is_same = f"{column} = {text_} COLLATE {collation}"
        if charset != "utf8mb4":
            # A character that this character set lacks becomes a question mark, which another id may have.
            narrow = f"CONVERT(:{{id}} USING {charset})"
            is_same = (
                f"{column} = {narrow} COLLATE {collation} AND "
                f"CAST(CONVERT({narrow} USING utf8mb4) AS BINARY) = CAST({text_} AS BINARY)"
            )
        return f"SELECT :{{id}}, {column} FROM {table} WHERE {is_same}"  # noqa: S608 - quoted

    def foreign_key_obstacle(self, connection: Connection, users: UsersColumn) -> str | None:
        kind, engine, options = connection.execute(_RELATION, {"schema": users.schema, "table": users.table}).one()
        if kind != "BASE TABLE":
            return f"is a {kind.lower()}"
        if engine != "InnoDB":
            return f"is a table of {engine}, which has no foreign keys"
        if "partitioned" in (options or ""):
            return "is partitioned"
        obstacle = super().foreign_key_obstacle(connection, users)
        if obstacle is None and not has_uuid(connection.dialect):
            live = inspect(connection).get_columns(users.table, schema=users.schema)
            if any(each["name"] == users.column and isinstance(each["type"], sqltypes.Uuid) for each in live):
                return "has ids of the server's type UUID, which needs SQLAlchemy 2.1"
        return obstacle

    def column_type(self, connection: Connection, table: str, schema: str | None, column: Any) -> TypeEngine[Any]:
        type_ = as_uuid(column["type"])
        if not isinstance(type_, sqltypes.String):
            return type_
        # A foreign key needs the same collation on both sides. Reflection omits the default of the table.
        found = connection.execute(_COLLATION, {"schema": schema, "table": table, "column": column["name"]}).first()
        return VARCHAR(type_.length, charset=found[0], collation=found[1]) if found is not None else type_

    def begin(self, connection: Connection, settings: Settings) -> Connection:
        # For the next transaction only: a session variable would leak through a connection pooler.
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return connection

    def without_waiting(self, connection: Connection, statement: Executable, settings: Settings) -> Executable:
        is_mariadb = getattr(connection.dialect, "is_mariadb", False)
        return Prefixed(timeouts(settings, 0), statement) if is_mariadb else statement

    def causal(self, connection: Connection, query: Executable) -> Executable:
        is_mariadb = getattr(connection.dialect, "is_mariadb", False)
        is_cluster = is_mariadb and is_galera(connection)
        return Prefixed("SET STATEMENT wsrep_sync_wait=1 FOR ", query) if is_cluster else query

    def begin_read_only(self, connection: Connection, timeout: int) -> Connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ")  # not the host's AUTOCOMMIT
        is_mariadb = getattr(connection.dialect, "is_mariadb", False)
        limit = f"max_statement_time = {timeout}" if is_mariadb else f"max_execution_time = {timeout * 1000}"
        connection.exec_driver_sql(f"SET SESSION {limit}")
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        return connection

    def flush(
        self,
        connection: Connection,
        tables: Tables,
        settings: Settings,
        users: ColumnElement[Any] | None = None,
        reflected: LiveTables | None = None,
    ) -> Flush:
        return MariaDBFlush(connection, tables, settings, users, reflected or LiveTables(connection, tables))

    def audit_role(self, connection: Connection, tables: Tables, role: str) -> list[str]:
        user, _, host = role.partition("@")
        name = "@".join("'" + part.replace("\\", "\\\\").replace("'", "''") + "'" for part in (user, host or "%"))
        access = connection.dialect.identifier_preparer.format_table(tables.access)
        return [*grants(connection, tables, name), f"GRANT INSERT ON {access} TO {name}"]

    def classify(self, error: exc.DBAPIError) -> Fault:
        return _FAULTS.get(_code(error), Fault.TRANSIENT)

    def is_rolled_back(self, error: exc.DBAPIError) -> bool:
        # Galera's failed certification. After a 1180, some of the transactions are committed on the other nodes.
        return isinstance(error, exc.IntegrityError) or _code(error) == 1213

    def is_ended(self, error: exc.DBAPIError, scalar: Callable[[str], Any]) -> bool:
        code = _code(error)
        if code == _LOCK_WAIT_TIMEOUT:
            return bool(scalar("SELECT @@innodb_rollback_on_timeout"))
        return code in _ENDS_TRANSACTION

    def is_outdated(self, error: exc.DBAPIError) -> bool:
        return _code(error) in _COLLATION_ERRORS

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

    def days_between(self, moment: str, later: str) -> str:
        return f"DATEDIFF({later}, {moment})"

    def hour_of_day(self, moment: str) -> str:
        return f"HOUR({moment})"

    def weekday(self, moment: str) -> str:
        return f"(WEEKDAY({moment}) + 1)"

    def real(self, number: str) -> str:
        return f"(({number}) * 1e0)"  # some servers cannot CAST to a float

    def whole(self, number: str) -> str:
        return f"CAST({number} AS SIGNED)"

    def json_text(self, document: str, key: str, quoted: Callable[[], str]) -> str:
        # JSON keys are compared by their escaped spelling, and `ä` has two.
        spellings = (f"JSON_EXTRACT({document}, CONCAT('$.', {each}))" for each in (quoted(), f"JSON_QUOTE({key})"))
        found = f"COALESCE({', '.join(spellings)})"
        return f"CASE WHEN JSON_TYPE({found}) <> 'NULL' THEN JSON_UNQUOTE({found}) END"


def _collation_of(connection: Connection, column: UsersColumn) -> tuple[str | None, str | None]:
    """Character set and collation of a live column."""
    names = {"schema": column.schema, "table": column.table, "column": column.column}
    found = connection.execute(_COLLATION, names).first()
    return (None, None) if found is None else (found[0], found[1])


def _live_collation(connection: Connection, table: Table, column: str) -> tuple[str | None, str | None]:
    return _collation_of(connection, UsersColumn(table.schema, table.name, column))


def _text_difference(connection: Connection, column: Column[Any], live: Any) -> str:
    charset, collation = live["charset"], live["collation"]
    type_ = live["type"].compile(connection.dialect).partition(" ")[0]
    wanted = column.type.compile(connection.dialect)
    return f"is {type_} CHARACTER SET {charset} COLLATE {collation} and must be {wanted}"


def _code(error: exc.DBAPIError) -> int:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0


def _key_collation(connection: Connection, collation: str | None) -> str | None:
    """The collation of `user_key` for a `user_id` of this collation; None is the default of the table.

    It is the one of the users table, so that different ids of one of its rows are one key. That of another character
    set is not: such ids are one key as the writer spells them as the users table does.
    """
    if collation is None:
        return None
    collation = collation.replace("utf8mb3_", "utf8mb4_")
    return collation if collation.startswith("utf8mb4_") else bytewise_collation(connection.dialect)


def _respell(connection: Connection, fullname: str, users: UsersColumn) -> str:
    """The UPDATE that gives ids the spelling of the users table."""
    column = f"u.{connection.dialect.identifier_preparer.quote(users.column)}"
    unguarded = "SET STATEMENT sql_safe_updates=0 FOR " if getattr(connection.dialect, "is_mariadb", False) else ""
    return (
        f"{unguarded}UPDATE {fullname} f JOIN {users.sql_table(connection.dialect)} u ON f.user_id = {column} "  # noqa: S608
        f"SET f.user_id = {column} WHERE CAST(f.user_id AS BINARY) <> CAST({column} AS BINARY)"
    )


def _add_unique(
    table: Table,
    name: str,
    user_id_type: UserIdType,
    fullname: str,
    connection: Connection,
    type_: TypeEngine[Any],
) -> str:
    """The ALTER TABLE that adds the key columns and the unique index.

    The columns are virtual, because stored ones forbid ON DELETE CASCADE, and invisible to `SELECT *`.
    """
    native = has_uuid(connection.dialect)
    type_ = type_.dialect_impl(connection.dialect)
    if isinstance(type_, UserText):
        type_ = on_server(type_, connection.dialect)
    # The value of a CHAR depends on the SQL mode, so the server refuses it in a generated column.
    is_char = isinstance(type_, sqltypes.CHAR)
    if isinstance(type_, sqltypes.Uuid):
        is_char = not (native and type_.native_uuid)
    user = "RTRIM(user_id)" if is_char else "user_id"
    uuid = "UUID" if native else f"CHAR(32) {BINARY_TEXT}"
    kind = {"uuid": uuid, "integer": "BIGINT", "string": "VARCHAR(255)"}[user_id_type]
    if user_id_type == "string" and (collation := _key_collation(connection, getattr(type_, "collation", None))):
        kind += f" CHARACTER SET utf8mb4 COLLATE {collation}"
    text_ = f"VARCHAR(100) CHARACTER SET utf8mb4 COLLATE {bytewise_collation(connection.dialect)}"
    columns = {
        USER_KEY: f"{kind} GENERATED ALWAYS AS (COALESCE({user}, {anonymous_literal(user_id_type, native)}))",
        FEATURE_KEY: f"{text_} GENERATED ALWAYS AS (COALESCE(feature_name, ''))",
    }
    changes = [f"ADD COLUMN {key} {value} VIRTUAL INVISIBLE" for key, value in columns.items()]
    key = ", ".join([USER_KEY, FEATURE_KEY, *(column for column in KEY_COLUMNS if column in table.c)])
    changes.append(f"ADD UNIQUE INDEX {name} ({key})")
    return f"ALTER TABLE {fullname} {', '.join(changes)}"


_LOCK_WAIT_TIMEOUT = 1205  # ER_LOCK_WAIT_TIMEOUT
_ENDS_TRANSACTION = {
    1020,  # ER_CHECKREAD: the row has changed
    1206,  # ER_LOCK_TABLE_FULL
    1213,  # ER_LOCK_DEADLOCK
    1305,  # ER_SP_DOES_NOT_EXIST: a savepoint that has ended with its transaction
}
"""The errors that end the transaction. Any other leaves it as it was before the statement."""
_COLLATION_ERRORS = {
    1253,  # ER_COLLATION_CHARSET_MISMATCH
    1267,  # ER_CANT_AGGREGATE_2COLLATIONS
    1271,  # ER_CANT_AGGREGATE_NCOLLATIONS
}
"""The collation of a column is another one than it was, or a value has characters that the column cannot hold."""

_FAULTS = {
    **dict.fromkeys(_COLLATION_ERRORS, Fault.REFUSED),
    1044: Fault.CONFIGURATION,  # ER_DBACCESS_DENIED_ERROR
    1045: Fault.CONFIGURATION,  # ER_ACCESS_DENIED_ERROR
    1047: Fault.CONNECTION_LOST,  # ER_UNKNOWN_COM_ERROR: the Galera node has left its cluster
    1048: Fault.REFUSED,  # ER_BAD_NULL_ERROR
    1049: Fault.CONFIGURATION,  # ER_BAD_DB_ERROR
    1054: Fault.CONFIGURATION,  # ER_BAD_FIELD_ERROR
    1053: Fault.CONNECTION_LOST,  # ER_SERVER_SHUTDOWN
    1142: Fault.CONFIGURATION,  # ER_TABLEACCESS_DENIED_ERROR
    1143: Fault.CONFIGURATION,  # ER_COLUMNACCESS_DENIED_ERROR
    1146: Fault.CONFIGURATION,  # ER_NO_SUCH_TABLE
    1180: Fault.CONNECTION_LOST,  # ER_ERROR_DURING_COMMIT: the Galera node leaves its cluster
    1205: Fault.LOCKED,  # ER_LOCK_WAIT_TIMEOUT
    1216: Fault.UNKNOWN_USER,  # ER_NO_REFERENCED_ROW
    1227: Fault.CONFIGURATION,  # ER_SPECIFIC_ACCESS_DENIED_ERROR
    1243: Fault.CONNECTION_LOST,  # ER_UNKNOWN_STMT_HANDLER: a prepared statement is gone
    1264: Fault.REFUSED,  # ER_WARN_DATA_OUT_OF_RANGE
    1265: Fault.REFUSED,  # WARN_DATA_TRUNCATED
    1290: Fault.CONNECTION_LOST,  # ER_OPTION_PREVENTS_STATEMENT: --read-only, after a failover
    1292: Fault.REFUSED,  # ER_TRUNCATED_WRONG_VALUE
    1366: Fault.REFUSED,  # ER_TRUNCATED_WRONG_VALUE_FOR_FIELD
    1406: Fault.REFUSED,  # ER_DATA_TOO_LONG
    1452: Fault.UNKNOWN_USER,  # ER_NO_REFERENCED_ROW_2
    1698: Fault.CONFIGURATION,  # ER_ACCESS_DENIED_NO_PASSWORD_ERROR
    1792: Fault.CONNECTION_LOST,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
    1836: Fault.CONNECTION_LOST,  # ER_READ_ONLY_MODE
    1927: Fault.CONNECTION_LOST,  # ER_CONNECTION_KILLED
    1969: Fault.TIMEOUT,  # ER_STATEMENT_TIMEOUT
    2006: Fault.CONNECTION_LOST,  # CR_SERVER_GONE_ERROR
    2013: Fault.CONNECTION_LOST,  # CR_SERVER_LOST
    3024: Fault.TIMEOUT,  # ER_QUERY_TIMEOUT, of MySQL
    3032: Fault.CONNECTION_LOST,  # ER_SERVER_OFFLINE_MODE, of MySQL
    3140: Fault.REFUSED,  # ER_INVALID_JSON_TEXT
    3141: Fault.REFUSED,  # ER_INVALID_JSON_TEXT_IN_PARAM
    4031: Fault.CONNECTION_LOST,  # ER_CLIENT_INTERACTION_TIMEOUT, of MySQL
    4025: Fault.REFUSED,  # ER_CONSTRAINT_FAILED
    4038: Fault.REFUSED,  # ER_JSON_SYNTAX
    4040: Fault.REFUSED,  # ER_JSON_DEPTH
}
"""Every other error is transient."""

DIALECT = MariaDB()
