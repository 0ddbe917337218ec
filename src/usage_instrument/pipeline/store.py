"""One batch, one transaction: the border to the database, where driver errors become faults that the writer knows."""

from __future__ import annotations

import contextlib
import enum
import random
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy import ColumnClause, ColumnElement, Connection, column, exc, insert, select, table

from usage_instrument.audit.chain import Chain
from usage_instrument.database import dialects, inspection
from usage_instrument.database.driver_errors import describe
from usage_instrument.database.ledger import Ledger, utcnow
from usage_instrument.database.suppressions import Suppressions
from usage_instrument.database.upsert import upsert
from usage_instrument.database.users_table import live_users_column
from usage_instrument.errors import ConfigurationError, SchemaError, UsageInstrumentError
from usage_instrument.events import Batch, Loss
from usage_instrument.typing import Unset, UserId, _Unset

from .retention import Retention

if TYPE_CHECKING:
    from usage_instrument.capture.registry import Feature
    from usage_instrument.database.dialects.base import Flush
    from usage_instrument.database.engines import Connector
    from usage_instrument.database.tables import Tables
    from usage_instrument.settings import Settings

T = TypeVar("T")
Fault = dialects.Fault
_PAUSE = 0.25  # seconds between two attempts, at most


class Outcome(enum.Enum):
    """What became of a batch that no error stopped."""

    APPLIED = "applied"
    """It is in the tables, by this attempt or an earlier one."""
    OUTDATED = "outdated"
    """Nothing was done: somebody has been suppressed meanwhile, or this process did not know who is."""
    GONE = "gone"
    """The writer's row is missing, so nothing was done."""


class WriteError(UsageInstrumentError):
    """An attempt failed."""

    def __init__(self, fault: Fault, message: str, *, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.fault = fault
        self.in_doubt = in_doubt
        """Whether the transaction may have been committed all the same."""


class Store:
    """The tables as the writer sees them, through a connection of its own."""

    def __init__(self, connector: Connector, tables: Tables, settings: Settings) -> None:
        self._connector = connector
        self._tables = tables
        self._settings = settings
        self._dialect = dialects.get(connector.dialect_name)
        self._flush: Flush | None = None
        self._users: ColumnElement[Any] | None = None
        self._chain = Chain(settings.audit_key)
        self.suppressions = Suppressions(tables, settings.privacy_key)
        """Who is suppressed, as far as was looked."""
        self.audit_problem: str | None = None
        """Why the audit trail cannot be written, if it cannot; open() ran."""

    def __str__(self) -> str:
        return str(self._connector)

    def open(self) -> None:
        """Compare the live tables with the ones this release writes, once. Raises WriteError."""
        if self._flush is not None:
            return

        def look(connection: Connection) -> None:
            fatal = [problem for problem in inspection.check(connection, self._tables) if problem.blocks_writing]
            if fatal:
                more = f" (and {len(fatal) - 1} more problems)" if len(fatal) > 1 else ""
                raise SchemaError(f"{fatal[0].message}{more}")
            users = live_users_column(connection, self._tables.usage)
            if users is not None:
                id_: ColumnClause[Any] = column(users.column, self._tables.usage.c.user_id.type)
                self._users = table(users.table, id_, schema=users.schema).c[users.column]
            self._flush = self._dialect.flush(connection, self._tables, self._settings, self._users)
            self.audit_problem = inspection.audit_problem(connection, self._tables)

        self.transact(look)

    def look_again(self) -> None:
        """Whether what was in the way of the audit trail is there no more. Raises WriteError."""

        def look(connection: Connection) -> None:
            self.audit_problem = inspection.audit_problem(connection, self._tables)

        self.transact(look)

    def register(self, ledger: Ledger) -> None:
        """Give the writer its row, in a transaction of its own. Raises WriteError."""
        self.transact(ledger.register)
        ledger.registered = True

    def write(self, ledger: Ledger, batch: Batch) -> Outcome:
        """Apply a batch unless it is applied already. Raises WriteError; a definite one left no trace."""
        flush = cast("Flush", self._flush)  # open() ran
        rows = self._chain.rows(batch.accesses, self._settings.service)
        moved = False

        def apply(connection: Connection) -> Outcome:
            nonlocal moved
            if ledger.suppression is None:
                self._read_suppressions(connection, ledger)
            if self.suppressions and batch.meets(self.suppressions.suppresses, self.suppressions.erases):
                return Outcome.OUTDATED  # if it is applied already, so is what takes its number
            moved = flush.apply(connection, ledger, batch)
            if moved:
                for loss in batch.losses:
                    self._book(connection, loss)
                if rows:
                    connection.execute(insert(self._tables.access), rows)
                return Outcome.APPLIED
            position = ledger.position(connection)
            if isinstance(position, _Unset):
                return Outcome.GONE
            if position >= batch.number:
                return Outcome.APPLIED
            self._read_suppressions(connection, ledger)
            return Outcome.OUTDATED

        outcome = self.transact(apply)
        if moved:
            self._chain.appended(rows)
        elif rows:  # by an earlier attempt, of whose rows nobody knows whose chain they continue
            self._chain = Chain(self._settings.audit_key)
        return outcome

    def is_outdated(self, ledger: Ledger) -> bool:
        """Look whether somebody has been suppressed, and who. Raises WriteError."""

        def look(connection: Connection) -> bool:
            asked = ledger.live_suppression(connection)
            return asked not in (None, ledger.suppression) and self._read_suppressions(connection, ledger)

        return self.transact(look)

    def _read_suppressions(self, connection: Connection, ledger: Ledger) -> bool:
        # In this order: what is committed in between is read twice, and missed in no case.
        asked = ledger.live_suppression(connection)
        changed = self.suppressions.read(connection)
        ledger.suppression = asked
        return changed

    def unknown_users(self, users: Collection[UserId]) -> set[UserId]:
        """Those of the users that the users table does not hold. Raises WriteError."""
        id_ = self._users
        if id_ is None:
            return set()
        asked: list[UserId] = [user for user in users if user is not None]

        def look(connection: Connection) -> set[UserId]:
            found: set[UserId] = set()
            for start in range(0, len(asked), 500):
                found.update(connection.scalars(select(id_).where(id_.in_(asked[start : start + 500]))))
            return set(asked) - found

        return self.transact(look)

    def has_user(self, user: UserId) -> bool:
        """Whether the users table, if there is one, holds this user. Raises WriteError."""
        return self._users is not None and not self.unknown_users([user])

    def position(self, ledger: Ledger) -> int | Unset:
        """The last batch of a writer that is in the tables; UNSET when its row is gone. Raises WriteError."""
        return self.transact(ledger.position)

    def beat(self, ledger: Ledger) -> None:
        """Move the heartbeat. Raises WriteError."""
        self.transact(ledger.beat)

    def retire(self, ledger: Ledger) -> None:
        """Delete the writer's row. Raises WriteError."""
        self.transact(ledger.retire)
        ledger.registered = False

    def declare(self, features: Collection[Feature], service: str) -> None:
        """Bring the catalogue up to date, in a transaction of its own. Raises WriteError."""
        self.transact(lambda connection: self._declare(connection, features, service))

    @property
    def retention(self) -> Retention:
        """What prunes the tables; open() ran. Its methods raise WriteError."""
        return Retention(self._tables, self._settings, cast("Flush", self._flush), self.transact, self._look)

    def dispose(self) -> None:
        """Close the connections; errors on the way are of no consequence."""
        with contextlib.suppress(Exception):
            self._connector.dispose()

    def _declare(self, connection: Connection, features: Collection[Feature], service: str) -> None:
        now = utcnow()
        for feature in sorted(features, key=lambda feature: feature.name):
            key = {"service": service, "feature_name": feature.name}
            said = {"description": feature.description, "source": feature.source, "last_declared_at": now}
            upsert(connection, self._tables.catalog, key, said, {**said, "declared_at": now})

    def _book(self, connection: Connection, loss: Loss) -> None:
        losses = self._tables.losses
        key = {"day": loss.day, "service": self._settings.service, "reason": loss.reason}
        upsert(connection, losses, key, {"uses": losses.c.uses + loss.uses}, {"uses": loss.uses})

    def _run(self, work: Callable[[Connection], T]) -> T:
        with _faults(self._dialect):
            return self._connector.run(work)

    def _look(self, work: Callable[[Connection], T]) -> T:
        return self._run(work) if self._dialect.excludes_writers else self.transact(work)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, in one transaction. Raises WriteError."""

        def transaction(connection: Connection) -> T:
            connection = self._dialect.begin(connection, self._settings)
            try:
                result = work(connection)
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    self._dialect.rollback(connection)
                raise
            with _faults(self._dialect, committing=True):
                self._dialect.commit(connection)
            return result

        return self._run(transaction)


def persistently(attempt: Callable[[], T], seconds: float) -> T:
    """What an attempt returns, made again for so many seconds while a lock or the network is in the way. Raises
    WriteError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except WriteError as error:
            if not error.fault.is_transient or time.monotonic() >= deadline:
                raise
            time.sleep(random.random() * _PAUSE)


@contextlib.contextmanager
def _faults(dialect: dialects.Dialect, *, committing: bool = False) -> Iterator[None]:
    """Raises WriteError for whatever the driver, SQLAlchemy or the network raises."""
    try:
        yield
    except WriteError:
        raise
    except (ConfigurationError, SchemaError) as error:
        raise WriteError(Fault.CONFIGURATION, str(error)) from error
    except exc.DBAPIError as error:
        fault = dialect.classify(error)
        # At COMMIT, only an error by which the server says that it rolled back is definite.
        in_doubt = committing and fault is not Fault.UNKNOWN_USER and not dialect.is_rolled_back(error)
        raise WriteError(fault, describe(error), in_doubt=in_doubt) from error
    except (exc.StatementError, OverflowError) as error:
        raise WriteError(Fault.REFUSED, describe(error), in_doubt=committing) from error
    except Exception as error:  # OSError from an async driver, a timeout of the pool, a bug
        raise WriteError(Fault.TRANSIENT, describe(error), in_doubt=committing) from error
