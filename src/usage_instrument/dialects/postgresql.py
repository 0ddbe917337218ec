"""PostgreSQL 12 and later, by psycopg, psycopg2 or asyncpg."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Select,
    String,
    Table,
    TableValuedAlias,
    Text,
    bindparam,
    case,
    cast,
    collate,
    column,
    exc,
    exists,
    func,
    inspect,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, Insert, insert
from sqlalchemy.schema import CreateIndex

from ..events import Batch, Count
from ..ledger import Ledger
from ..typing import Unit, UserIdType
from .base import LIMIT, WRITTEN_AS_NULL, Dialect, Fault, Flush, is_shorter, key, nil
from .rows import has_metadata, history_text, rows_text

if TYPE_CHECKING:
    from ..schema import Tables
    from ..settings import Settings

_UTC_NOW: ColumnElement[Any] = literal_column("timezone('utc', clock_timestamp())", DateTime())
_ZERO: ColumnElement[Any] = literal_column("0")


class PostgreSQLFlush(Flush):
    """One statement a table, over rows that travel as one JSON parameter.

    For a key that exists, the inserted id is the row's own, so that the conflict burns no number of the sequence.
    Rows come in one order in every process, so that two writers never wait for each other in a circle. The ledger's
    UPDATE is a CTE that gates the first statement: it costs no round trip.
    """

    def __init__(self, connection: Connection, tables: Tables, metadata_max_bytes: int) -> None:
        self._tables = tables
        self._metadata_max_bytes = metadata_max_bytes
        self._user_type = tables.usage.c.user_id.type
        sequence = _sequence(connection, tables.usage)
        self._usage = self._usage_statement(sequence, with_metadata=True)
        self._plain_usage = self._usage_statement(sequence, with_metadata=False)
        self._history = self._history_statement()

    def apply(self, connection: Connection, ledger: Ledger, batch: Batch) -> bool:
        if not batch.counts:
            return ledger.advance(connection, batch.number)
        added = connection.execute(
            self._usage if has_metadata(batch.counts) else self._plain_usage,
            {"rows": rows_text(batch.counts), "writer": ledger.writer_id, "number": batch.number},
            execution_options={"preserve_rowcount": True},
        )
        if added.rowcount == 0:
            return False
        if batch.counts[0].history:
            self.add_history(connection, batch.counts)
        return True

    def add_history(self, connection: Connection, counts: Sequence[Count]) -> None:
        connection.execute(self._history, {"rows": history_text(counts)})

    def _usage_statement(self, sequence: str | None, *, with_metadata: bool) -> Insert:
        usage, writers = self._tables.usage, self._tables.writers
        ledger = (
            update(writers)
            .where(writers.c.writer_id == bindparam("writer"), writers.c.last_batch < bindparam("number"))
            .values(last_batch=bindparam("number"), heartbeat_at=_UTC_NOW)
            .returning(literal_column("1").label("moved"))
            .cte("ledger")
        )
        more = [column("m", JSONB)] if with_metadata else []
        rows = self._rows(column("n", BigInteger), column("t", DateTime), *more)
        values: dict[str, ColumnElement[Any]] = {
            "user_id": rows.c.u,
            "feature_name": rows.c.f,
            "usage_count": func.least(rows.c.n, LIMIT),
            "last_used": func.least(rows.c.t, _UTC_NOW),
            **({"metadata": rows.c.m} if with_metadata else {}),
        }
        if sequence is not None:
            mine = usage.alias("mine")
            theirs = [func.coalesce(rows.c.u, nil(self._tables.user_id_type)), rows.c.f]
            same = [left == right for left, right in zip(key(mine, self._tables.user_id_type), theirs, strict=True)]
            existing = select(mine.c.id).where(*same).scalar_subquery()
            values["id"] = func.coalesce(existing, func.nextval(text(sequence)))
        source = self._ordered(select(*values.values()).where(exists(select(ledger.c.moved))), rows)
        statement = insert(usage).from_select(list(values), source)
        new = statement.excluded
        changes: dict[str, ColumnElement[Any]] = {
            "usage_count": _saturated(usage.c.usage_count, new.usage_count),
            "last_used": func.greatest(usage.c.last_used, new.last_used),
        }
        if with_metadata:
            changes["metadata"] = _merged(usage, new, self._metadata_max_bytes)
        return statement.on_conflict_do_update(index_elements=key(usage, self._tables.user_id_type), set_=changes)

    def _history_statement(self) -> Insert:
        history = self._tables.history
        rows = self._rows(column("n", BigInteger), column("b", DateTime))
        source = self._ordered(select(rows.c.u, rows.c.f, rows.c.b, func.least(rows.c.n, LIMIT)), rows, rows.c.b)
        statement = insert(history).from_select(["user_id", "feature_name", "bucket_start", "usage_count"], source)
        return statement.on_conflict_do_update(
            index_elements=key(history, self._tables.user_id_type),
            set_={"usage_count": _saturated(history.c.usage_count, statement.excluded.usage_count)},
        )

    def _rows(self, *columns: Any) -> TableValuedAlias:
        """The batch, unpacked from the parameter `rows`."""
        unpacked = func.json_to_recordset(cast(bindparam("rows", type_=Text()), JSON))
        typed = unpacked.table_valued(column("u", self._user_type), column("f", Text), *columns)
        return typed.render_derived("d", with_types=True)

    def _ordered(self, rows_of: Select[Any], rows: TableValuedAlias, *more: ColumnElement[Any]) -> Select[Any]:
        """By the bytes of user and feature, the anonymous user last: the order that the writer sorted in."""
        user: ColumnElement[Any] = rows.c.u
        if isinstance(self._user_type, String):
            user = collate(rows.c.u, "C")
        return rows_of.order_by(rows.c.u.is_(None), user, collate(rows.c.f, "C"), *more)


def _saturated(old: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.least(cast(func.coalesce(old, _ZERO), BigInteger) + new, LIMIT)


def _merged(usage: Table, new: Any, max_bytes: int) -> ColumnElement[Any]:
    """Newer keys win, ties are newer; what is no object is replaced, and so is the older where both are too large."""
    old, fresh = usage.c.metadata, new.metadata
    is_newer = new.last_used >= usage.c.last_used
    both = case((is_newer, old.op("||")(fresh)), else_=fresh.op("||")(old))
    limit: ColumnElement[Any] = literal_column(str(max_bytes))
    both = case((func.octet_length(cast(both, Text)) <= limit, both), (is_newer, fresh), else_=old)
    is_object = func.jsonb_typeof(old) == literal_column("'object'")
    return case((fresh.is_(None), old), (is_object, both), else_=fresh)


def _sequence(connection: Connection, usage: Table) -> str | None:
    """The expression of the id's sequence; None where an id cannot be given, and each conflict burns one."""
    name = connection.dialect.identifier_preparer.format_table(usage)
    found = connection.execute(
        text(
            "SELECT pg_get_serial_sequence(:name, 'id'), (SELECT a.attidentity FROM pg_attribute a "
            "WHERE a.attrelid = CAST(:name AS regclass) AND a.attname = 'id')"
        ),
        {"name": name},
    ).one()
    if found[0] is None or found[1] in {"a", b"a"}:  # GENERATED ALWAYS takes no id of ours
        return None
    quoted = str(found[0]).replace("'", "''").replace(":", "\\:")
    return f"'{quoted}'::regclass".replace("::", "\\:\\:")


class PostgreSQL(Dialect):
    """PostgreSQL."""

    utc_now = _UTC_NOW
    local_now = literal_column("localtimestamp", DateTime())

    def has_unique(self, connection: Connection, table: Table, name: str) -> bool:
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
        if column.name == "metadata" and not isinstance(type_, JSONB):
            wrong.append(f"is {type_.compile(connection.dialect)} and must be JSONB")
        elif isinstance(type_, DateTime) and type_.timezone:
            wrong.append("is TIMESTAMP WITH TIME ZONE and must be plain, in UTC")
        elif column.name != "user_id" and is_shorter(type_, column.type):
            wrong.append(
                f"is {type_.compile(connection.dialect)} and must be {column.type.compile(connection.dialect)}"
            )
        return wrong

    def change_column(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> None:
        name, type_ = connection.dialect.identifier_preparer.format_table(table), live["type"]
        changes = []
        if column.name == "metadata" and not isinstance(type_, JSONB):
            changes.append("TYPE jsonb USING CAST(CAST(metadata AS text) AS jsonb)")
        elif isinstance(type_, DateTime) and type_.timezone:
            changes.append(f"TYPE timestamp USING {column.name} AT TIME ZONE 'UTC'")
        elif column.name != "user_id" and is_shorter(type_, column.type):
            changes.append(f"TYPE {column.type.compile(connection.dialect)}")
        if column.name in WRITTEN_AS_NULL and not live["nullable"]:
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

    def begin(self, connection: Connection, settings: Settings) -> Connection:
        connection = connection.execution_options(isolation_level="READ COMMITTED")
        timeouts = {"lock_timeout": max(round(settings.lock_timeout * 1000), 1)}
        if settings.statement_timeout:
            # The second holds for a transaction whose client has gone without a word: it would keep the rows that it
            # has locked, and users from being deleted, for the hours that TCP takes to notice.
            timeout = math.ceil(settings.statement_timeout * 1000)
            timeouts |= {"statement_timeout": timeout, "idle_in_transaction_session_timeout": timeout}
        else:
            timeouts["statement_timeout"] = 0
        # Local to the transaction, so that nothing stays in a session that a pooler may hand to somebody else.
        values = [func.set_config(name, f"{milliseconds}ms", True) for name, milliseconds in timeouts.items()]
        connection.execute(select(*values))
        return connection

    def begin_reading(self, connection: Connection, timeout: int) -> Connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        connection.execute(
            text("SELECT set_config('statement_timeout', :statement, true)"), {"statement": f"{timeout * 1000}ms"}
        )
        return connection

    def flush(
        self, connection: Connection, tables: Tables, settings: Settings, users: ColumnElement[Any] | None = None
    ) -> Flush:
        return PostgreSQLFlush(connection, tables, settings.metadata_max_bytes)

    def classify(self, error: exc.DBAPIError) -> Fault:
        state = _sqlstate(error)
        if state == "23503":
            return Fault.UNKNOWN_USER
        if state in _CONFIGURATION or state[:2] in {"28", "42", "3D", "3F", "0A"}:
            return Fault.CONFIGURATION
        if state in {"23502", "23514", "21000"} or state[:2] == "22":
            return Fault.REFUSED
        if not state and any(sign in str(error.orig) for sign in ("authentication failed", "does not exist")):
            return Fault.CONFIGURATION  # refused while connecting: libpq passes no SQLSTATE on
        return Fault.TRANSIENT

    def rolled_back(self, error: exc.DBAPIError) -> bool:
        return _sqlstate(error)[:2] in {"23", "40"}

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
        return f"CAST({moment} AS DATE)"

    def real(self, number: str) -> str:
        return f"CAST({number} AS DOUBLE PRECISION)"

    def json_text(self, document: str, key: str, quoted: Callable[[], str]) -> str:
        return f"({document} ->> {key})"


_CONFIGURATION = {"2200H"}  # the sequence is exhausted


def _sqlstate(error: exc.DBAPIError) -> str:
    """The SQLSTATE, wherever the driver keeps it; empty when the server never answered."""
    for name in ("sqlstate", "pgcode"):
        state = getattr(error.orig, name, None)
        if state:
            return str(state)
    return ""


DIALECT = PostgreSQL()
