"""The thread that talks to the database: sends frozen batches, retries, gives way."""

from __future__ import annotations

import logging
import random
import time
from _queue import Empty, SimpleQueue
from collections.abc import Callable
from contextlib import AbstractContextManager
from uuid import UUID

from usage_instrument.capture.registry import Catalog
from usage_instrument.database.dialects import Fault
from usage_instrument.database.ledger import Ledger
from usage_instrument.errors import ConfigurationError
from usage_instrument.events import Batch
from usage_instrument.runtime.flush_request import FlushRequest
from usage_instrument.runtime.threads import allocate_lock
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from . import losses
from .batcher import Batcher, Unwritten
from .journal import Journal, SavedSnapshot, Snapshot
from .maintenance import Maintenance, Recover
from .pending_counts import PendingCounts
from .rejection import Rejection
from .retry import RetryPolicy
from .store import Outcome, Store, WriteError
from .suppression_filter import SuppressionFilter

logger = logging.getLogger("usage_instrument")
_RETIRE_AGAIN = 0.2  # seconds, at most, between two attempts at the end
_LOOK_AGAIN = 1.0  # seconds between two looks for an audit trail that is missing


class Writer:
    """Gets each batch applied once: the only thread of a process that opens a connection."""

    def __init__(
        self,
        pending: PendingCounts,
        settings: Settings,
        catalog: Catalog,
        open_store: Callable[[], Store],
        new_ledger: Callable[[UUID | None], Ledger],
        journal: Journal | None = None,
        recover: Recover | None = None,
        refill: Callable[[], bool] = lambda: False,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._open_store = open_store
        self._new_ledger = new_ledger
        self._journal = journal
        self._batcher = Batcher(pending, settings, self._keep if journal is not None else None)
        self._refill = refill
        self._ended = ended
        self.retry = RetryPolicy()
        self.maintenance = Maintenance(catalog, settings, self.retry.say, recover)
        self._store: Store | None = None
        self._wake: SimpleQueue[FlushRequest] = SimpleQueue()
        self._turn = allocate_lock()
        self._alive = allocate_lock()
        self.rejection = Rejection(self._batcher, self.retry)
        self._suppression_filter = SuppressionFilter(self._batcher, self.rejection, settings, journal)
        self.ledger: Ledger | None = None
        self.running = False
        self.written = 0
        self.dropped = 0
        self.audited = 0
        self._next_look = 0.0

    # ---- the thread

    def wake(self, request: FlushRequest) -> None:
        """Write at once; never waits."""
        self._wake.put(request)

    def run(self, wanted: Callable[[], bool]) -> None:
        """The thread's life; it ends with a final request, unless it is wanted again by then."""
        while self._alive.acquire(False):  # whoever comes second leaves it to the first
            try:
                self._live(wanted)
            finally:
                self.running = False
                self._alive.release()
            # Whoever came before the line above has started no other thread.
            if self._wake.empty() and not wanted():
                return

    def _live(self, wanted: Callable[[], bool]) -> None:
        self.running = True
        # A random phase: a deploy starts all processes of a fleet at once.
        pause = random.random() * self._settings.flush_interval
        while True:
            try:
                request = self._wake.get(timeout=max(pause, 0.001))
            except Empty:
                while self.cycle() and self._wake.empty() and self._refill():
                    pass
            else:
                self.serve(request)
                if request.final and not wanted():
                    return
            pause = self.retry.pause(self._settings.flush_interval)

    def serve(self, request: FlushRequest) -> None:
        """Write until nothing is left, nothing helps, or the request's deadline passes; then answer it."""
        if not request.final and time.monotonic() >= request.deadline and not self._wake.empty():
            request.give(False)  # to nobody; who waits behind it asks for the same, and may have little time
            return
        answer = False
        try:
            while True:
                answer = self.cycle(final=request.final, asked=True)
                left = request.deadline - time.monotonic()
                if answer and left > 0 and self._refill():
                    continue
                if answer or not self.retry or self.retry.lasting or left <= 0:
                    break
                time.sleep(min(self.retry.backoff(), left))
            if request.final:
                self._end(clean=answer, deadline=request.deadline)
        finally:
            if request.final:
                self._ended()
            request.give(answer)

    def cycle(self, *, final: bool = False, asked: bool = False, wait: bool = True) -> bool:
        """Write all that is pending; True when nothing is left. Without `wait`, not if somebody else is at it."""
        if not self._turn.acquire(wait):
            return False
        try:
            number = self.ledger.number if self.ledger is not None else 0
            self._batcher.take()
            if not self._batcher.idle:
                self._write(final)
            store, ledger = self._store, self.ledger
            if store is not None and ledger is not None and ledger.registered:
                if ledger.number == number and self._suppression_filter.look(store, ledger):
                    self._write(final)
                self._suppression_filter.tidy()
                self.maintenance.keep(store, ledger, final=final, asked=asked, hurried=self._is_asked)
                self.retry.end()
        except WriteError as error:
            self.retry.add(error, self._store)
            self._batcher.give_back()
            return False
        except OSError as error:
            failure = WriteError(Fault.TRANSIENT, f"the journal cannot keep the batch: {error.strerror or error}")
            self.retry.add(failure, self._store)
            self._batcher.give_back()
            return False
        finally:
            self._batcher.report()
            self._turn.release()
        return not len(self._batcher.waiting) and not self._batcher.audits

    def _is_asked(self) -> bool:
        return not self._wake.empty()

    # ---- batches

    def _write(self, final: bool) -> None:
        store, ledger = self._ready()
        self._suppression_filter.screen(store, ledger)
        self._release(patient=not final)
        self._send_all()
        if final and len(self._batcher.waiting):  # deferred just now: tried once more, then given up
            self._release(patient=False)
            self._send_all()

    def _send_all(self) -> None:
        while True:
            store, ledger = self._ready()
            batch = self._batcher.next(ledger.number + 1, audits=self._can_audit(store))
            if batch is None:
                return
            self._send(batch)
            self._batcher.report()

    def _can_audit(self, store: Store) -> bool:
        """Whether the audit trail takes rows; if not, they wait, and nothing waits for them."""
        if store.audit_problem is None or not self._batcher.audits:
            return store.audit_problem is None
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_AGAIN
            store.look_again()
        if store.audit_problem is not None:
            self.retry.say(f"nothing is written to the audit trail: {store.audit_problem}")
        self.retry.standing = store.audit_problem
        return store.audit_problem is None

    def _keep(self, held: Snapshot) -> None:
        """Before the first attempt. Raises OSError."""
        if self._journal is not None and self.ledger is not None:
            self._journal.save(SavedSnapshot(self.ledger.writer_id, self.ledger.registered, held))

    def _send(self, batch: Batch) -> None:
        store, ledger = self._ready()
        try:
            outcome = store.write(ledger, batch)
        except WriteError as error:
            if error.in_doubt or error.fault.is_transient or error.fault is Fault.CONFIGURATION:
                self._batcher.in_doubt = self._batcher.in_doubt or error.in_doubt
                raise
            # The ledger had moved when the counts were refused: no earlier attempt of this batch was committed.
            self._batcher.in_doubt = False
            self.rejection.mend(error, batch, store)
            return
        if outcome is Outcome.GONE:
            self._start_anew(batch)
            return
        if outcome is Outcome.OUTDATED:
            self._suppression_filter.rolled_back(store, batch.number)
            return
        ledger.number = batch.number
        self.written += batch.uses
        self.audited += len(batch.accesses)
        self._batcher.applied()
        self.rejection.needless()
        self.retry.end()

    def _ready(self) -> tuple[Store, Ledger]:
        """The store, open, and this writer's row in it."""
        if self._store is None:
            try:
                self._store = self._open_store()
            except ConfigurationError as error:
                raise WriteError(Fault.CONFIGURATION, str(error)) from error
        self.ledger = self.ledger or self._new_ledger(self._journal.writer_id if self._journal is not None else None)
        self._store.open()
        if not self.ledger.registered:
            self._store.register(self.ledger)
            self.maintenance.registered()
        return self._store, self.ledger

    def _start_anew(self, batch: Batch) -> None:
        """The row is gone (pruned, or the database was restored): take a new id. What may have been applied under
        the old one cannot be known any more, and is dropped rather than counted twice."""
        logger.warning("this writer's row in feature_usage_writers is gone; it goes on under a new id")
        self.ledger = self._new_ledger(None)
        if self._batcher.in_doubt:
            self.dropped += batch.uses
            self._batcher.drop(1)
            if batch.uses:
                self._batcher.lose(losses.IN_DOUBT, batch.uses)
            self.rejection.lose_accesses(len(batch.accesses))
        else:
            self._batcher.change(1, batch.counts)

    def _release(self, *, patient: bool) -> None:
        """Send the counts whose users, unknown before, have appeared; reject those that waited long enough."""
        if len(self._batcher.waiting):
            store, _ = self._ready()
            unknown = store.unknown_users(self._batcher.waiting.users)
            late = self._batcher.release(unknown, time.monotonic() if patient else float("inf"))
            self.rejection.reject(late, losses.UNKNOWN_USER, "no such row in the users table")

    # ---- the end

    def _end(self, *, clean: bool, deadline: float) -> None:
        """Leave nothing behind: with the last batch confirmed, the row in the ledger can go."""
        if self._journal is not None:
            # The row in the ledger stays as long as the journal does, whose batches it numbers.
            clean = clean and self._journal.retire()
        if self._store is None:
            return
        if clean and self.ledger is not None and self.ledger.registered:
            self._retire(self._store, self.ledger, deadline)
        self._store.dispose()
        self._store = None
        if clean:
            self.ledger = None
            self.maintenance.forget()

    @staticmethod
    def _retire(store: Store, ledger: Ledger, deadline: float) -> None:
        """Delete the row, also where others hold the table for a moment; one left behind is pruned in time."""
        while True:
            try:
                return store.retire(ledger)
            except WriteError as error:
                left = deadline - time.monotonic()
                if not error.fault.is_transient or left <= 0:
                    return None
                time.sleep(min(random.random() * _RETIRE_AGAIN, left))

    def resume(self, ledger: Ledger, frame: SavedSnapshot | None) -> None:
        """Go on where a dead writer ended, under its row in the ledger."""
        self.ledger = ledger
        if frame is not None:
            self._batcher.resume(frame.held, ledger.number)

    def unwritten(self, user: UserId) -> Unwritten:
        """What one user has used, as far as it is pending here or with the aggregator."""
        return self._batcher.unwritten(user, None if self.ledger is None else self.ledger.writer_id)

    @property
    def turn(self) -> int:
        """Another number as soon as another batch begins or ends."""
        return self._batcher.turn

    def still(self) -> AbstractContextManager[None]:
        """No batch begins or ends in it."""
        return self._batcher.still()

    @property
    def idle(self) -> bool:
        """Whether nothing is held here."""
        return self._batcher.idle
