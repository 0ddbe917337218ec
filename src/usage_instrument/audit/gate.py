"""The gate before a call with audit="required": the call happens only once its row is committed.

One background thread of the process commits the rows of all waiting callers as a group: by one INSERT, on one
connection, to one chain. So no event loop is held up, and an async driver serves functions that are not async.

A group passes through these states:

| state         | event                                              | next state |
| ------------- | -------------------------------------------------- | ---------- |
| NEW           | UNREACHED: the database did not get the rows       | NEW        |
| NEW           | INSERTED                                           | COMMITTED  |
| NEW           | DUPLICATE: another process has written such a row  | REFUSED    |
| NEW           | FORBIDDEN: another attempt would fail as well      | REFUSED    |
| NEW           | NO_ANSWER, or an error that may be temporary       | IN_DOUBT   |
| IN_DOUBT      | INSERTED                                           | COMMITTED  |
| IN_DOUBT      | DUPLICATE: an earlier attempt was committed        | COMMITTED  |
| IN_DOUBT      | FORBIDDEN                                          | REFUSED    |
| IN_DOUBT      | UNREACHED, NO_ANSWER                               | IN_DOUBT   |
| NEW, IN_DOUBT | ABANDONED: the time of every caller is over        | REFUSED    |

COMMITTED: the callers go through, and the rows are the end of the chain. REFUSED: the callers raise AuditUnavailable.
The next group then begins a new chain, since the rows may stand in the old one all the same.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, exc

from usage_instrument.database import dialects, inspection
from usage_instrument.database.driver_errors import describe
from usage_instrument.database.suppressions import Suppressions
from usage_instrument.errors import AuditUnavailable, ConfigurationError, SchemaError, UserIdError
from usage_instrument.events import Use
from usage_instrument.runtime.threads import END, BackgroundThread, Pause, get_ident, sleep
from usage_instrument.runtime.waiting import Answer, in_event_loop
from usage_instrument.typing import UserId

from .chain import Chain
from .insert import ROWS_PER_STATEMENT, AccessInsert
from .record import recordable, without_erased_users
from .trail import ensure

if TYPE_CHECKING:
    from usage_instrument.database.engines import Connector
    from usage_instrument.database.tables import Tables
    from usage_instrument.settings import Settings

SUPPRESSIONS_INTERVAL = 1.0
"""Seconds for which the erased users that were read last are taken to be all."""
_RETRY_PAUSE = 0.02
_IDLE = 3600.0  # seconds


class State(enum.Enum):
    """Of a group of rows that are committed together."""

    NEW = enum.auto()
    IN_DOUBT = enum.auto()
    COMMITTED = enum.auto()
    REFUSED = enum.auto()


class Event(enum.Enum):
    """How an attempt to commit a group ends."""

    UNREACHED = enum.auto()
    INSERTED = enum.auto()
    DUPLICATE = enum.auto()
    FORBIDDEN = enum.auto()
    NO_ANSWER = enum.auto()
    ABANDONED = enum.auto()


TRANSITIONS = {
    (State.NEW, Event.UNREACHED): State.NEW,
    (State.NEW, Event.INSERTED): State.COMMITTED,
    (State.NEW, Event.DUPLICATE): State.REFUSED,
    (State.NEW, Event.FORBIDDEN): State.REFUSED,
    (State.NEW, Event.NO_ANSWER): State.IN_DOUBT,
    (State.NEW, Event.ABANDONED): State.REFUSED,
    (State.IN_DOUBT, Event.UNREACHED): State.IN_DOUBT,
    (State.IN_DOUBT, Event.INSERTED): State.COMMITTED,
    (State.IN_DOUBT, Event.DUPLICATE): State.COMMITTED,
    (State.IN_DOUBT, Event.FORBIDDEN): State.REFUSED,
    (State.IN_DOUBT, Event.NO_ANSWER): State.IN_DOUBT,
    (State.IN_DOUBT, Event.ABANDONED): State.REFUSED,
}


class Caller(NamedTuple):
    """A call that waits for its row."""

    use: Use
    deadline: float
    """In monotonic seconds."""
    answer: Answer[Exception | None]
    """None lets it through."""


class Gate:
    """Made anew in a forked child and after a shutdown. Its construction does no I/O and takes no lock."""

    def __init__(
        self,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        connect: Callable[[], Connector],
        tables: Callable[[], Tables],
    ) -> None:
        self._settings = settings
        self._canonical = canonical
        self._connect = connect
        self._tables = tables
        self._thread: BackgroundThread[Caller | Answer[bool]] = BackgroundThread("audit gate", self._cycle)
        self.committed = 0
        """Rows in the trail."""
        self._failure: Exception | None = None
        """Of the latest attempt, until one succeeds."""
        # Only the thread uses what follows.
        self._thread_id: int | None = None
        self._closing: list[Answer[bool]] = []
        self._chain: Chain | None = None
        """Begun by the first row: children that are forked before must not share one."""
        self._trail: UUID | None = None
        self._connector: Connector | None = None
        self._insert: AccessInsert | None = None
        self._suppressions: Suppressions | None = None
        self._suppressions_due = 0.0

    def admit(self, use: Use) -> None:
        """Return once the row of this access is committed. Raises AuditUnavailable, after `audit_timeout` seconds at
        the latest."""
        if in_event_loop():
            raise AuditUnavailable.of(
                use.feature,
                "waiting for the database would hold up the event loop; make it `async def`, or call it in a thread",
            )
        if self._thread_id == get_ident():
            raise AuditUnavailable.of(use.feature, "a destructor called it in the thread that records accesses")
        caller = self._enter(use)
        caller.answer.wait(self._settings.audit_timeout)
        self._leave(caller)

    async def aadmit(self, use: Use) -> None:
        """As admit, without blocking the event loop."""
        caller = self._enter(use)
        await caller.answer.wait_async(self._settings.audit_timeout)
        self._leave(caller)

    def close(self) -> Answer[bool]:
        """Serve the waiting callers, then end the thread and close its connection; answered when that is done."""
        closed: Answer[bool] = Answer()
        if not self._thread.is_alive and not self._thread.is_asked:
            closed.give(True)
            return closed
        self._thread.put(closed)
        with contextlib.suppress(RuntimeError):  # the interpreter exits
            self._thread.ensure()
        return closed

    def _enter(self, use: Use) -> Caller:
        if use.access is None:
            raise ValueError(f"{use.feature!r} was not audited")
        try:
            self._canonical(use.user)
        except UserIdError as error:
            raise AuditUnavailable.of(use.feature, str(error)) from None
        recorded = recordable(use, use.access, self._canonical, self._settings.metadata_max_bytes)
        caller = Caller(recorded, time.monotonic() + self._settings.audit_timeout, Answer())
        self._thread.put(caller)
        try:
            self._thread.ensure()
        except RuntimeError as error:
            raise AuditUnavailable.of(use.feature, "the process is about to end") from error
        return caller

    def _leave(self, caller: Caller) -> None:
        if not caller.answer.is_given:
            failure, within = self._failure, f"within {self._settings.audit_timeout:g} s (audit_timeout)"
            reason = f"no attempt succeeded {within}: {describe(failure)}" if failure else f"no answer {within}"
            raise AuditUnavailable.of(caller.use.feature, reason)
        error = caller.answer.value
        if error is not None:
            raise AuditUnavailable.of(caller.use.feature, describe(error)) from error

    # ---- the thread

    def _cycle(self, item: Caller | Answer[bool] | None) -> Pause:
        self._thread_id = get_ident()
        group: list[Caller] = []
        while item is not None:
            if isinstance(item, Answer):
                self._closing.append(item)
            elif time.monotonic() < item.deadline:
                group.append(item)
            item = self._thread.take() if len(group) < ROWS_PER_STATEMENT else None
        if group:
            self._commit(group)
        if not self._closing or self._thread.is_asked:
            return _IDLE
        connector, self._connector, self._insert = self._connector, None, None
        if connector is not None:
            with contextlib.suppress(Exception):
                connector.dispose()
        for closed in self._closing:
            closed.give(True)
        return END

    def _commit(self, group: Sequence[Caller]) -> None:
        """Commit the rows of all callers, in as many attempts as their time allows, and answer them."""
        state, error = State.NEW, None
        chain = self._chain
        rows: list[dict[str, Any]] = []
        while state in {State.NEW, State.IN_DOUBT}:
            try:
                insert = self._prepared()
                chain = chain or self._new_chain()
                rows = rows or chain.rows(self._without_erased_users(group), self._settings.service)
                self._connected().run(partial(insert.run, rows=rows))
                event = Event.INSERTED
            except Exception as failure:
                error, event = failure, self._event_of(failure, is_sent=bool(rows))
                self._failure = failure
            state = TRANSITIONS[state, event]
            if state in {State.NEW, State.IN_DOUBT}:
                if time.monotonic() < max(caller.deadline for caller in group):
                    sleep(_RETRY_PAUSE)
                else:
                    state = TRANSITIONS[state, Event.ABANDONED]
        self._chain = chain if state is State.COMMITTED else None
        if state is State.COMMITTED and chain is not None:
            chain.appended(rows)
            self.committed += len(rows)
            error = self._failure = None
        for caller in group:
            caller.answer.give(error)

    def _event_of(self, error: Exception, *, is_sent: bool) -> Event:
        if isinstance(error, exc.DBAPIError) and self._connector is not None:
            dialect = dialects.get(self._connector.dialect_name)
            if dialect.is_duplicate(error):
                return Event.DUPLICATE
            is_lasting = not dialect.classify(error).is_transient
        else:
            is_lasting = isinstance(error, ConfigurationError | SchemaError | exc.StatementError)
        if is_lasting:
            return Event.FORBIDDEN
        return Event.NO_ANSWER if is_sent else Event.UNREACHED

    def _new_chain(self) -> Chain:
        if self._trail is None:
            self._trail = ensure(self._connected().run, self._tables())
        return Chain(self._settings.audit_key, self._trail)

    def _connected(self) -> Connector:
        if self._connector is None:
            self._connector = self._connect()
        return self._connector

    def _prepared(self) -> AccessInsert:
        """The INSERT, after a check of the table. Raises SchemaError, and what SQLAlchemy raises."""

        def prepare(connection: Connection) -> AccessInsert:
            problem = inspection.audit_problem(connection, self._tables())
            if problem is not None:
                raise SchemaError(problem)
            return AccessInsert(connection, self._tables())

        if self._insert is None:
            self._insert = self._connected().run(prepare)
        return self._insert

    def _without_erased_users(self, group: Sequence[Caller]) -> list[Use]:
        if self._suppressions is None:
            self._suppressions = Suppressions(self._tables(), self._settings.privacy_key)
        now = time.monotonic()
        if now >= self._suppressions_due:
            self._connected().run(self._suppressions.read)
            self._suppressions_due = now + SUPPRESSIONS_INTERVAL
        spellings = self._suppressions.spellings
        users = {user for caller in group for user in caller.use.users}
        if spellings.lacks(users):
            self._connected().run(partial(spellings.look_up, users=users))
        uses = (caller.use.respelled(spellings.of) for caller in group)
        return [without_erased_users(use, self._suppressions.pseudonym) for use in uses]
