"""The gate before a call that is audited as `"required"`: its row is committed first, or the call does not happen.

A process has one chain for this, and one connection, for whoever has its turn. A caller that finds nobody at it
commits by itself; else one thread commits for all who wait, together: so no event loop is held up, and an async driver
serves functions that are not async.
"""

from __future__ import annotations

import contextlib
import time
from _queue import Empty, SimpleQueue
from _thread import LockType
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, exc, insert

from usage_instrument.database import dialects
from usage_instrument.database.dialects import Fault
from usage_instrument.database.suppressions import Suppressions
from usage_instrument.errors import AuditUnavailable, ConfigurationError, SchemaError, UserIdError
from usage_instrument.events import Use
from usage_instrument.runtime.flush_request import FlushRequest
from usage_instrument.runtime.threads import allocate_lock, get_ident
from usage_instrument.runtime.threads import start as start_thread
from usage_instrument.runtime.waiting import in_event_loop
from usage_instrument.typing import UserId

from .chain import Chain
from .insert import Insertion
from .record import anonymous, recordable
from .waiter import Attempt, Caller, has_green_threads

if TYPE_CHECKING:
    from usage_instrument.database.engines import Connector
    from usage_instrument.database.tables import Tables
    from usage_instrument.settings import Settings

_TOGETHER = 200  # rows a transaction, at most
_PAUSE = 0.02  # seconds between two attempts
LOOK_AGAIN = 1.0
"""Seconds between two looks for who is to be forgotten."""


class Gate:
    """Made anew in a forked child, and after a shutdown. Its construction does no I/O and takes no lock."""

    def __init__(
        self,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        connect: Callable[[], Connector],
        tables: Callable[[], Tables],
        problem: Callable[[Connection], str | None],
    ) -> None:
        self._settings = settings
        self._canonical = canonical
        self._connect = connect
        self._tables = tables
        self._problem = problem
        self._queue: SimpleQueue[Caller | FlushRequest | None] = SimpleQueue()
        self._starting = allocate_lock()
        self._runs = False
        self._turn = allocate_lock()
        self._owner: int | None = None
        """The caller's thread that has the turn."""
        self._is_awaited = False
        """Whether the thread waits for it: callers let it go first."""
        self._begun: Attempt | None = None
        """What a caller has begun, and leaves to the thread."""
        # From here on, what is only touched by whoever has the turn.
        self._chain: Chain | None = None
        """Begun by the first row: children that are forked before that would all go on with the same one."""
        self._connector: Connector | None = None
        self._insertion: Insertion | None = None
        self._checked = False
        self._suppressions: Suppressions | None = None
        self._next_look = 0.0
        self.committed = 0
        """Rows that are in the trail."""

    def admit(self, use: Use) -> None:
        """Return once the row of this access is committed; waits `audit_timeout` seconds. Raises AuditUnavailable."""
        if in_event_loop():
            raise AuditUnavailable.of(
                use.feature,
                "waiting for the database would hold up the event loop; make it `async def`, or call it in a thread",
            )
        if self._owner == get_ident():
            raise AuditUnavailable.of(use.feature, "this thread is at it already: a signal handler has no turn")
        caller = self._caller(use)
        if has_green_threads():
            caller.wait_in_greenlet(self._enter)
        else:
            caller.wait(self._enter_or_commit)
        caller.leave()

    async def aadmit(self, use: Use) -> None:
        """As admit, without blocking the event loop."""
        caller = self._caller(use)
        await caller.await_(self._enter)
        caller.leave()

    def close(self, timeout: float) -> FlushRequest:
        """Serve who is waiting, then end the thread and close its connection; the ticket says when that is done."""
        ticket = FlushRequest(timeout, final=True)
        if self._runs:
            self._queue.put(ticket)
        if not self._runs or self._owner == get_ident():  # a signal handler's caller goes on only after it
            ticket = FlushRequest(timeout, final=True)
            ticket.give(True)
        return ticket

    # ---- the callers

    def _caller(self, use: Use) -> Caller:
        if use.access is None:
            raise ValueError(f"{use.feature!r} was not audited")
        try:
            self._canonical(use.user)
        except UserIdError as error:
            raise AuditUnavailable.of(use.feature, str(error)) from None
        recorded = recordable(use, use.access, self._canonical, self._settings.metadata_max_bytes)
        return Caller(recorded, self._settings.audit_timeout)

    def _enter_or_commit(self, caller: Caller) -> None:
        """Have the caller's own thread commit, which spares it two switches to another, where nobody is at it."""
        turn = self._turn
        if self._is_awaited or not self._queue.empty() or not turn.acquire(False):
            self._enter(caller)
            return
        try:
            self._owner = get_ident()
            # Not where it may have to connect first, which can take longer than a caller waits.
            is_ready = self._begun is None and self._connector is not None and self._connector.is_at_hand
            if is_ready:
                self._commit_alone(caller)
        finally:
            self._owner = None
            turn.release()
        if not is_ready:
            self._enter(caller)
        elif not caller.answered:
            self._wake(caller, None)

    def _commit_alone(self, caller: Caller) -> None:
        chain, rows = self._begun_chain(), []
        try:
            rows = chain.rows(self._nameable([caller]), self._settings.service)
            self._commit(rows)
        except Exception as error:
            self._begun = Attempt([caller], rows, error, chain)
        except BaseException:
            self._end(chain)
            raise
        else:
            chain.appended(rows)
            self.committed += 1
            caller.answer()

    def _enter(self, caller: Caller) -> None:
        self._wake(caller, caller)

    def _wake(self, caller: Caller, item: Caller | None) -> None:
        self._queue.put(item)
        if not self._runs and self._starting.acquire(False):
            try:
                if not self._runs:
                    start_thread(self._run)
                    self._runs = True
            except RuntimeError as error:
                raise AuditUnavailable.of(caller.use.feature, "the process is about to end") from error
            finally:
                self._starting.release()

    # ---- the thread

    def _run(self) -> None:
        while True:
            asked = self._queue.get()
            turn = self._take_turn()
            try:
                begun, self._begun = self._begun, None
                if begun is not None:
                    self._serve(*begun)
                callers = []
                while not isinstance(asked, FlushRequest):
                    if asked is not None:
                        callers.append(asked)
                    if len(callers) == _TOGETHER:
                        break
                    try:
                        asked = self._queue.get_nowait()
                    except Empty:
                        break
                self._serve([caller for caller in callers if caller.left])
                if isinstance(asked, FlushRequest):
                    connector, self._connector = self._connector, None
                    if connector is not None:
                        with contextlib.suppress(Exception):
                            connector.dispose()
                    asked.give(True)
                    return
            finally:
                turn.release()

    def _take_turn(self) -> LockType:
        """Wait for the turn, at most as long as it can take a caller."""
        self._is_awaited = True
        while True:
            turn = self._turn
            if turn.acquire(timeout=2 * self._settings.audit_timeout + 1):
                self._is_awaited = False
                return turn
            # A signal handler's exception came between a caller and its release. Whatever it has, it keeps.
            self._turn, self._begun = allocate_lock(), None
            self._chain, self._connector, self._checked = None, None, False

    def _serve(
        self,
        callers: list[Caller],
        rows: Sequence[dict[str, Any]] = (),
        error: Exception | None = None,
        chain: Chain | None = None,
    ) -> None:
        """Commit the rows of all who wait, by as many attempts as their patience allows, or go on with an attempt."""
        if not callers:
            return
        chain, is_retry = chain or self._begun_chain(), False
        while True:
            if error is not None:
                # A first attempt has no row there: if there is one, it is somebody else's, and this is not our chain.
                is_lasting = self._is_lasting(error) or (not is_retry and self._is_there(error))
                if is_lasting or not any(caller.left for caller in callers):
                    break
                is_retry = bool(rows)
                time.sleep(_PAUSE)
            try:
                # Another attempt is one with the same rows.
                rows = rows or chain.rows(self._nameable(callers), self._settings.service)
                self._commit(rows)
            except Exception as found:
                error = found
                if is_retry and self._is_there(found):
                    error = None  # an earlier attempt was committed, whose answer was lost
                    break
            else:
                error = None
                break
        if error is None:
            chain.appended(rows)
            self.committed += len(rows)
        else:
            self._end(chain)
        for caller in callers:
            caller.answer(error)

    def _end(self, chain: Chain) -> None:
        """Whether its last rows are there nobody knows: they may be its end, and nothing comes after."""
        if self._chain is chain:
            self._chain = None

    def _begun_chain(self) -> Chain:
        if self._chain is None:
            self._chain = Chain(self._settings.audit_key)
        return self._chain

    def _nameable(self, callers: Sequence[Caller]) -> list[Use]:
        """What is to be recorded, without who was forgotten: asked no later than a second ago."""
        connector = self._connected()
        if self._suppressions is None:
            self._suppressions = Suppressions(self._tables(), self._settings.privacy_key)
        now = time.monotonic()
        if now >= self._next_look:
            connector.run(self._suppressions.read)
            self._next_look = now + LOOK_AGAIN
        return [anonymous(caller.use, self._suppressions.pseudonym) for caller in callers]

    def _commit(self, rows: Sequence[dict[str, Any]]) -> None:
        self._connected().run(lambda connection: self._insert(connection, rows))

    def _connected(self) -> Connector:
        """The database, whose trail was looked at. Raises SchemaError, and what SQLAlchemy raises."""
        if self._connector is None:
            self._connector = self._connect()
        if not self._checked:
            problem = self._connector.run(self._problem)
            if problem is not None:
                raise SchemaError(problem)
            self._checked = True
        return self._connector

    def _insert(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        if len(rows) == 1:  # one statement is a transaction, in one round trip
            if self._insertion is None:
                self._insertion = Insertion(connection.dialect, self._tables())
            self._insertion.run(connection, rows[0])
            return
        connection.exec_driver_sql("BEGIN")
        try:
            connection.execute(insert(self._tables().access), rows)
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            try:
                connection.exec_driver_sql("ROLLBACK")
            except Exception:
                connection.invalidate()  # nobody is to meet an open transaction
            raise

    def _is_there(self, error: Exception) -> bool:
        """Whether a row is refused because it is there already: nobody else writes to this chain."""
        if not isinstance(error, exc.DBAPIError) or self._connector is None:
            return False
        return dialects.get(self._connector.dialect_name).is_duplicate(error)

    def _is_lasting(self, error: Exception) -> bool:
        """Whether another attempt would fail as well."""
        if isinstance(error, ConfigurationError | SchemaError):
            return True
        if not isinstance(error, exc.DBAPIError) or self._connector is None:
            return isinstance(error, exc.StatementError)
        return dialects.get(self._connector.dialect_name).classify(error) is not Fault.TRANSIENT
