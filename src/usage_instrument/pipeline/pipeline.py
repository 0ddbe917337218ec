"""Wires captures, aggregator and writer, and runs them: started by a use, flushed, ended, started again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from usage_instrument.capture.registry import Catalog
from usage_instrument.errors import describe
from usage_instrument.events import uses_text
from usage_instrument.runtime import log
from usage_instrument.runtime.threads import END, BackgroundThread, Pause
from usage_instrument.runtime.waiting import in_event_loop
from usage_instrument.settings import Settings
from usage_instrument.stats import Stats
from usage_instrument.typing import UserId

from .aggregator import Aggregator
from .backend import Backend
from .base_pipeline import STALE, BasePipeline
from .batcher import Unwritten
from .flush_request import FlushRequest
from .known_users import KnownUsers
from .maintenance import Maintenance
from .pending_counts import PendingCounts
from .recovery import Recovery
from .writer import Writer


class Pipeline(BasePipeline):
    """Aggregates the uses of this process, and writes them."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        catalog: Catalog,
        canonical: Callable[[UserId], UserId],
        sinks_changed: Callable[[], None],
    ) -> None:
        super().__init__(settings, backend.name, sinks_changed)
        self._pending = PendingCounts(settings.max_pending, settings.max_pending_bytes)
        recover = None
        if settings.journal is not None:
            recover = Recovery(settings.journal, backend.name, settings, canonical).run
        self._aggregator = Aggregator(self.buffer, self._pending, settings, canonical, self.journal, sinks_changed)
        self.maintenance = Maintenance(catalog, settings, recover)
        self._known_users = KnownUsers(canonical)
        self.writer = Writer(
            self._pending,
            settings,
            backend,
            self._aggregator,
            self.maintenance,
            self._known_users,
            self.journal,
            lambda: self._writing.is_asked,
        )
        self.first_thread = BackgroundThread[FlushRequest]("aggregator", self._aggregate, wanted=lambda: self.is_armed)
        self._writing = BackgroundThread[FlushRequest](
            "writer",
            self._write,
            wanted=lambda: self.is_armed,
            # At random: a deploy starts all processes of a fleet at once.
            first_pause=lambda: random.random() * settings.flush_interval,
        )

    # ---- captures

    def look_into_outbox(self) -> None:
        """Rows were committed there."""
        self.writer.outbox.is_asked = True
        self.arm()

    def confirm_users(self, users: Collection[UserId]) -> None:
        """A request of these users has ended: what it wrote is committed."""
        self._known_users.confirm(users)
        outbox = self.writer.outbox
        outbox.is_asked |= bool(outbox.waiting)

    # ---- threads

    def _aggregate(self, request: FlushRequest | None) -> Pause:
        """A cycle of the aggregator's thread."""
        done = False
        try:
            self._aggregator.aggregate(final=request is not None and request.final)
            done = True
        finally:
            if request is not None:
                if not done:
                    request.give(False)
                self._forward(request)
        self._ensure(self._writing)
        return END if request is not None and request.final else self._aggregator.pause

    def _forward(self, request: FlushRequest) -> None:
        self._writing.put(request)
        if not self._ensure(self._writing):
            self.serve_here()

    def _write(self, request: FlushRequest | None) -> Pause:
        """A cycle of the writer's thread."""
        if request is None:
            self.writer.write_all()
            return self.writer.pause
        try:
            self.writer.serve(request)
        finally:
            if request.final:
                self._is_closing = False
                if self._unread:  # captured meanwhile
                    self.arm()
        return END if request.final else self.writer.pause

    def serve_here(self) -> None:
        """As BasePipeline.serve_here."""
        for thread, cycle in ((self.first_thread, self._aggregate), (self._writing, self._write)):
            while (request := thread.take()) is not None:
                cycle(request)

    def start(self) -> bool:
        """As BasePipeline.start."""
        return self._ensure(self.first_thread) and self._ensure(self._writing)

    def relieve(self) -> None:
        """Revive threads, and do the work of threads that cannot run (uWSGI without `--enable-threads`)."""
        if not self.is_armed:
            return
        now, last_cycle = time.monotonic(), self.first_thread.last_cycle
        # A thread with a latest cycle is alive. This runs at the end of each request.
        if last_cycle is not None and now - last_cycle < STALE and self._writing.is_alive:
            return
        is_stale = now - (self._started if last_cycle is None else last_cycle) >= STALE
        if not is_stale and self.first_thread.is_alive and self._writing.is_alive:
            return
        if now - self._relieved < self._settings.flush_interval or not self._starting.acquire(False):
            return
        try:
            self._relieved = now
            self._ensure(self.first_thread)
            self._ensure(self._writing)
            # An aggregator at work is alive, and waits for something that this thread cannot give it.
            if is_stale and not self._aggregator.is_at_work:
                self._aggregator.aggregate(wait=False)
                if not in_event_loop():
                    self.writer.write(asked=True, wait=False)
        finally:
            self._starting.release()

    # ---- flush and shutdown

    def has_pending(self, *, final: bool) -> bool:
        """As BasePipeline.has_pending, in the order in which a use travels: none slips past."""
        return bool(self._unread or self._aggregator.is_at_work or self._pending.uses or self._pending.audits)

    def closed(self, request: FlushRequest) -> bool:
        """The answer to a final request; logs what is left."""
        pending = 0 if request.answer else self.stats().pending
        if pending:
            kept = self.journal is not None and self.journal.directory is not None
            where = "left in the journal" if kept else "unwritten"
            log.warning(
                "unwritten", "shut down with %s %s: %s", uses_text(pending), where, self.writer.retry.last_error
            )
        return bool(request.answer)

    # ---- figures

    @property
    def version(self) -> int:
        """Changes whenever a batch begins, changes or ends."""
        return self.writer.batcher.version

    def hold(self) -> AbstractContextManager[None]:
        """Keep all unwritten uses where they are."""
        return self.writer.batcher.hold()

    def unwritten_users(self) -> set[UserId]:
        """The users of captured uses that this process has not written."""
        self._aggregator.aggregate()
        return self.writer.batcher.users()

    def unwritten(self, users: Collection[UserId]) -> Unwritten:
        """The captured uses of a user, who may have several spellings, that this process has not written."""
        self._aggregator.aggregate()
        return self.writer.unwritten(users)

    def stats(self) -> Stats:
        """The figures of this process."""
        aggregator, writer, rejection = self._aggregator, self.writer, self.writer.rejection
        waiting, recovered = self._unread, self.maintenance.recovered
        last_cycle, ledger = self.first_thread.last_cycle, writer.ledger
        heartbeat = None
        if self.is_armed:
            heartbeat = max(time.monotonic() - (self._started if last_cycle is None else last_cycle), 0.0)
        outbox = writer.outbox
        return Stats(
            captured=aggregator.drained + waiting + outbox.moved,
            recovered=recovered.uses,
            written=writer.written + recovered.written,
            pending=waiting + self._pending.uses,
            dropped=aggregator.dropped + writer.dropped + recovered.dropped,
            rejected=aggregator.rejected + rejection.rejected + recovered.rejected + outbox.rejected,
            metadata_lost=aggregator.metadata_lost + rejection.metadata_lost + recovered.metadata_lost,
            outbox_pending=outbox.waiting,
            audited=writer.audited + recovered.audited,
            audit_pending=self._pending.audits,
            audit_lost=aggregator.audit_lost + rejection.audit_lost + recovered.audit_lost,
            retries=writer.retry.retries + recovered.retries,
            last_error=self._last_error,
            heartbeat=heartbeat,
            writer_id=None if ledger is None else str(ledger.writer_id),
        )

    @property
    def _last_error(self) -> str | None:
        for thread in (self.first_thread, self._writing):
            if thread.last_error is not None:
                return f"the {thread.name} failed: {describe(thread.last_error)}"
        return self.writer.retry.last_error or self.writer.retry.audit_problem
