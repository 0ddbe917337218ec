"""The interface of a dialect: DDL, transactions, the flush, error classes, SQL expressions."""

from __future__ import annotations

import contextlib
import datetime as dt
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Executable,
    FromClause,
    String,
    Table,
    exc,
    func,
    inspect,
    literal_column,
    select,
)
from sqlalchemy.schema import CreateColumn
from sqlalchemy.types import CHAR, TypeEngine, Uuid

from usage_instrument.errors import ConfigurationError, UsageInstrumentError
from usage_instrument.events import MAX_COUNT, NIL
from usage_instrument.typing import Unit, UserIdType

from ..driver_errors import Fault
from ..live_tables import LiveTables
from ..partitions import Partitioning
from ..rollups import Rollups
from ..tables import Tables
from ..users_column import UsersColumn

if TYPE_CHECKING:
    from usage_instrument.events import Batch, Count
    from usage_instrument.settings import Settings

    from ..dimensions import DimensionRow
    from ..exposures import ExposureRow
    from ..ledger import Ledger

MAX_COUNT_SQL: ColumnElement[Any] = literal_column(str(MAX_COUNT))
"""`usage_count` saturates here. A literal: a parameter inside SET fails once the driver prepares the statement."""
NULLABLE = frozenset(
    {
        *("user_id", "actor_id", "request_id", "metadata", "description", "display_name", "source"),
        *("value_minimum", "value_maximum", "dimensions"),
    }
)
"""The columns into which the package writes NULL."""


KEY_COLUMNS = ("dimension", "dimension_value", "bucket_start")
"""The columns that follow user and feature in the unique index of a table that has them."""


class ConcurrentInsertError(UsageInstrumentError):
    """Another writer inserted a row of this batch. The transaction is rolled back and retried."""


@dataclass(frozen=True)
class ColumnChange:
    """A column of a live table that differs from its definition."""

    what: str
    """The column, its type, and the type that it must have."""
    make: Callable[[Connection], object]
    """Changes the column."""
    blocks_writing: bool


class Flush(ABC):
    """The statements of one dialect for one set of tables, built once and executed for each batch."""

    @abstractmethod
    def apply(self, connection: Connection, ledger: Ledger, batch: Batch) -> bool:
        """Advance the ledger to the batch and add its counts, in the caller's transaction.

        False if the ledger did not advance; nothing is added then.
        """

    @abstractmethod
    def add_history(self, connection: Connection, counts: Sequence[Count]) -> None:
        """Add the buckets of the counts to the history, in the caller's transaction."""

    def queue(self, connection: Connection) -> None:  # noqa: B027 - optional
        """Wait until no other writer is within a transaction, where writers queue for each other; `apply` does."""

    def make_queue(self, connection: Connection) -> None:  # noqa: B027 - optional
        """Make what writers queue for, if it is missing, in the caller's transaction."""

    def row_order(self, table: Table) -> list[ColumnElement[Any]]:
        """The order in which all writers lock the rows of a table."""
        return self.by_bytes(table.c.user_id, table.c.feature_name)

    def by_bytes(self, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        """An ORDER BY of user ids and texts by their bytes, as writers sort them."""
        return [*columns]

    @abstractmethod
    def add_exposures(self, connection: Connection, rows: Sequence[ExposureRow]) -> None:
        """Add exposures to their rows, in the caller's transaction: the first time stays, the user that is known stays,
        the numbers are added up."""

    @abstractmethod
    def add_dimensions(self, connection: Connection, rows: Sequence[DimensionRow]) -> None:
        """Add uses and numbers to the rows of dimensions, in the caller's transaction."""


class Dialect(ABC):
    """One database. A new one is a subclass in a folder, and a line in the registry of this package."""

    # ---- DDL

    def create_unique_with(self, table: Table, name: str, user_id_type: UserIdType) -> None:  # noqa: B027 - optional
        """Have `CREATE TABLE` followed by the unique index, where an Index cannot express it."""

    @abstractmethod
    def has_unique(self, connection: Connection, reflected: LiveTables, table: Table, name: str) -> bool:
        """Whether a live table has the unique index on user and feature (and bucket), NULLs included."""

    @abstractmethod
    def add_unique(self, connection: Connection, table: Table, name: str, user_id_type: UserIdType) -> None:
        """Add the unique index to a live table without duplicates."""

    def unique_difference(self, connection: Connection, table: Table, user_id_type: UserIdType) -> str | None:
        """How the unique index of a live table takes other users or features for equal than it must, as a predicate;
        None if it does not."""
        return None

    hidden_columns: frozenset[str] = frozenset()
    """Columns of the unique index that the table definitions do not contain."""

    def unique_key(self, connection: Connection, table: Table, user_id_type: UserIdType) -> list[ColumnElement[Any]]:
        """The expressions of the unique index, for a live table that may not have it."""
        return unique_key(table, user_id_type)

    def unique_statements(
        self, connection: Connection, table: Table, name: str, user_id_type: UserIdType
    ) -> tuple[str, str] | None:
        """The SQL that creates and the SQL that drops the unique index; None where an Index expresses it."""
        return None

    def column_changes(self, connection: Connection, reflected: LiveTables, table: Table) -> list[ColumnChange]:
        """The columns of a live table that differ from their definition, and how to change them."""
        changes = []
        for live in self.live_columns(connection, reflected, table):
            column = table.c.get(live["name"])
            if column is None:
                continue
            blocking = self.differences(connection, table, column, live)
            found = blocking or self.harmless_differences(connection, table, column, live)
            if found:
                make = partial(self.change_column, table=table, column=column, live=live)
                what = f"{table.fullname}.{column.name} {' and '.join(found)}"
                changes.append(ColumnChange(what, make, bool(blocking)))
        return changes

    def live_columns(self, connection: Connection, reflected: LiveTables, table: Table) -> Sequence[Any]:
        """The reflected columns of a live table, as `differences` looks at them."""
        return reflected.get_columns(table.name, schema=table.schema)

    def differences(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> list[str]:
        """How a reflected column is narrower than its definition."""
        found = []
        if column.name in NULLABLE and not live["nullable"]:
            found.append("is NOT NULL and must allow NULL")
        if column is table.autoincrement_column and not self.is_numbered(connection, table, live):
            found.append("has no default number and must have one")
        return found

    def harmless_differences(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> list[str]:
        """How a reflected column differs from its definition without keeping the flush from writing."""
        return []

    def is_numbered(self, connection: Connection, table: Table, live: Any) -> bool:
        """Whether an INSERT without this reflected column gives it a number."""
        return bool(live["default"] or live.get("identity") or live.get("autoincrement") is True)

    @abstractmethod
    def change_column(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> None:
        """Make a live column accept all values of its definition, and keep its other properties."""

    def add_column(self, connection: Connection, table: Table, column: Column[Any]) -> None:
        """Add a missing column to a live table."""
        name = connection.dialect.identifier_preparer.format_table(table)
        definition = CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {definition}")

    def primary_key_sql(self, connection: Connection, table: Table) -> str | None:
        """The ALTER TABLE that adds the primary key, and its column if missing; None if there is no such statement."""
        preparer = connection.dialect.identifier_preparer
        live = {column["name"] for column in inspect(connection).get_columns(table.name, schema=table.schema)}
        added = [
            f"ADD COLUMN {CreateColumn(column).compile(dialect=connection.dialect)}"
            for column in table.primary_key.columns
            if column.name not in live
        ]
        key = ", ".join(preparer.quote(column.name) for column in table.primary_key.columns)
        return f"ALTER TABLE {preparer.format_table(table)} {', '.join([*added, f'ADD PRIMARY KEY ({key})'])}"

    def add_primary_key(self, connection: Connection, table: Table) -> None:
        """Add the primary key to a live table, and its column if missing."""
        connection.exec_driver_sql(str(self.primary_key_sql(connection, table)))

    def add_foreign_key(
        self, connection: Connection, table: Table, users: UsersColumn, replaced: Sequence[str]
    ) -> None:
        """Make `user_id` of a live table refer to the users, and drop the foreign keys that this replaces."""
        preparer = connection.dialect.identifier_preparer
        name = preparer.format_table(table)
        for key in replaced:
            connection.exec_driver_sql(f"ALTER TABLE {name} DROP CONSTRAINT {preparer.quote(key)}")
        connection.exec_driver_sql(f"ALTER TABLE {name} ADD {users.sql_reference(connection.dialect)}")

    views_hold_columns: ClassVar[bool] = True
    """Whether a column cannot be changed while a view selects it."""

    @contextlib.contextmanager
    def schema_change(self, connection: Connection, tables: Sequence[Table]) -> Iterator[Connection]:
        """A transaction for DDL, as far as DDL is transactional, that excludes other writers."""
        with connection.begin():
            yield connection

    partitioning: ClassVar[Partitioning] = Partitioning()
    """The partitions of the history, where tables have some."""
    rollups: ClassVar[Rollups] = Rollups()
    """The rollups of the history, where triggers can keep them."""

    # ---- the users table

    def users_schemas(self, schema: str | None, default: str | None) -> tuple[str | None, ...]:
        """The schemas that a foreign key of a table in `schema` may refer to, nearest first.

        `default` is the schema of the connection.
        """
        return tuple(dict.fromkeys((schema, None)))

    follows_users: ClassVar[bool] = False
    """Whether the tables take over the equality of a users column of strings; otherwise it must be that of bytes."""

    def spelling_query(self, connection: Connection, users: UsersColumn) -> str | None:
        """The SQL that looks up an id, `:{id}`, by the equality of the users column, and returns it with its spelling
        there; None where equal ids have equal bytes."""
        return None

    def users_equality(self, connection: Connection, users: UsersColumn) -> str | None:
        """The collation or type by which a users column of strings takes different ids for equal; None if it does
        not."""
        return None

    def foreign_key_obstacle(self, connection: Connection, users: UsersColumn) -> str | None:
        """Why no foreign key can refer to an existing column, as a predicate: `is a view`; None if one can."""
        inspector = inspect(connection)
        if users.table not in inspector.get_table_names(schema=users.schema):
            return "is no table"
        unique = [inspector.get_pk_constraint(users.table, schema=users.schema)["constrained_columns"]]
        unique += [each["column_names"] for each in inspector.get_unique_constraints(users.table, schema=users.schema)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", exc.SAWarning)  # expression indexes cannot be reflected
            indexes = inspector.get_indexes(users.table, schema=users.schema)
        unique += [
            [str(name) for name in each["column_names"]] for each in indexes if each["unique"] and not _is_partial(each)
        ]
        if [users.column] not in unique:
            return f"has no unique key on {users.column} alone"
        return self.equality_obstacle(connection, users)

    def equality_obstacle(self, connection: Connection, users: UsersColumn) -> str | None:
        """Why the equality of a users column does not permit a foreign key, as a predicate; None if it does."""
        equality = None if self.follows_users else self.users_equality(connection, users)
        return equality and f"takes different ids for equal ({equality}), and counts are kept for each id"

    def column_type(self, connection: Connection, table: str, schema: str | None, column: Any) -> TypeEngine[Any]:
        """The exact type of a reflected column, where reflection alone does not return it."""
        type_: TypeEngine[Any] = column["type"]
        return type_

    # ---- clocks

    utc_now: ColumnElement[dt.datetime]
    """The server's time, UTC and naive."""
    local_now: ColumnElement[dt.datetime]
    """The server's time in the time zone of the session, naive."""
    has_lateral: ClassVar[bool] = False
    """Whether a subquery in FROM can refer to the rows before it."""
    has_bits: ClassVar[bool] = False
    """Whether there are the aggregate `bit_or`, and `width_bucket` of an array."""

    # ---- transactions

    @abstractmethod
    def begin(self, connection: Connection, settings: Settings) -> Connection:
        """Begin an explicit READ COMMITTED transaction with the timeouts of the settings."""

    @abstractmethod
    def begin_read_only(self, connection: Connection, timeout: int) -> Connection:
        """Begin a read-only transaction with one snapshot, and a timeout per statement where there is one, in seconds.

        The session keeps these settings: the caller closes the connection afterwards.
        """

    def prepare_questions(self, connection: Connection) -> None:  # noqa: B027 - optional
        """Set what makes the questions of the current transaction faster."""

    def is_conflict(self, error: exc.DBAPIError) -> bool:
        """Whether a standby ended a query, as it has to repeat what the primary did: another attempt may succeed."""
        return False

    def behind(self, connection: Connection) -> float | None:
        """The seconds that a standby is behind its primary; None where there is no standby, or no answer."""
        return None

    excludes_writers: ClassVar[bool] = False
    """Whether `begin` excludes all other writers, even if the transaction only reads."""

    def without_waiting(self, connection: Connection, statement: Executable, settings: Settings) -> Executable:
        """The statement in a form that fails at once on a locked row, like the flush."""
        return statement

    def causal(self, connection: Connection, query: Executable) -> Executable:
        """The query in a form that waits until this server has what other nodes of its cluster had committed before.

        It must be the first of its transaction.
        """
        return query

    def commit(self, connection: Connection) -> None:
        """Commit the transaction."""
        connection.commit()

    def rollback(self, connection: Connection) -> None:
        """Roll the transaction back."""
        connection.rollback()

    # ---- the write side

    @abstractmethod
    def flush(
        self,
        connection: Connection,
        tables: Tables,
        settings: Settings,
        users: ColumnElement[Any] | None = None,
        reflected: LiveTables | None = None,
    ) -> Flush:
        """The statements that add a batch to the live tables; `users` is the column that `user_id` refers to."""

    @abstractmethod
    def classify(self, error: exc.DBAPIError) -> Fault:
        """The class of an error."""

    def is_rolled_back(self, error: exc.DBAPIError) -> bool:
        """Whether an error at COMMIT proves that nothing was committed; otherwise the transaction is in doubt."""
        return isinstance(error, exc.IntegrityError)

    aborts_transaction: ClassVar[bool] = False
    """Whether a statement that fails aborts its transaction, unless it runs in a savepoint."""

    def is_aborted(self, error: exc.DBAPIError) -> bool:
        """Whether the transaction had been aborted before the statement: its COMMIT will roll it back."""
        return False

    def is_ended(self, error: exc.DBAPIError, scalar: Callable[[str], Any]) -> bool:
        """Whether the statement that failed has ended its transaction. `scalar` runs a query on its connection."""
        return False

    def is_outdated(self, error: exc.DBAPIError) -> bool:
        """Whether the error may mean that `db upgrade` has changed the tables since the flush was prepared."""
        return False

    @abstractmethod
    def is_duplicate(self, error: exc.DBAPIError) -> bool:
        """Whether the error says that a row with this key exists."""

    def temporary_tables(self, connection: Connection, tables: Tables) -> list[str]:
        """The names of the tables that a temporary table of any session hides from that session."""
        return []

    def audit_role(self, connection: Connection, tables: Tables, role: str) -> list[str]:
        """The SQL that grants a role what an app writes, but only INSERT on the audit trail.

        Raises ConfigurationError where there are no roles.
        """
        raise ConfigurationError(
            f"{connection.dialect.name} has no roles: a process that can write the file can change the audit trail"
        )

    def may_read(self, connection: Connection, table: Table) -> bool:
        """Whether the role may read a table that is there."""
        try:
            connection.execute(select(literal_column("1")).select_from(table).limit(1))
        except exc.DBAPIError as error:
            if self.classify(error) is not Fault.CONFIGURATION:
                raise
            return False
        return True

    # ---- the read side: SQL text from SQL text, times in UTC

    @abstractmethod
    def now(self) -> str:
        """The current time, constant throughout a statement."""

    @abstractmethod
    def ago(self, number: int, unit: Unit | Literal["second"]) -> str:
        """The current time minus a number of units."""

    @abstractmethod
    def instant(self, moment: dt.datetime) -> str:
        """A time (UTC, naive) as a typed literal."""

    @abstractmethod
    def start_of(self, unit: Unit, moment: str) -> str:
        """The start of the hour, day, week (Monday) or month of a time."""

    @abstractmethod
    def later(self, unit: Unit, moment: str, number: str) -> str:
        """A time plus a number of units."""

    @abstractmethod
    def day(self, moment: str) -> str:
        """The DATE of a time."""

    @abstractmethod
    def days_between(self, moment: str, later: str) -> str:
        """The number of days from the day of a time to that of a later one."""

    @abstractmethod
    def hour_of_day(self, moment: str) -> str:
        """The hour of a time, 0 to 23."""

    @abstractmethod
    def weekday(self, moment: str) -> str:
        """The weekday of a time, 1 (Monday) to 7."""

    @abstractmethod
    def real(self, number: str) -> str:
        """A number as a float."""

    @abstractmethod
    def whole(self, number: str) -> str:
        """A number as an int."""

    def once(self, moment: str) -> str:
        """A moment that a statement works out once, and not for each row."""
        return moment

    @abstractmethod
    def json_text(self, document: str, key: str, quoted: Callable[[], str]) -> str:
        """The value of a key of a JSON object, as text; NULL for null and for a missing key.

        `quoted` binds the key as a JSON string. A parameter must be bound only if the SQL contains it, because asyncpg
        asks the server for the type of each.
        """


def grants(connection: Connection, tables: Tables, role: str) -> list[str]:
    """The privileges of an app without the audit trail, for a quoted role."""
    preparer = connection.dialect.identifier_preparer
    statements = [
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {preparer.format_table(table)} TO {role}"
        for table in tables
        if table not in (tables.access, tables.trail)
    ]
    statements.append(f"GRANT SELECT, INSERT ON {preparer.format_table(tables.trail)} TO {role}")
    if tables.users is not None:
        name, _, column = tables.users.rpartition(".")
        users = ".".join(preparer.quote(part) for part in name.split("."))
        statements.append(f"GRANT SELECT ({preparer.quote(column)}) ON {users} TO {role}")
    return statements


def _is_partial(index: Any) -> bool:
    return any(
        name.endswith("_where") and value is not None for name, value in index.get("dialect_options", {}).items()
    )


def is_shorter(live: TypeEngine[Any], wanted: TypeEngine[Any]) -> bool:
    """Whether a text column holds fewer characters than its definition."""
    if not isinstance(live, String) or not isinstance(wanted, String):
        return False
    return live.length is not None and wanted.length is not None and live.length < wanted.length


def as_uuid(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """Uuid for CHAR(32), which SQLAlchemy's Uuid is where the database has no such type."""
    return Uuid() if isinstance(type_, CHAR) and type_.length == 32 else type_


def anonymous_key(user_id_type: UserIdType) -> ColumnElement[Any]:
    """The value that replaces NULL in the unique index, a literal: an index cannot contain parameters."""
    value = NIL[user_id_type]
    return literal_column(str(value) if isinstance(value, int) else f"'{value}'")


def unique_key(rows: FromClause, user_id_type: UserIdType) -> list[ColumnElement[Any]]:
    """The expressions of the unique index: user, feature, and value of a dimension and bucket where there are such,
    without NULLs."""
    parts: list[ColumnElement[Any]] = [
        func.coalesce(rows.c.user_id, anonymous_key(user_id_type)),
        func.coalesce(rows.c.feature_name, literal_column("''")),
    ]
    return [*parts, *(rows.c[name] for name in KEY_COLUMNS if name in rows.c)]
