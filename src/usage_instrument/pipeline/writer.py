"""Sends batches to the database: retries, gives way, and applies each batch exactly once."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from usage_instrument.database.driver_errors import Fault
from usage_instrument.database.ledger import Ledger
from usage_instrument.errors import ConfigurationError
from usage_instrument.events import Batch, uses_text
from usage_instrument.runtime import log
from usage_instrument.runtime.threads import allocate_lock
from usage_instrument.settings import Settings
from usage_instrument.typing import UNSET, Unset, UserId, _Unset

from . import losses
from .aggregator import Aggregator
from .batcher import Batcher, BatchState, Unwritten
from .flush_request import FlushRequest
from .journal import Journal, SavedSnapshot
from .known_users import KnownUsers
from .maintenance import Maintenance
from .outbox import OutboxSchedule
from .pending_counts import PendingCounts
from .rejection import Rejection
from .retry import RetryPolicy, persistently
from .store import Outcome, Store, WriteError
from .suppression_filter import SuppressionFilter

_LOOK_AGAIN = 1.0
"""Seconds between two searches for an audit trail that is missing."""
_MOVES = 1_000
"""Batches of the outbox in one cycle."""
_QUICK = 1 / 4
"""The share of `statement_timeout` within which a batch may take all its time and the next one be twice as large."""


class OpensStore(Protocol):
    """The backend, as far as the writer needs it."""

    def open_store(self) -> Store:
        """A store to write to. Raises ConfigurationError."""


class Writer:
    """The only part of a process that opens the writing connection. One thread at a time runs a cycle."""

    def __init__(
        self,
        pending: PendingCounts,
        settings: Settings,
        backend: OpensStore,
        aggregator: Aggregator,
        maintenance: Maintenance,
        known_users: KnownUsers,
        journal: Journal | None = None,
        is_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._aggregator = aggregator
        self._known_users = known_users
        self._journal = journal
        self._is_asked = is_asked
        self._turn = allocate_lock()
        self._store: Store | None = None
        self._next_look = 0.0
        self.batcher = Batcher(pending, settings, journal)
        self.retry = RetryPolicy()
        self.rejection = Rejection(self.batcher, self.retry, known_users)
        self.maintenance = maintenance
        self._suppression_filter = SuppressionFilter(self.batcher, self.rejection, settings, journal)
        self.ledger: Ledger | None = None
        self.outbox = OutboxSchedule()
        self.written = 0
        self.dropped = 0
        self.audited = 0
        self._counted: Counter[str] = Counter()
        """Uses and accesses in `written` and `audited` that the database lacks: they do not count a second time."""

    # ---- cycles

    @property
    def pause(self) -> float:
        """Seconds until the next cycle."""
        return self.retry.pause(self._settings.flush_interval)

    def write_all(self) -> None:
        """Run cycles until nothing is left, an attempt fails, or somebody asks for a flush."""
        while self.write() and self._aggregator.held_up and not self._is_asked():
            self._aggregator.aggregate()

    def serve(self, request: FlushRequest) -> None:
        """Write until nothing is left, no retry helps, or the request's deadline passes; answer the request."""
        if not request.final and request.left <= 0 and self._is_asked():
            request.give(False)  # its caller has left; the callers behind it may have little time
            return
        answer = False
        try:
            while True:
                # Asked before the write, which takes everything that was read by now: uses that the aggregator reads
                # from the journal during the write are pending after it.
                was_held_up = self._aggregator.held_up
                is_written = self.write(final=request.final, asked=True)
                answer = is_written and not was_held_up
                if answer or request.left <= 0:
                    break
                if is_written:
                    self._aggregator.aggregate()
                elif (self.retry.is_failing and not self.retry.is_lasting) or self.rejection.lock_error:
                    time.sleep(min(self.retry.backoff(), max(request.left, 0.0)))
                else:
                    break
            if request.final:
                self._end(clean=answer, deadline=request.deadline)
        finally:
            request.give(answer)

    def write(self, *, final: bool = False, asked: bool = False, wait: bool = True) -> bool:
        """Run one cycle: write everything pending. True if nothing is left. Without `wait`, return False at once if
        another thread runs a cycle."""
        if not self._turn.acquire(wait):
            return False
        try:
            number = self.ledger.number if self.ledger is not None else 0
            self.rejection.begin()
            self.batcher.take()
            if not self.batcher.is_idle:
                self._send_all(final)
            if self.batcher.batch is None and self.outbox.is_due(self._store, asked=asked):
                self._move_outbox()
            store, ledger = self._store, self.ledger
            if store is not None and ledger is not None and ledger.registered:
                if self._has_fallen_back(store, ledger, final):
                    self._send_all(final)
                if ledger.number == number and self._suppression_filter.without_sending(store, ledger):
                    self._send_all(final)
                self._suppression_filter.tidy(ledger)
                self.maintenance.run(store, ledger, final=final, asked=asked, interrupted=self._is_asked)
                self.retry.succeeded()
                self.retry.last_error = self.rejection.lock_error
        except (WriteError, OSError) as error:
            if not isinstance(error, WriteError):
                reason = error.strerror or error
                error = WriteError(Fault.TRANSIENT, f"the journal cannot save the batch: {reason}")
            self.retry.failed(error, self._store)
            self.batcher.give_back()
            return False
        finally:
            self.batcher.report()
            self._turn.release()
        return not self.batcher.deferred and not self.batcher.has_accesses

    # ---- batches

    def _send_all(self, final: bool) -> None:
        self._suppression_filter.before_sending(*self.ready())
        self._release(final)
        self._send_batches()
        if self.batcher.deferred and (final or not self._settings.user_retry):  # tried once more, then rejected
            self._release(final)
            self._send_batches()

    def _move_outbox(self) -> None:
        """Count the uses of committed transactions, while no batch of this writer is on its way."""
        store, ledger = self.ready()
        if not store.has_outbox:
            store.check_outbox()  # `db upgrade` may have made it
        self.outbox.is_asked, limit, rejects, behind = False, self._settings.flush_rows, False, None
        if not store.has_outbox:
            self.outbox.looked(0)
            return
        try:
            for _ in range(_MOVES):
                try:
                    moved = store.move_outbox(ledger, limit, self._known_users, behind, rejects=rejects)
                except WriteError as error:
                    if store.refuses(error):
                        continue
                    if error.in_doubt or error.fault is not Fault.REFUSED or rejects:
                        raise
                    limit, rejects = 1, limit == 1  # look for the row that is refused
                    continue
                if moved.is_outdated:
                    if isinstance(store.position(ledger), _Unset):
                        self._start_anew(store)
                        store, ledger = self.ready()
                    continue
                rejects, behind = False, moved.last
                self.written += moved.written
                self.outbox.moved += moved.written + moved.rejected
                self.outbox.rejected += moved.rejected
                self.outbox.looked(moved.waiting)
                if not moved.has_more:
                    return
            self.outbox.is_asked = True
        except WriteError as error:
            if error.fault is Fault.CONFIGURATION:  # a missing right stops nothing else
                self.outbox.looked(self.outbox.waiting)
                log.warning("outbox", "the uses of committed transactions wait, as they cannot be moved: %s", error)
                return
            self.outbox.is_asked = True
            raise

    def _release(self, final: bool) -> None:
        """Send deferred counts whose users have appeared, or are known to be gone; reject those that waited long
        enough."""
        if self.batcher.deferred:
            store, _ = self.ready()
            unknown = store.unknown_users(self.batcher.deferred.users)
            unknown -= self._known_users.among(unknown)  # refused once more, they count for the anonymous user
            late = self.batcher.release(unknown, float("inf") if final else time.monotonic())
            self.rejection.reject(late, losses.UNKNOWN_USER, "no such row in the users table")

    def _send_batches(self) -> None:
        while True:
            store, ledger = self.ready()
            batch = self.batcher.next(ledger, audits=self._can_audit(store))
            if batch is None:
                return
            if self._can_expose(batch, store) and self._can_slice(batch, store):
                self._send(batch, store, ledger)
            self.batcher.report()

    def _can_audit(self, store: Store) -> bool:
        """Whether the audit trail takes rows. If not, accesses wait, and counts do not wait for them."""
        if store.audit_problem is not None and self.batcher.has_accesses:
            now = time.monotonic()
            if now >= self._next_look:
                self._next_look = now + _LOOK_AGAIN
                store.check_audit()
            if store.audit_problem is not None:
                log.warning("no audit", "nothing is written to the audit trail: %s", store.audit_problem)
            self.retry.audit_problem = store.audit_problem
        return store.audit_problem is None

    def _can_expose(self, batch: Batch, store: Store) -> bool:
        """Reject the exposures of a batch if the database has no table for them. False if that has changed the
        batch."""
        exposures = batch.exposures if store.exposure_problem is not None else ()
        if not exposures or self.batcher.state is not BatchState.READY:
            return True
        store.check_exposures()
        if store.exposure_problem is None:
            return True
        self.batcher.replace(batch.without_exposures().counts)
        self.rejection.reject(exposures, losses.REFUSED, store.exposure_problem)
        return False

    def _can_slice(self, batch: Batch, store: Store) -> bool:
        """Leave the dimensions out of a batch if the database has no table for them. False if that has changed the
        batch."""
        if store.dimension_problem is None or not batch.has_slices or self.batcher.state is not BatchState.READY:
            return True
        store.check_dimensions()
        if store.dimension_problem is None:
            return True
        self.batcher.replace(tuple(count._replace(slices=()) for count in batch.counts))
        self.rejection.lose_dimensions(batch, store.dimension_problem)
        return False

    def _send(self, batch: Batch, store: Store, ledger: Ledger) -> None:
        start = time.monotonic()
        try:
            outcome = store.write(ledger, batch)
        except WriteError as error:
            if error.in_doubt:
                self.batcher.doubt()
            elif store.refuses(error):
                self.batcher.roll_back()  # the ledger had moved before, as below; next, they are left out
                return
            # While an earlier attempt is in doubt, this one may have waited for the locks of that attempt.
            elif self.batcher.state is BatchState.READY and self.rejection.isolate(error, batch):
                return
            if error.in_doubt or error.fault.is_transient or error.fault is Fault.CONFIGURATION:
                raise
            # The ledger had moved before the counts were refused, so no earlier attempt was committed either.
            self.batcher.roll_back()
            self.rejection.handle(error, batch, store)
            return
        if outcome is Outcome.GONE:
            self._start_anew(store)
        elif outcome is Outcome.OUTDATED:
            self._suppression_filter.rolled_back(store)
        elif outcome is Outcome.BEHIND:
            self._fall_back(ledger)
        else:
            ledger.number = max(ledger.number, batch.number)
            self._counted.subtract({"uses": batch.uses, "accesses": len(batch.accesses)})
            self.written += max(-self._counted["uses"], 0)
            self.audited += max(-self._counted["accesses"], 0)
            self._counted = +self._counted
            self.batcher.applied()
            timeout = self._settings.statement_timeout
            is_quick = not timeout or time.monotonic() - start < _QUICK * timeout
            self.rejection.applied(batch, quickly=is_quick, has_users=store.has_users)
            self.retry.succeeded()

    def ready(self) -> tuple[Store, Ledger]:
        """The open store, and this writer's row in it. Raises WriteError."""
        if self._store is None:
            try:
                self._store = self._backend.open_store()
            except ConfigurationError as error:
                raise WriteError(Fault.CONFIGURATION, str(error)) from error
        if self.ledger is None:
            self.ledger = self._store.new_ledger(self._journal.writer_id if self._journal is not None else None)
        self._store.open()
        if not self.ledger.registered:
            self._store.register(self.ledger)
            self.maintenance.registered()
        return self._store, self.ledger

    def _start_anew(self, store: Store) -> None:
        """The ledger row is gone (pruned, or the database was restored): take a new id. Nobody can know whether a batch
        in doubt was applied under the old one: it is dropped rather than counted twice."""
        log.warning(
            "ledger row gone",
            "this writer's row in feature_usage_writers is gone; it continues under a new id. If a standby took over, "
            "or a backup was restored, uses that it had written before may be missing",
        )
        self.ledger = store.new_ledger()
        given_up = self.batcher.abandon()
        if self.batcher.state is BatchState.READY:
            self.batcher.renumber(1)
        self._lose(
            losses.IN_DOUBT, sum(batch.uses for batch in given_up), sum(len(batch.accesses) for batch in given_up)
        )

    def _has_fallen_back(self, store: Store, ledger: Ledger, final: bool) -> bool:
        """Look, with each heartbeat and at the end, for acknowledged batches that the database lacks: nothing else
        would find them in a process that has nothing to send. Raises WriteError."""
        position: int | Unset = UNSET
        if final:
            with contextlib.suppress(WriteError):  # all is written, as far as anybody knows
                position = store.position(ledger)
        else:
            position = self.maintenance.beat(store, ledger)
        if isinstance(position, _Unset) or position >= ledger.number:
            return False
        ledger.number = position
        self._fall_back(ledger)
        return True

    def _fall_back(self, ledger: Ledger) -> None:
        """The server took over, or was restored, without acknowledged batches: send again those that are kept."""
        missing = self.batcher.fall_back(ledger.number)
        uses, accesses = sum(batch.uses for batch in missing.kept), sum(len(batch.accesses) for batch in missing.kept)
        log.warning(
            "fallen back",
            "the database lacks batches that it had acknowledged, since a failover or a restored backup: "
            "%s sent again, %s lost",
            uses_text(uses),
            uses_text(missing.uses),
        )
        self._counted.update({"uses": uses + missing.uses, "accesses": accesses + missing.accesses})
        self._lose(losses.FAILOVER, missing.uses, missing.accesses)

    def _lose(self, reason: str, uses: int, accesses: int) -> None:
        self.dropped += uses
        if uses:
            self.batcher.lose(reason, uses)
        self.rejection.lose_accesses(accesses)

    # ---- the end

    def _end(self, *, clean: bool, deadline: float) -> None:
        """Close the connection. After a clean end, delete the journal and then the ledger row, which numbers its
        batches."""
        if self._journal is not None:
            clean = clean and self._journal.retire()
        store, ledger = self._store, self.ledger
        if store is None:
            return
        if clean and ledger is not None and ledger.registered:
            with contextlib.suppress(WriteError):  # maintenance prunes the row in time
                persistently(lambda: store.retire(ledger), deadline - time.monotonic())
        store.dispose()
        self._store = None
        if clean:
            self.ledger = None
            self.batcher.abandon()  # nothing is in doubt, and nothing can be sent again under the row that is deleted
            self.maintenance.end()

    def resume(self, ledger: Ledger, snapshot: SavedSnapshot | None, sent: Sequence[Batch]) -> None:
        """Continue where a dead writer ended, under its row in the ledger. It had `sent` batches before those of its
        snapshot, which the database lacks."""
        self.ledger = ledger
        if snapshot is not None:
            first = [*sent, *snapshot.held.batches][:1]
            missing = max(first[0].number - ledger.number - 1, 0) if first else 0
            if sent or missing:
                log.warning(
                    ("fallen back", ledger.writer_id),
                    "the database lacks batches that it had acknowledged to a dead process, since a failover or a "
                    "restored backup: %s sent again, %d batches not kept",
                    uses_text(sum(batch.uses for batch in sent)),
                    missing,
                )
            self.batcher.resume(snapshot.held, ledger.number, sent)

    def unwritten(self, users: Collection[UserId]) -> Unwritten:
        """The counts of a user, who may have several spellings, that are not confirmed."""
        return self.batcher.unwritten(users, None if self.ledger is None else self.ledger.writer_id)
