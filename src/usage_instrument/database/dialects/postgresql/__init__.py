"""PostgreSQL 12 and later, with psycopg, psycopg2 or asyncpg."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    cast,
    exc,
    func,
    inspect,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import CreateIndex

from usage_instrument.settings import Settings
from usage_instrument.typing import Unit, UserIdType

from ...driver_errors import Fault
from ...live_tables import LiveTables
from ...tables import Tables
from ...users_column import UsersColumn
from ..base import NULLABLE, Dialect, Flush, grants, is_shorter
from .additions import UTC_NOW
from .flush import PostgreSQLFlush
from .partitions import UPGRADE_CHECK, MonthlyPartitions
from .portable_flush import PortableFlush, is_distributed
from .rollups import WeeklyRollups

_EQUALITY = text(
    "SELECT CASE WHEN t.typname = 'citext' THEN 'citext' WHEN NOT c.collisdeterministic THEN CAST(c.collname AS text) "
    "END FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation c ON c.oid = a.attcollation "
    "WHERE a.attrelid = CAST(:name AS regclass) AND a.attname = :column"
)


_BEHIND = text(
    # Without a transaction on the primary, the last one gets older and older: a standby that is connected and has
    # replayed all that it received is not behind.
    "SELECT CASE WHEN NOT pg_is_in_recovery() THEN NULL WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() "
    "AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0 "
    "ELSE EXTRACT(EPOCH FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END"
)
_TEMPORARY = text(
    "SELECT DISTINCT relname FROM pg_class WHERE relpersistence = 't' AND relname IN :names ORDER BY relname"
).bindparams(bindparam("names", expanding=True))

# Compiling a question takes longer than it saves, until it reads many millions of rows. A million groups of user and
# feature need more than the usual 4 MB of memory: they would be written to disk and read again. A 32nd of what the
# server has for its cache is little beside it. Other servers that speak its protocol lack some of these settings, and
# refuse an unknown one.
_FOR_QUESTIONS = text(
    "SELECT set_config(name, CASE name WHEN 'jit' THEN 'off' ELSE CAST(greatest(CAST(setting AS bigint), least(131072, "
    "(SELECT CAST(setting AS bigint) / 4 FROM pg_settings WHERE name = 'effective_cache_size'))) AS text) END, true) "
    "FROM pg_settings WHERE name IN ('jit', 'work_mem')"
)
"""`work_mem` has kilobytes, `effective_cache_size` blocks of 8 kB."""


class PostgreSQL(Dialect):
    """PostgreSQL."""

    utc_now = UTC_NOW
    local_now = literal_column("localtimestamp", DateTime())
    has_lateral = True
    has_bits = True

    def has_unique(self, connection: Connection, reflected: LiveTables, table: Table, name: str) -> bool:
        found = connection.execute(
            text(
                "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
                "WHERE i.indrelid = CAST(:table AS regclass) AND c.relname = :name AND i.indisunique AND i.indisvalid"
            ),
            {"table": connection.dialect.identifier_preparer.format_table(table), "name": name},
        )
        return bool(found.scalar())

    def add_unique(self, connection: Connection, table: Table, name: str, user_id_type: UserIdType) -> None:
        index = next(index for index in table.indexes if index.name == name)
        connection.execute(CreateIndex(index))

    def differences(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> list[str]:
        wrong, type_ = super().differences(connection, table, column, live), live["type"]
        if isinstance(column.type, JSON) and not isinstance(type_, JSONB):
            wrong.append(f"is {type_.compile(connection.dialect)} and must be JSONB")
        elif isinstance(type_, DateTime) and type_.timezone:
            wrong.append("is TIMESTAMP WITH TIME ZONE and must be plain, in UTC")
        elif column.name not in {"user_id", "actor_id"} and is_shorter(type_, column.type):
            wrong.append(
                f"is {type_.compile(connection.dialect)} and must be {column.type.compile(connection.dialect)}"
            )
        return wrong

    def harmless_differences(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> list[str]:
        return ["is INTEGER and must be BIGINT"] if _is_narrow_id(table, column, live["type"]) else []

    def change_column(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> None:
        name, type_ = connection.dialect.identifier_preparer.format_table(table), live["type"]
        changes = []
        if isinstance(column.type, JSON) and not isinstance(type_, JSONB):
            changes.append("TYPE jsonb USING CAST(CAST(metadata AS text) AS jsonb)")
        elif isinstance(type_, DateTime) and type_.timezone:
            changes.append(f"TYPE timestamp USING {column.name} AT TIME ZONE 'UTC'")
        elif column.name not in {"user_id", "actor_id"} and is_shorter(type_, column.type):
            changes.append(f"TYPE {column.type.compile(connection.dialect)}")
        elif _is_narrow_id(table, column, type_):
            changes.append("TYPE BIGINT")
            numbers = "SELECT pg_get_serial_sequence(%s, %s)"
            sequence = connection.exec_driver_sql(numbers, (name, column.name)).scalar()
            if sequence is not None and not live.get("identity"):  # that of an identity column follows
                connection.exec_driver_sql(f"ALTER SEQUENCE {sequence} AS BIGINT")
        if column.name in NULLABLE and not live["nullable"]:
            changes.append("DROP NOT NULL")
        if column is table.autoincrement_column and not self.is_numbered(connection, table, live):
            last = connection.exec_driver_sql(f"SELECT coalesce(max({column.name}), 0) FROM {name}").scalar()  # noqa: S608
            changes.append(f"ADD GENERATED BY DEFAULT AS IDENTITY (START WITH {int(last or 0) + 1})")
        for change in changes:
            connection.exec_driver_sql(f"ALTER TABLE {name} ALTER COLUMN {column.name} {change}")

    @contextlib.contextmanager
    def schema_change(self, connection: Connection, tables: Sequence[Table]) -> Iterator[Connection]:
        with connection.begin():
            inspector = inspect(connection)
            for table in tables:
                if inspector.has_table(table.name, schema=table.schema):
                    name = connection.dialect.identifier_preparer.format_table(table)
                    connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
            yield connection

    partitioning = MonthlyPartitions()
    rollups = WeeklyRollups()

    def users_equality(self, connection: Connection, users: UsersColumn) -> str | None:
        names = {"name": users.sql_table(connection.dialect), "column": users.column}
        found: str | None = connection.scalar(_EQUALITY, names)
        return found

    def foreign_key_obstacle(self, connection: Connection, users: UsersColumn) -> str | None:
        kind, may_refer = connection.execute(
            text(
                "SELECT relkind, has_any_column_privilege(oid, 'REFERENCES') "
                "FROM pg_class WHERE oid = CAST(:name AS regclass)"
            ),
            {"name": users.sql_table(connection.dialect)},
        ).one()
        kind = kind.decode() if isinstance(kind, bytes) else kind  # asyncpg
        if kind not in _TABLE_KINDS:
            return f"is {_OTHER_KINDS.get(kind, 'no table')}"
        if not may_refer:
            return "grants this role no REFERENCES"
        if kind == "r":
            return super().foreign_key_obstacle(connection, users)
        keys = inspect(connection).get_pk_constraint(users.table, schema=users.schema)["constrained_columns"]
        if keys != [users.column]:
            return f"is partitioned, without a primary key of {users.column} alone"
        return self.equality_obstacle(connection, users)

    def begin(self, connection: Connection, settings: Settings) -> Connection:
        connection = connection.execution_options(isolation_level="READ COMMITTED")
        timeouts = {"lock_timeout": max(round(settings.lock_timeout * 1000), 1)}
        if settings.statement_timeout:
            # The second one ends a transaction whose client has vanished. TCP would take hours to notice, and until
            # then its row locks would keep users from being deleted.
            timeout = math.ceil(settings.statement_timeout * 1000)
            timeouts |= {"statement_timeout": timeout, "idle_in_transaction_session_timeout": timeout}
        else:
            timeouts["statement_timeout"] = 0
        # Local to the transaction: a session setting would leak through a connection pooler.
        values = [func.set_config(name, f"{milliseconds}ms", True) for name, milliseconds in timeouts.items()]
        connection.execute(select(*values))
        return connection

    def begin_read_only(self, connection: Connection, timeout: int) -> Connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        connection.execute(select(func.set_config("statement_timeout", f"{timeout * 1000}ms", True)))
        self.prepare_questions(connection)
        return connection

    def prepare_questions(self, connection: Connection) -> None:
        connection.execute(_FOR_QUESTIONS)

    def is_conflict(self, error: exc.DBAPIError) -> bool:
        return _sqlstate(error) == "40001"

    def behind(self, connection: Connection) -> float | None:
        seconds = connection.scalar(_BEHIND)
        return None if seconds is None else float(seconds)

    def flush(
        self,
        connection: Connection,
        tables: Tables,
        settings: Settings,
        users: ColumnElement[Any] | None = None,
        reflected: LiveTables | None = None,
    ) -> Flush:
        wanted = settings.flush_statements
        if wanted == "portable" or (wanted == "auto" and is_distributed(connection, tables)):
            return PortableFlush(tables, settings.metadata_max_bytes)
        return PostgreSQLFlush(connection, tables, settings.metadata_max_bytes)

    def primary_key_sql(self, connection: Connection, table: Table) -> str | None:
        alter = super().primary_key_sql(connection, table)
        if alter is None or table.autoincrement_column is None:
            return alter
        # Roles that number the rows of feature_usage number those of this table too.
        format_table = connection.dialect.identifier_preparer.format_table
        known, added = (
            _literal(format_table(each)) for each in (Table("feature_usage", MetaData(), schema=table.schema), table)
        )
        sequence = f"pg_get_serial_sequence({added}, 'id')"
        return (
            f"DO $$ DECLARE role text; BEGIN {alter}; "  # noqa: S608 - quoted names
            "FOR role IN SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END "
            "FROM pg_class c, aclexplode(c.relacl) a "
            f"WHERE c.oid = to_regclass(CASE WHEN to_regclass({known}) IS NOT NULL "
            f"THEN pg_get_serial_sequence({known}, 'id') END) "
            f"AND a.privilege_type = 'USAGE' AND a.grantee <> c.relowner AND {sequence} IS NOT NULL "
            f"LOOP EXECUTE 'GRANT USAGE ON SEQUENCE ' || {sequence} || ' TO ' || role; END LOOP; END $$"
        )

    def audit_role(self, connection: Connection, tables: Tables, role: str) -> list[str]:
        preparer = connection.dialect.identifier_preparer
        name, access = preparer.quote(role), preparer.format_table(tables.access)
        schema = tables.usage.schema
        sequences = [_sequence_of_ids(connection, table) for table in (tables.usage, tables.history)]
        return [
            *([f"GRANT USAGE ON SCHEMA {preparer.quote_schema(schema)} TO {name}"] if schema else []),
            *grants(connection, tables, name),
            *(f"GRANT USAGE ON SEQUENCE {sequence} TO {name}" for sequence in sequences if sequence),
            f"REVOKE ALL ON {access} FROM PUBLIC, {name}",
            f"GRANT INSERT ON {access} TO {name}",
        ]

    def temporary_tables(self, connection: Connection, tables: Tables) -> list[str]:
        names = {"names": [table.name for table in tables]}
        return list(connection.scalars(_TEMPORARY, names))

    def classify(self, error: exc.DBAPIError) -> Fault:
        state = _sqlstate(error)
        if not state and any(part in str(error.orig) for part in ("authentication failed", "does not exist")):
            return Fault.CONFIGURATION  # libpq passes no SQLSTATE on if connecting fails
        if state == "0A000" and "cached plan" in str(error.orig):
            return Fault.CONNECTION_LOST
        if state == "23514" and _constraint(error) in {None, UPGRADE_CHECK}:
            # Not a row's own fault: its partition was made just now, or is missing, or an upgrade was broken off.
            return Fault.TRANSIENT
        return _FAULTS.get(state) or _FAULTS.get(state[:2], Fault.TRANSIENT)

    def is_rolled_back(self, error: exc.DBAPIError) -> bool:
        state = _sqlstate(error)
        # integrity_constraint_violation and transaction_rollback, but for statement_completion_unknown
        return state[:2] in {"23", "40"} and state != "40003"

    def is_outdated(self, error: exc.DBAPIError) -> bool:
        return _sqlstate(error) in _UNFIT  # as the tables were distributed since

    aborts_transaction = True

    def is_aborted(self, error: exc.DBAPIError) -> bool:
        return _sqlstate(error) == "25P02"  # in_failed_sql_transaction

    def may_read(self, connection: Connection, table: Table) -> bool:
        name = connection.dialect.identifier_preparer.format_table(table)  # a failed statement would end a transaction
        return bool(connection.scalar(select(func.has_table_privilege(cast(name, Text), cast("SELECT", Text)))))

    def is_duplicate(self, error: exc.DBAPIError) -> bool:
        return _sqlstate(error) == "23505"

    def now(self) -> str:
        return "timezone('utc', now())"

    def ago(self, number: int, unit: str) -> str:
        return f"({self.now()} - interval '{number} {unit}s')"

    def instant(self, moment: dt.datetime) -> str:
        return f"TIMESTAMP '{moment}'"

    def start_of(self, unit: Unit, moment: str) -> str:
        return f"date_trunc('{unit}', {moment})"

    def later(self, unit: Unit, moment: str, number: str) -> str:
        return f"({moment} + {number} * interval '1 {unit}')"

    def day(self, moment: str) -> str:
        return f"({moment})::date"

    def days_between(self, moment: str, later: str) -> str:
        return f"(({later})::date - ({moment})::date)"

    def hour_of_day(self, moment: str) -> str:
        return f"EXTRACT(HOUR FROM {moment})::int"

    def weekday(self, moment: str) -> str:
        return f"EXTRACT(ISODOW FROM {moment})::int"

    def real(self, number: str) -> str:
        return f"({number})::float"

    def whole(self, number: str) -> str:
        return f"{number}::bigint"

    def once(self, moment: str) -> str:
        return f"(SELECT {moment})"

    def json_text(self, document: str, key: str, quoted: Callable[[], str]) -> str:
        return f"({document} ->> {key})"


_FAULTS = {
    "": Fault.CONNECTION_LOST,  # the server did not answer
    "08": Fault.CONNECTION_LOST,  # connection_exception
    "0A": Fault.CONFIGURATION,  # feature_not_supported
    "21000": Fault.REFUSED,  # cardinality_violation
    "22": Fault.REFUSED,  # data_exception
    "2200H": Fault.CONFIGURATION,  # sequence_generator_limit_exceeded
    "23502": Fault.REFUSED,  # not_null_violation
    "23503": Fault.UNKNOWN_USER,  # foreign_key_violation
    "23514": Fault.REFUSED,  # check_violation
    "25": Fault.CONNECTION_LOST,  # invalid_transaction_state; 25006 is read_only_sql_transaction, after a failover
    "26000": Fault.CONNECTION_LOST,  # invalid_sql_statement_name: a prepared statement is gone
    "28": Fault.CONFIGURATION,  # invalid_authorization_specification
    "3D": Fault.CONFIGURATION,  # invalid_catalog_name
    "3F": Fault.CONFIGURATION,  # invalid_schema_name
    "55P03": Fault.LOCKED,  # lock_not_available
    "57014": Fault.TIMEOUT,  # query_canceled
    "42": Fault.CONFIGURATION,  # syntax_error_or_access_rule_violation
    "42P05": Fault.CONNECTION_LOST,  # duplicate_prepared_statement
    "57P01": Fault.CONNECTION_LOST,  # admin_shutdown
    "57P02": Fault.CONNECTION_LOST,  # crash_shutdown
    "57P03": Fault.CONNECTION_LOST,  # cannot_connect_now
    "57P04": Fault.CONNECTION_LOST,  # database_dropped
    "57P05": Fault.CONNECTION_LOST,  # idle_session_timeout
    "XX": Fault.INTERNAL,  # internal_error
}
"""By SQLSTATE or its class; every other error is transient."""

_UNFIT = {"0A000", "XX000"}
"""How Citus refuses a statement: feature_not_supported, internal_error."""


def _sequence_of_ids(connection: Connection, table: Table) -> str | None:
    """The sequence that numbers a table's ids; None if it has none."""
    name = connection.dialect.identifier_preparer.format_table(table)
    has_ids = text("SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attname = 'id'")
    if connection.scalar(has_ids, {"name": name}) is None:
        return None
    found: str | None = connection.scalar(text("SELECT pg_get_serial_sequence(:name, 'id')"), {"name": name})
    return found


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _is_narrow_id(table: Table, column: Column[Any], live: Any) -> bool:
    """Whether an id is an INT that rows, or the ids of the users table, may outgrow."""
    if column.name not in {"user_id", "actor_id"} and column is not table.autoincrement_column:
        return False
    return isinstance(column.type, BigInteger) and isinstance(live, Integer) and not isinstance(live, BigInteger)


def _constraint(error: exc.DBAPIError) -> str | None:
    """The constraint that was violated; None of the bounds of a partition."""
    for place in (getattr(error.orig, "diag", None), error.orig, getattr(error.orig, "__cause__", None)):
        name = getattr(place, "constraint_name", None)
        if name:
            return str(name)
    return None


def _sqlstate(error: exc.DBAPIError) -> str:
    """The SQLSTATE; empty if the server did not answer."""
    for name in ("sqlstate", "pgcode"):
        state = getattr(error.orig, name, None)
        if state:
            return str(state)
    return ""


_TABLE_KINDS = {"r", "p"}
_OTHER_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
"""`pg_class.relkind`."""

DIALECT = PostgreSQL()
