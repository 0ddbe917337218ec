"""What a dialect is: how it makes a key unique, how it adds a batch, what its errors mean."""

from __future__ import annotations

import contextlib
import datetime as dt
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
)
from sqlalchemy.schema import CreateColumn
from sqlalchemy.types import CHAR, TypeEngine, Uuid

from usage_instrument.errors import ConfigurationError, UsageInstrumentError
from usage_instrument.events import MAX_COUNT, NIL
from usage_instrument.typing import Unit, UserIdType

from ..driver_errors import Fault

if TYPE_CHECKING:
    from usage_instrument.events import Batch, Count
    from usage_instrument.settings import Settings

    from ..ledger import Ledger
    from ..tables import Tables

LIMIT: ColumnElement[Any] = literal_column(str(MAX_COUNT))
"""Where `usage_count` saturates, spelled out: a parameter inside SET fails once a driver has prepared the statement."""


class OvertakenError(UsageInstrumentError):
    """Another writer inserted a row of the batch meanwhile; nothing is committed, and the batch is sent again."""


@dataclass(frozen=True)
class Target:
    """A column of a users table."""

    schema: str | None
    table: str
    column: str

    def __str__(self) -> str:
        return ".".join(part for part in (self.schema, self.table, self.column) if part)


@dataclass(frozen=True)
class ColumnChange:
    """A column of a live table that does not take all that the flush writes."""

    what: str
    """What it is, and what it should be."""
    make: Callable[[Connection], object]
    """Makes it so."""


WRITTEN_AS_NULL = frozenset({"user_id", "actor_id", "request_id", "metadata", "description", "source"})
"""The columns that need to allow NULL: the others that may hold one are always given a value."""


class Flush(ABC):
    """The statements of one dialect for one set of tables, built once and then only executed."""

    @abstractmethod
    def apply(self, connection: Connection, ledger: Ledger, batch: Batch) -> bool:
        """Move the ledger to the batch and add its counts, in the transaction that the caller has begun; False, with
        nothing added, if the ledger did not move."""

    @abstractmethod
    def add_history(self, connection: Connection, counts: Sequence[Count]) -> None:
        """Add the counts' buckets to the history alone, in the transaction that the caller has begun."""


class Dialect(ABC):
    """One database. A new one is a file with a subclass, and a line in this package's registry."""

    # ---- DDL

    def constrain(self, table: Table, name: str, user_id_type: UserIdType) -> None:  # noqa: B027 - not all need to
        """Have a table hold one row a user and feature (and bucket), NULLs included, when it is created here."""

    @abstractmethod
    def has_unique(self, connection: Connection, table: Table, name: str) -> bool:
        """Whether the live table has the index that `constrain` makes."""

    @abstractmethod
    def add_unique(self, connection: Connection, table: Table, name: str, user_id_type: UserIdType) -> None:
        """Give a live table, free of duplicates, that index."""

    hidden_columns: frozenset[str] = frozenset()
    """Columns that the unique index needs and the tables' definitions do not name."""

    def key(self, rows: FromClause, user_id_type: UserIdType) -> list[ColumnElement[Any]]:
        """What the unique index compares, as expressions on a table that may not have it."""
        return key(rows, user_id_type)

    def unique_statements(
        self, connection: Connection, table: Table, name: str, user_id_type: UserIdType
    ) -> tuple[str, str] | None:
        """The SQL that makes the unique index and the SQL that drops it; None where an Index says it all."""
        return None

    def column_changes(self, connection: Connection, table: Table) -> list[ColumnChange]:
        """The columns of a live table that the flush cannot write to, and the way to mend them."""
        changes = []
        for live in inspect(connection).get_columns(table.name, schema=table.schema):
            column = table.c.get(live["name"])
            wrong = [] if column is None else self.differences(connection, table, column, live)
            if column is not None and wrong:
                make = partial(self.change_column, table=table, column=column, live=live)
                changes.append(ColumnChange(f"{table.fullname}.{column.name} {' and '.join(wrong)}", make))
        return changes

    def differences(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> list[str]:
        """In which ways a reflected column takes less than its definition does."""
        wrong = []
        if column.name in WRITTEN_AS_NULL and not live["nullable"]:
            wrong.append("is NOT NULL and must allow NULL")
        if column is table.autoincrement_column and not self.is_numbered(connection, table, live):
            wrong.append("gets no number by itself and must")
        return wrong

    def is_numbered(self, connection: Connection, table: Table, live: Any) -> bool:
        """Whether a reflected column gets a number where an INSERT gives none."""
        return bool(live["default"] or live.get("identity") or live.get("autoincrement") is True)

    @abstractmethod
    def change_column(self, connection: Connection, table: Table, column: Column[Any], live: Any) -> None:
        """Have a live column take what its definition takes; all else of it stays as it is."""

    def add_column(self, connection: Connection, table: Table, column: Column[Any]) -> None:
        """Give a live table a column that it lacks."""
        name = connection.dialect.identifier_preparer.format_table(table)
        definition = CreateColumn(column).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {definition}")

    def refer(self, connection: Connection, table: Table, target: Target, wrong: Sequence[str]) -> None:
        """Have `user_id` of a live table refer to its target and go with it, instead of the wrong foreign keys."""
        preparer = connection.dialect.identifier_preparer
        name = preparer.format_table(table)
        for key in wrong:
            connection.exec_driver_sql(f"ALTER TABLE {name} DROP CONSTRAINT {preparer.quote(key)}")
        schema = f"{preparer.quote_schema(target.schema)}." if target.schema else ""
        users = f"{schema}{preparer.quote(target.table)} ({preparer.quote(target.column)})"
        connection.exec_driver_sql(f"ALTER TABLE {name} ADD FOREIGN KEY (user_id) REFERENCES {users} ON DELETE CASCADE")

    views_hold_columns: ClassVar[bool] = True
    """Whether the columns of a table cannot be changed while a view shows them."""

    @contextlib.contextmanager
    def schema_change(self, connection: Connection, tables: Sequence[Table]) -> Iterator[Connection]:
        """A transaction that changes tables, as far as DDL is transactional, with other writers kept out."""
        with connection.begin():
            yield connection

    # ---- the users table

    def users_schemas(self, schema: str | None, default: str | None) -> tuple[str | None, ...]:
        """Where a table in `schema` may refer to users, the nearest first; `default` is the connection's own schema."""
        return tuple(dict.fromkeys((schema, None)))

    def column_type(self, connection: Connection, table: str, schema: str | None, column: Any) -> TypeEngine[Any]:
        """The type of a reflected column, where reflection alone does not say it."""
        type_: TypeEngine[Any] = column["type"]
        return type_

    # ---- clocks

    utc_now: ColumnElement[dt.datetime]
    """The server's time, in UTC and naive."""
    local_now: ColumnElement[dt.datetime]
    """The server's time in the session's time zone, naive."""

    # ---- transactions

    @abstractmethod
    def begin(self, connection: Connection, settings: Settings) -> Connection:
        """Begin an explicit READ COMMITTED transaction whose statements give way after the settings' timeouts."""

    @abstractmethod
    def begin_reading(self, connection: Connection, timeout: int) -> Connection:
        """Begin a transaction that cannot write, in which all statements see the same state of the database, and each
        may take so many seconds where the database can tell. What this leaves in the session, nobody else may meet:
        the connection is closed afterwards."""

    excludes_writers: ClassVar[bool] = False
    """Whether `begin` keeps all other writers out, also where the transaction only reads."""

    def at_once(self, connection: Connection, statement: Executable, settings: Settings) -> Executable:
        """The statement, in a form that gives way to the host's locks as the flush does."""
        return statement

    def commit(self, connection: Connection) -> None:
        """Commit it."""
        connection.commit()

    def rollback(self, connection: Connection) -> None:
        """Roll it back."""
        connection.rollback()

    # ---- the write side

    @abstractmethod
    def flush(
        self, connection: Connection, tables: Tables, settings: Settings, users: ColumnElement[Any] | None = None
    ) -> Flush:
        """The statements that add a batch to these tables, after a look at the live ones; `users` is the column that
        `user_id` refers to, if it does."""

    @abstractmethod
    def classify(self, error: exc.DBAPIError) -> Fault:
        """What an error means."""

    def rolled_back(self, error: exc.DBAPIError) -> bool:
        """Whether an error at COMMIT says that nothing was committed."""
        return isinstance(error, exc.IntegrityError)

    @abstractmethod
    def is_duplicate(self, error: exc.DBAPIError) -> bool:
        """Whether it says that a row with this key is committed already, and nothing else."""

    def audit_role(self, connection: Connection, tables: Tables, role: str) -> list[str]:
        """The SQL that lets a role, which there is, write what an app writes, and of the audit trail only new rows.
        Raises ConfigurationError where there are no roles."""
        raise ConfigurationError(f"{connection.dialect.name} has no roles: whoever may write the file may change it")

    # ---- the read side: SQL text from SQL text, times in UTC

    @abstractmethod
    def now(self) -> str:
        """Now, the same throughout a statement."""

    @abstractmethod
    def ago(self, number: int, unit: Unit | Literal["second"]) -> str:
        """The moment that many units before now."""

    @abstractmethod
    def instant(self, moment: dt.datetime) -> str:
        """A moment (UTC, naive) as a literal that is a time wherever it stands."""

    @abstractmethod
    def start_of(self, unit: Unit, moment: str) -> str:
        """The start of the hour, day, week (Monday) or month that a moment lies in."""

    @abstractmethod
    def later(self, unit: Unit, moment: str, number: str) -> str:
        """The moment, a number of units later."""

    @abstractmethod
    def day(self, moment: str) -> str:
        """The DATE of a moment."""

    @abstractmethod
    def real(self, number: str) -> str:
        """A number as a float."""

    @abstractmethod
    def json_text(self, document: str, key: str, quoted: Callable[[], str]) -> str:
        """What a JSON object holds under a key, as text; NULL where that is null, or where there is no such key.

        `quoted` binds the key as the writer spells it in JSON. Only what is written may be bound, as asyncpg asks the
        server for the type of every parameter.
        """


def is_shorter(live: TypeEngine[Any], wanted: TypeEngine[Any]) -> bool:
    """Whether a text column holds fewer characters than it should."""
    if not isinstance(live, String) or not isinstance(wanted, String):
        return False
    return live.length is not None and wanted.length is not None and live.length < wanted.length


def as_uuid(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """What SQLAlchemy's Uuid makes where there is no such type, as a Uuid again."""
    return Uuid() if isinstance(type_, CHAR) and type_.length == 32 else type_


def nil(user_id_type: UserIdType) -> ColumnElement[Any]:
    """What stands in for NULL in the key: a literal, because an index holds no parameter."""
    value = NIL[user_id_type]
    return literal_column(str(value) if isinstance(value, int) else f"'{value}'")


def key(rows: FromClause, user_id_type: UserIdType) -> list[ColumnElement[Any]]:
    """What is unique: the user and the feature, without NULLs, and the bucket where there is one."""
    parts: list[ColumnElement[Any]] = [
        func.coalesce(rows.c.user_id, nil(user_id_type)),
        func.coalesce(rows.c.feature_name, literal_column("''")),
    ]
    return [*parts, rows.c.bucket_start] if "bucket_start" in rows.c else parts
