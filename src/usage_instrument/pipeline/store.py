"""One batch, one transaction: driver errors become faults that the writer can handle."""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from logging import WARNING
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from uuid import UUID

from sqlalchemy import ColumnClause, ColumnElement, Connection, Table, column, exc, select, table

from usage_instrument.audit.chain import Chain
from usage_instrument.audit.insert import AccessInsert
from usage_instrument.audit.trail import ensure
from usage_instrument.database import dialects, inspection, outbox
from usage_instrument.database.dimensions import DimensionValues, dimension_rows
from usage_instrument.database.driver_errors import Fault, describe
from usage_instrument.database.exposures import exposure_rows
from usage_instrument.database.ledger import Ledger, utcnow
from usage_instrument.database.live_tables import LiveTables
from usage_instrument.database.reflection import is_readable
from usage_instrument.database.spellings import Spellings
from usage_instrument.database.suppressions import Suppressions
from usage_instrument.database.upsert import upsert
from usage_instrument.database.users_column import live_users_column
from usage_instrument.errors import AuditError, ConfigurationError, SchemaError, UsageInstrumentError
from usage_instrument.events import Batch, Loss
from usage_instrument.runtime import log
from usage_instrument.typing import UNSET, Unset, UserId, _Unset

from . import losses
from .respelling import respelled
from .retention import Retention

if TYPE_CHECKING:
    from usage_instrument.capture.registry import Feature
    from usage_instrument.database.dialects.base import Flush
    from usage_instrument.database.engines import Connector
    from usage_instrument.database.tables import Tables
    from usage_instrument.settings import Settings

    from .known_users import KnownUsers

T = TypeVar("T")
_USERS_A_QUERY = 500
_REFUSAL = 60.0
"""Seconds until rights to the table of exposures, or of dimensions, are looked for again."""
_LONGEST_RETRY = 86400.0 * 365
"""Seconds: the most that a row of the outbox waits for its user."""


class Outcome(enum.Enum):
    """The outcome of an attempt without an error."""

    APPLIED = "applied"
    """The batch is in the tables, by this attempt or an earlier one."""
    OUTDATED = "outdated"
    """Nothing was done: users were suppressed since, or this process has not read the suppressions yet."""
    BEHIND = "behind"
    """Nothing was done: acknowledged batches are missing. The ledger has the last number that is not."""
    GONE = "gone"
    """Nothing was done: the writer's row is missing."""


class WriteError(UsageInstrumentError):
    """An attempt failed."""

    def __init__(self, fault: Fault, message: str, *, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.fault = fault
        self.in_doubt = in_doubt
        """Whether the transaction may have been committed nevertheless."""


class Moved(NamedTuple):
    """What one transaction took out of the outbox, in uses."""

    written: int = 0
    rejected: int = 0
    waiting: int = 0
    """Uses that are left."""
    has_more: bool = False
    """Whether to go on at once."""
    last: outbox.OutboxRow | None = None
    """The row to go on behind, if rows before it wait for their users."""
    is_outdated: bool = False
    """Whether nothing was done, as users were suppressed since or the writer's row is gone."""


class _SuppressedMeanwhile(Exception):  # noqa: N818 - leaves a transaction, and no error
    """Users were suppressed since the suppressions were read, or the writer's row is gone."""


class Store:
    """The tables as the writer sees them, through a connection of its own."""

    def __init__(self, connector: Connector, tables: Tables, settings: Settings) -> None:
        self._connector = connector
        self._tables = tables
        self._settings = settings
        self._dialect = dialects.get(connector.dialect_name)
        self._flush: Flush | None = None
        self._users: ColumnElement[Any] | None = None
        self._chain: Chain | None = None
        self._trail: UUID | None = None
        self._access_insert: AccessInsert | None = None
        self._has_outbox = False
        self._refused_until: dict[str, float] = {}
        self._values = DimensionValues(tables, settings.dimension_values)
        self.suppressions = Suppressions(tables, settings.privacy_key)
        """The suppressed users, as last read."""
        self.audit_problem: str | None = None
        """Why the audit trail takes no rows, if so; known after open()."""
        self.exposure_problem: str | None = None
        """Why exposures cannot be written, if so; known after open()."""
        self.dimension_problem: str | None = None
        """Why dimensions and numbers cannot be written, if so; known after open()."""

    def __str__(self) -> str:
        return str(self._connector)

    def open(self) -> None:
        """Check once that the live tables are those of this release. Raises WriteError."""
        if self._flush is not None:
            return

        def check(connection: Connection) -> None:
            live = LiveTables(connection, self._tables)
            fatal = inspection.check(connection, self._tables, live, only_blocking=True)
            if fatal:
                problems = inspection.check(connection, self._tables, live)
                fatal = [problem for problem in problems if problem.blocks_writing] or fatal
                more = f" (further problems: {len(fatal) - 1})" if len(fatal) > 1 else ""
                raise SchemaError(f"{fatal[0].message}{more}")
            users = live_users_column(connection, self._tables.usage, live)
            if users is not None:
                id_: ColumnClause[Any] = column(users.column, self._tables.usage.c.user_id.type)
                self._users = table(users.table, id_, schema=users.schema).c[users.column]
            self._flush = self._dialect.flush(connection, self._tables, self._settings, self._users, live)
            self.audit_problem = inspection.audit_problem(connection, self._tables, live)
            self.exposure_problem = inspection.exposure_problem(connection, self._tables, live)
            self.dimension_problem = inspection.dimension_problem(connection, self._tables, live)
            self._has_outbox = self._sees_outbox(connection, live)

        self.transact(check)

    def check_audit(self) -> None:
        """Check again whether the audit trail takes rows. Raises WriteError."""
        self.audit_problem = self.transact(lambda connection: inspection.audit_problem(connection, self._tables))

    def check_exposures(self) -> None:
        """Check again whether exposures can be written, unless the role had no right a moment ago. Raises
        WriteError."""
        if self._may_check(self._tables.exposures):
            self.exposure_problem = self.transact(lambda on: inspection.exposure_problem(on, self._tables))

    def check_dimensions(self) -> None:
        """As check_exposures, of dimensions."""
        if self._may_check(self._tables.dimensions):
            self.dimension_problem = self.transact(lambda on: inspection.dimension_problem(on, self._tables))

    def _may_check(self, table: Table) -> bool:
        return time.monotonic() >= self._refused_until.get(table.name, 0.0)

    def refuses(self, error: WriteError) -> bool:
        """Whether a batch failed as the role has no right to the table of exposures or dimensions: then they have a
        problem."""
        tables, text = self._tables, str(error)
        if error.fault is not Fault.CONFIGURATION:
            return False
        if tables.exposures.name in text:
            refused, self.exposure_problem = tables.exposures, text
        elif tables.dimensions.name in text:
            refused, self.dimension_problem = tables.dimensions, text
        else:
            return False
        self._refused_until[refused.name] = time.monotonic() + _REFUSAL
        return True

    def _sees_outbox(self, connection: Connection, live: LiveTables | None = None) -> bool:
        """Whether the outbox is there, with all its columns."""
        table = self._tables.outbox
        live = live or LiveTables(connection, [table])
        if not is_readable(connection, table, live):
            return False
        there = {column["name"] for column in live.get_columns(table.name, schema=table.schema)}
        return there >= set(table.c.keys())

    def check_outbox(self) -> None:
        """Look again for the outbox. Raises WriteError."""
        self._has_outbox = self.transact(self._sees_outbox)

    @property
    def tables_of_users(self) -> tuple[Table, ...]:
        """The live tables with the rows of users; open() ran."""
        tables = self._tables
        problems = {tables.exposures: self.exposure_problem, tables.dimensions: self.dimension_problem}
        return tuple(table for table in tables.of_users if problems.get(table) is None)

    # ---- the writer's row

    def new_ledger(self, writer_id: UUID | None = None) -> Ledger:
        """A writer's row, not yet registered; without an id, of a new writer."""
        return Ledger(self._tables, self._settings.service, writer_id)

    def register(self, ledger: Ledger) -> None:
        """Insert the writer's row; open() ran. Raises WriteError."""

        def work(connection: Connection) -> None:
            self.statements.make_queue(connection)
            ledger.register(connection)

        self.transact(work)
        ledger.registered = True

    def position(self, ledger: Ledger) -> int | Unset:
        """The last batch of a writer that is in the tables, on any node of a cluster; UNSET if its row is gone. Raises
        WriteError."""
        return self.transact(partial(ledger.position, causal=self._dialect.causal))

    def beat(self, ledger: Ledger) -> int | Unset:
        """Update the heartbeat; return the position. Raises WriteError."""

        def work(connection: Connection) -> int | Unset:
            ledger.beat(connection)
            return ledger.position(connection)

        found = self.transact(work)
        is_complete = not isinstance(found, _Unset) and found >= ledger.number
        return found if is_complete else self.position(ledger)

    def retire(self, ledger: Ledger) -> None:
        """Delete the writer's row. Raises WriteError."""
        self.transact(ledger.retire)
        ledger.registered = False

    # ---- batches

    def write(self, ledger: Ledger, batch: Batch) -> Outcome:
        """Apply a batch unless it is applied already. Raises WriteError; unless in doubt, nothing was applied then."""
        try:
            return self._write(ledger, batch)
        except WriteError as error:
            cause = error.__cause__
            if error.in_doubt or not isinstance(cause, exc.DBAPIError) or not self._dialect.is_outdated(cause):
                raise
        # `db upgrade` ran since, or a row is to blame: then it is refused again.
        self._flush = None
        self.suppressions.spellings = Spellings(self._tables)
        self.open()
        return self._write(ledger, batch)

    def _write(self, ledger: Ledger, batch: Batch) -> Outcome:
        flush = self.statements
        chain = self._chain
        if batch.accesses and chain is None:
            chain = self._chain = self.new_chain()
        moved, found = False, ledger.number
        rows: list[dict[str, Any]] = []

        def apply(connection: Connection) -> Outcome:
            nonlocal moved, found, rows
            if ledger.suppression is None:
                self._read_suppressions(connection, ledger)
            sent = self._sent(connection, ledger, batch)
            if sent is None:
                return Outcome.OUTDATED  # if it is applied already, so is the batch that takes its number
            try:
                rows = chain.rows(sent.accesses, self._settings.service) if chain is not None else []
            except Exception as error:
                raise WriteError(Fault.REFUSED, describe(error)) from error
            moved = flush.apply(connection, ledger, sent.without_exposures())
            if moved:
                self._add_rest(connection, flush, sent)
                self._add_accesses(connection, rows)
                return Outcome.APPLIED
            position = ledger.position(connection)
            if isinstance(position, _Unset):
                return Outcome.GONE
            found = position
            if found == ledger.number < batch.number:
                self._read_suppressions(connection, ledger)
                self._respelled(connection, batch)  # the batch is compared with the suppressions next
                return Outcome.OUTDATED
            return Outcome.APPLIED if found >= batch.number else Outcome.BEHIND

        outcome = self.transact(apply)
        if outcome in (Outcome.GONE, Outcome.BEHIND):
            self._check_lag(ledger, UNSET if outcome is Outcome.GONE else found)
        ledger.number = found
        if moved and chain is not None:
            chain.appended(rows)
        elif rows:  # an earlier attempt applied them, in an unknown chain
            self._chain = None
        return outcome

    def _check_lag(self, ledger: Ledger, found: int | Unset) -> None:
        """Raises WriteError if a node of a cluster did not have yet what another one had acknowledged."""
        if self.position(ledger) != found:
            raise WriteError(Fault.TRANSIENT, "this node of the cluster lagged behind another one")

    def new_chain(self) -> Chain:
        """A chain of this trail."""
        if self._trail is None:
            self._trail = ensure(self.transact, self._tables)
        return Chain(self._settings.audit_key, self._trail)

    def _sent(self, connection: Connection, ledger: Ledger, batch: Batch) -> Batch | None:
        """The batch as it is sent; None if it names a suppressed user."""
        sent = self._respelled(connection, batch)
        if not self._meets(sent):
            return sent
        self._read_suppressions(connection, ledger)  # they may have opted in since
        sent = self._respelled(connection, batch)
        return None if self._meets(sent) else sent

    def _meets(self, batch: Batch) -> bool:
        suppressions = self.suppressions
        return bool(suppressions) and batch.meets(suppressions.suppresses, suppressions.pseudonymises)

    def _respelled(self, connection: Connection, batch: Batch) -> Batch:
        spellings = self.suppressions.spellings
        if not spellings.may_differ:
            return batch
        spellings.look_up(connection, batch.users)
        return respelled(batch, spellings.of, self._settings.metadata_max_bytes)

    def spellings_of(self, users: Collection[UserId]) -> list[UserId]:
        """The users as the users table spells them. Raises WriteError."""
        spellings = self.suppressions.spellings
        if spellings.lacks(users):
            self.transact(lambda connection: spellings.look_up(connection, users))
        return [spellings.of(user) for user in users]

    def _add_accesses(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            if self._access_insert is None:
                self._access_insert = AccessInsert(connection, self._tables)
            self._access_insert.run_in_transaction(connection, rows)

    def _add_rest(self, connection: Connection, flush: Flush, batch: Batch) -> None:
        exposed = exposure_rows(batch.exposures)
        if exposed:
            flush.add_exposures(connection, exposed)
        self._add_dimensions(connection, flush, batch)
        for loss in batch.losses:
            self._add_loss(connection, loss)

    def _add_dimensions(self, connection: Connection, flush: Flush, batch: Batch) -> None:
        if batch.has_slices and self.dimension_problem is None:  # a batch in doubt may have had them before
            rows = self._values.limited(connection, dimension_rows(batch.counts))
            flush.add_dimensions(connection, rows)

    def _add_loss(self, connection: Connection, loss: Loss) -> None:
        losses = self._tables.losses
        key = {"day": loss.day, "service": self._settings.service, "reason": loss.reason}
        upsert(connection, losses, key, {"uses": losses.c.uses + loss.uses}, {"uses": loss.uses})

    def is_outdated(self, ledger: Ledger) -> bool:
        """Whether users were suppressed since the last look; reads them. Raises WriteError."""

        def look(connection: Connection) -> bool:
            asked = ledger.live_suppression(connection)
            return asked not in (None, ledger.suppression) and self._read_suppressions(connection, ledger)

        return self.transact(look)

    def _read_suppressions(self, connection: Connection, ledger: Ledger) -> bool:
        # In this order: a change in between is read twice rather than missed.
        asked = ledger.live_suppression(connection)
        changed = self.suppressions.read(connection)
        ledger.suppression = asked
        return changed

    def unknown_users(self, users: Collection[UserId]) -> set[UserId]:
        """The users that are not in the users table. Raises WriteError."""
        return set() if self._users is None else self.transact(partial(self._unknown_of, users=users))

    def _unknown_of(self, connection: Connection, users: Collection[UserId]) -> set[UserId]:
        """As unknown_users, in the caller's transaction."""
        id_ = self._users
        if id_ is None:
            return set()
        asked: list[UserId] = [user for user in users if user is not None]
        spellings = self.suppressions.spellings
        if spellings.may_differ:
            spellings.clear()
            spellings.look_up(connection, asked)
        if spellings.may_differ:
            return {user for user in asked if not spellings.has_found(user)}
        found: set[UserId] = set()
        for start in range(0, len(asked), _USERS_A_QUERY):
            some = asked[start : start + _USERS_A_QUERY]
            found.update(connection.scalars(select(id_).where(id_.in_(some))))
        return set(asked) - found

    @property
    def has_users(self) -> bool:
        """Whether a foreign key asks for each user."""
        return self._users is not None

    def has_user(self, user: UserId) -> bool:
        """Whether there is a users table that holds this user. Raises WriteError."""
        return self._users is not None and not self.unknown_users([user])

    # ---- the outbox

    @property
    def has_outbox(self) -> bool:
        """Whether the database has the table of the outbox; known after open()."""
        return self._has_outbox

    def move_outbox(
        self,
        ledger: Ledger,
        limit: int,
        known_users: KnownUsers,
        behind: outbox.OutboxRow | None = None,
        *,
        rejects: bool = False,
    ) -> Moved:
        """Count the oldest rows of the outbox `behind` one, or reject them, and delete them, in one transaction. Raises
        WriteError.

        Exactly once by the rows themselves: however the transaction ends, they are counted if they are gone. So
        it is no batch of the writer, and moves a row of the ledger that lives in this transaction alone.
        """
        settings, tables, flush = self._settings, self._tables, cast("Flush", self._flush)

        def move(connection: Connection) -> Moved:
            flush.queue(connection)  # before any row, as every writer
            rows = outbox.oldest(connection, tables, limit, behind)
            if not rows:
                return Moved(waiting=outbox.waiting(connection, tables))
            if ledger.suppression is None:
                self._read_suppressions(connection, ledger)
            # Locked: another process that suppresses a user waits for this transaction, or is seen here.
            if ledger.live_suppression(connection, lock=True) != ledger.suppression:
                self._read_suppressions(connection, ledger)
                raise _SuppressedMeanwhile
            users = {row.user_id for row in rows}
            if self.suppressions.spellings.may_differ:
                self.suppressions.spellings.look_up(connection, users)
            unknown = self._unknown_of(connection, users)
            young = utcnow() - dt.timedelta(seconds=min(settings.user_retry, _LONGEST_RETRY))
            suppressed = [row for row in rows if self._suppresses(row.user_id)]
            unknown -= {row.user_id for row in suppressed}
            deleted = known_users.among(unknown)
            unknown -= deleted
            late = [row for row in rows if row.user_id in unknown and row.used_at < young]
            early = {row.outbox_id for row in rows if row.user_id in unknown and row.used_at >= young}
            refused = [
                row for row in rows if rejects and row.user_id not in unknown and not self._suppresses(row.user_id)
            ]
            left_out = {row.outbox_id for row in (*late, *suppressed, *refused)} | early
            counted = [
                row._replace(user_id=None) if row.user_id in deleted else row
                for row in rows
                if row.outbox_id not in left_out
            ]
            counts = outbox.counts_of(counted, settings.history, settings.metadata_max_bytes)
            if counts:
                passing = self.new_ledger()
                passing.register(connection)
                passing.suppression = 0
                sent = self._respelled(connection, Batch(1, counts))
                flush.apply(connection, passing, sent)
                self._add_dimensions(connection, flush, sent)
                passing.retire(connection)
            for reason, some in (
                (losses.UNKNOWN_USER, late), (losses.REFUSED, refused), (losses.SUPPRESSED, suppressed),
            ):  # fmt: skip
                if some:
                    self._add_loss(connection, Loss(losses.today(), reason, sum(row.uses for row in some)))
            gone = [row for row in rows if row.outbox_id not in early]
            if gone and outbox.remove(connection, tables, gone) != len(gone):
                raise WriteError(Fault.TRANSIENT, "another writer has moved rows of the outbox")
            is_all = len(rows) < limit
            return Moved(
                sum(row.uses for row in counted),
                sum(row.uses for row in (*late, *refused, *suppressed)),
                outbox.waiting(connection, tables),
                has_more=not is_all,
                last=rows[-1] if early else behind,
            )

        if not self._read(lambda connection: outbox.has_rows(connection, tables)):
            return Moved()
        try:
            return self.transact(move)
        except _SuppressedMeanwhile:
            return Moved(is_outdated=True)

    def _suppresses(self, user: UserId) -> bool:
        suppressions = self.suppressions
        return bool(suppressions) and suppressions.suppresses(user)

    # ---- the rest

    def declare(self, features: Collection[Feature], service: str) -> None:
        """Update the catalogue. Raises WriteError."""

        def work(connection: Connection, *, has_display_names: bool = True) -> None:
            now = utcnow()
            for feature in sorted(features, key=lambda feature: feature.name):
                key = {"service": service, "feature_name": feature.name}
                values = {"description": feature.description, "source": feature.source, "last_declared_at": now}
                if has_display_names:
                    values["display_name"] = feature.display
                upsert(connection, self._tables.catalog, key, values, {**values, "declared_at": now})

        try:
            self.transact(work)
        except WriteError as error:
            if error.fault.is_transient:
                raise
            self.transact(partial(work, has_display_names=False))  # in a table of the release before
            if any(feature.display for feature in features):
                log.once(
                    "no display names",
                    "names for people (display=) are not stored, as %s has no column display_name: "
                    "run `usage-instrument db upgrade`",
                    self._tables.catalog.name,
                    level=WARNING,
                )

    @property
    def retention(self) -> Retention:
        """Prunes the tables; open() ran. Its methods raise WriteError."""
        return Retention(self._tables, self._settings, self.statements, self.transact, self._read)

    @property
    def statements(self) -> Flush:
        """The statements that add counts to the live tables; open() ran."""
        return cast("Flush", self._flush)

    def dispose(self) -> None:
        """Close the connections; errors do not matter."""
        with contextlib.suppress(Exception):
            self._connector.dispose()

    def _run(self, work: Callable[[Connection], T]) -> T:
        with _faults(self._dialect):
            return self._connector.run(work)

    def _read(self, work: Callable[[Connection], T]) -> T:
        """As transact; where a transaction would lock out other writers, without one."""
        return self._run(work) if self._dialect.excludes_writers else self.transact(work)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction and return its result. Raises WriteError."""

        def transaction(connection: Connection) -> T:
            connection = self._dialect.begin(connection, self._settings)
            try:
                result = work(connection)
            except BaseException:
                with contextlib.suppress(Exception):  # the first error matters
                    self._dialect.rollback(connection)
                raise
            with _faults(self._dialect, committing=True):
                self._dialect.commit(connection)
            return result

        return self._run(transaction)


@contextlib.contextmanager
def _faults(dialect: dialects.Dialect, *, committing: bool = False) -> Iterator[None]:
    """Turn errors of the driver, SQLAlchemy and the network into WriteError."""
    try:
        yield
    except WriteError:
        raise
    except (AuditError, ConfigurationError, SchemaError) as error:
        raise WriteError(Fault.CONFIGURATION, str(error)) from error
    except exc.DBAPIError as error:
        fault = dialect.classify(error)
        # At COMMIT, only an error by which the server says that it rolled back is definite.
        in_doubt = committing and fault is not Fault.UNKNOWN_USER and not dialect.is_rolled_back(error)
        raise WriteError(fault, describe(error), in_doubt=in_doubt) from error
    except (exc.StatementError, OverflowError, UnicodeError) as error:
        raise WriteError(Fault.REFUSED, describe(error), in_doubt=committing) from error
    except Exception as error:  # OSError from an async driver, a timeout of the pool, a bug
        raise WriteError(Fault.TRANSIENT, describe(error), in_doubt=committing) from error
