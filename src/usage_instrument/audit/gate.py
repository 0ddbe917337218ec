"""The gate before a call that is audited as `"required"`: its row is committed first, or the call does not happen.

One thread commits for all callers of a process, those who wait together in one transaction: so there is one chain, no
event loop is held up, and an async driver serves functions that are not async.
"""

from __future__ import annotations

import contextlib
import sys
import time
from _queue import Empty, SimpleQueue
from _thread import allocate_lock
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Insert, exc, insert

from .. import dialects
from ..dialects import Fault
from ..errors import AuditUnavailable, ConfigurationError, SchemaError, UserIdError
from ..events import Use
from ..lifecycle import start_thread
from ..suppressions import Suppressions
from ..ticket import Ticket, in_event_loop
from ..typing import UserId
from .chain import Chain
from .recordable import anonymous, recordable

if TYPE_CHECKING:
    from ..engines import Connector
    from ..schema import Tables
    from ..settings import Settings

_TOGETHER = 200  # rows a transaction, at most
_PAUSE = 0.02  # seconds between two attempts
LOOK_AGAIN = 1.0
"""Seconds between two looks for who is to be forgotten."""


class Pass:
    """One caller's wish to get through, and the answer."""

    def __init__(self, use: Use, timeout: float) -> None:
        self.use = use
        self.deadline = time.monotonic() + timeout
        self.answered = False
        self.error: Exception | None = None
        self._wake: Callable[[], object] = lambda: None

    def answer(self, error: Exception | None = None) -> None:
        """Let the caller through, or tell why not. From the gate's thread."""
        self.error, self.answered = error, True
        self._wake()

    def wait_with(self, wake: Callable[[], object]) -> None:
        """Have the answer wake the caller."""
        self._wake = wake

    @property
    def left(self) -> float:
        """Seconds until the caller goes away."""
        return max(self.deadline - time.monotonic(), 0.0)


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
        self._chain = Chain(settings.audit_key)
        self._queue: SimpleQueue[Pass | Ticket] = SimpleQueue()
        self._starting = allocate_lock()
        self._runs = False
        self._connector: Connector | None = None
        self._statement: Insert | None = None
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
        asked = self._asked(use)
        if _has_green_threads():
            self._enter(asked)
            while not asked.answered and asked.left:
                time.sleep(0.0005)  # the patched one: to wait for a lock would stop all greenlets
        else:
            lock = allocate_lock()
            lock.acquire()
            asked.wait_with(lock.release)
            self._enter(asked)
            lock.acquire(timeout=asked.left)
        self._leave(asked)

    async def aadmit(self, use: Use) -> None:
        """As admit, without blocking the event loop: asyncio's, or trio's where that is the running one."""
        import asyncio

        asked = self._asked(use)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._enter(asked)
            sleep = sys.modules["trio"].sleep
            while not asked.answered and asked.left:
                await sleep(0.0005)
        else:
            answered = asyncio.Event()

            def wake() -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(answered.set)

            asked.wait_with(wake)
            self._enter(asked)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(asked.left):
                    await answered.wait()
        self._leave(asked)

    def close(self, timeout: float) -> Ticket:
        """Serve who is waiting, then end the thread and close its connection; the ticket says when that is done."""
        ticket = Ticket(timeout, final=True)
        if self._runs:
            self._queue.put(ticket)
        else:
            ticket.answer = True
        return ticket

    # ---- the callers

    def _asked(self, use: Use) -> Pass:
        if use.access is None:
            raise ValueError(f"{use.feature!r} was not audited")
        try:
            self._canonical(use.user)
        except UserIdError as error:
            raise AuditUnavailable.of(use.feature, str(error)) from None
        recorded = recordable(use, use.access, self._canonical, self._settings.metadata_max_bytes)
        return Pass(recorded, self._settings.audit_timeout)

    def _enter(self, asked: Pass) -> None:
        self._queue.put(asked)
        if not self._runs and self._starting.acquire(False):
            try:
                if not self._runs:
                    start_thread(self._run)
                    self._runs = True
            except RuntimeError as error:
                raise AuditUnavailable.of(asked.use.feature, "the process is about to end") from error
            finally:
                self._starting.release()

    def _leave(self, asked: Pass) -> None:
        if not asked.answered:
            reason = f"the database did not answer within {self._settings.audit_timeout:g} s (audit_timeout)"
            raise AuditUnavailable.of(asked.use.feature, reason)
        if asked.error is not None:
            raise AuditUnavailable.of(asked.use.feature, _describe(asked.error)) from asked.error

    # ---- the thread

    def _run(self) -> None:
        while True:
            asked = self._queue.get()
            passes = []
            while isinstance(asked, Pass):
                passes.append(asked)
                if len(passes) == _TOGETHER:
                    break
                try:
                    asked = self._queue.get_nowait()
                except Empty:
                    break
            self._serve(passes)
            if isinstance(asked, Ticket):
                break
        if self._connector is not None:
            with contextlib.suppress(Exception):
                self._connector.dispose()
        asked.answer = True

    def _serve(self, passes: list[Pass]) -> None:
        """Commit the rows of all who still wait, by as many attempts as their patience allows."""
        passes = [asked for asked in passes if asked.left]
        rows: list[dict[str, Any]] = []
        error: Exception | None = None
        is_retry = False
        while passes:
            try:
                if not rows:  # another attempt is one with the same
                    rows = self._chain.rows(self._nameable(passes), self._settings.service)
                self._commit(rows)
            except Exception as found:
                if is_retry and self._is_there(found):
                    error = None  # an earlier attempt was committed, whose answer was lost
                    break
                error = found
                if self._is_lasting(found) or not any(asked.left for asked in passes):
                    break
                is_retry = bool(rows)
                time.sleep(_PAUSE)
            else:
                error = None
                break
        if error is None:
            self._chain.appended(rows)
            self.committed += len(rows)
        else:  # whether the rows are there nobody knows: they may be the end of this chain, and nothing comes after
            self._chain = Chain(self._settings.audit_key)
        for asked in passes:
            asked.answer(error)

    def _nameable(self, passes: Sequence[Pass]) -> list[Use]:
        """What is to be recorded, without who was forgotten: asked no later than a second ago."""
        connector = self._connected()
        if self._suppressions is None:
            self._suppressions = Suppressions(self._tables(), self._settings.privacy_key)
        now = time.monotonic()
        if now >= self._next_look:
            connector.run(self._suppressions.read)
            self._next_look = now + LOOK_AGAIN
        return [anonymous(asked.use, self._suppressions.pseudonym) for asked in passes]

    def _commit(self, rows: Sequence[dict[str, Any]]) -> None:
        self._connected().run(lambda connection: self._insert(connection, rows))

    def _connected(self) -> Connector:
        """The database, whose trail was looked at. Raises SchemaError, and what SQLAlchemy raises."""
        if self._connector is None:
            self._connector = self._connect()
        if not self._checked:
            self._connector.run(self._check)
            self._checked = True
        return self._connector

    def _check(self, connection: Connection) -> None:
        problem = self._problem(connection)
        if problem is not None:
            raise SchemaError(problem)

    def _insert(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        if self._statement is None:
            self._statement = insert(self._tables().access)  # once: SQLAlchemy keeps with it what it makes of it
        statement = self._statement
        if len(rows) == 1:  # one statement is a transaction, in one round trip
            connection.execute(statement, rows[0])
            return
        connection.exec_driver_sql("BEGIN")
        try:
            connection.execute(statement, rows)
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


def _describe(error: Exception) -> str:
    """The first line of an error. Parameters, which hold user ids, come on later lines."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    if isinstance(error, ConfigurationError | SchemaError):
        return str(error)
    return f"{type(cause).__name__}: {lines[0][:300]}" if lines else type(cause).__name__


def _has_green_threads() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("time"))
