"""Buffer, aggregator and writer as one: started by the first use, flushed, ended, started again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from usage_instrument.capture.registry import Catalog
from usage_instrument.events import Use, in_words
from usage_instrument.runtime.flush_request import FlushRequest
from usage_instrument.runtime.threads import allocate_lock
from usage_instrument.runtime.threads import start as start_thread
from usage_instrument.runtime.waiting import in_event_loop
from usage_instrument.settings import Settings
from usage_instrument.stats import Stats
from usage_instrument.typing import UserId

from .aggregator import Aggregator
from .backend import Backend
from .batcher import Unwritten
from .buffer import Buffer
from .journal import Journal
from .pending_counts import PendingCounts
from .recovery import Recovery
from .writer import Writer

logger = logging.getLogger("usage_instrument")

STALE = 30.0
"""Seconds without a look of the aggregator after which a request's end does the threads' work."""


class Pipeline:
    """What a tracker replaces as a whole in a forked child. Its construction takes no lock and does no I/O."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        catalog: Catalog,
        canonical: Callable[[UserId], UserId],
        armed_changed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._armed_changed = armed_changed
        self._arming = allocate_lock()
        self._closing = False
        self._relieved = 0.0
        self.armed = False
        """Whether the threads run, so that a capture needs to do no more than append."""
        self.buffer = Buffer()
        self._pending = PendingCounts(settings.max_pending)
        self.journal: Journal | None = None
        recover = None
        if settings.journal is not None:
            self.journal = Journal(
                settings.journal, backend.name, settings.journal_max_bytes, settings.max_pending, self._spill
            )
            recover = Recovery(settings.journal, backend.name, settings, canonical, backend.new_ledger).run
        self.writer = Writer(
            self._pending,
            settings,
            catalog,
            backend.open_store,
            backend.new_ledger,
            self.journal,
            recover,
            self._refill,
            self._ended,
        )
        self._aggregator = Aggregator(
            self.buffer, self._pending, settings, canonical, self._forward, self.journal, armed_changed
        )

    def sink(self, feature: str) -> Callable[[UserId], object] | None:
        """What takes plain uses with no further ado; None as long as a use has to start something first."""
        if self.journal is not None and self.journal.is_open:
            return self.journal.sink(feature)
        if self.armed and (self.journal is None or self.journal.is_refused):
            return self.buffer.plain(feature).append
        return None

    def take(self, feature: str, user: UserId) -> None:
        """A plain use, and what it has to start."""
        if self._journal_open():
            self.journal.sink(feature)(user)  # type: ignore[union-attr]
        else:
            self.buffer.plain(feature).append(user)
        self.arm()

    def record(self, use: Use) -> None:
        """A use that is more than its user."""
        if not self._journal_open() or not self.journal.put(use):  # type: ignore[union-attr]
            self.buffer.rich.append(use)
        self.arm()

    def _journal_open(self) -> bool:
        journal = self.journal
        if journal is None or journal.is_open:
            return journal is not None
        if self._closing or not journal.try_open():
            return False
        if self.armed:
            self._armed_changed()
        return True

    def _spill(self, feature: str, user: UserId) -> None:
        """From a journal that takes no more."""
        self.buffer.plain(feature).append(user)
        self.arm()

    def arm(self) -> None:
        """Start the threads. Never waits: whoever finds another thread at it has already appended, and goes on."""
        if self.armed or self._closing or not self._arming.acquire(False):
            return
        try:
            if not self.armed:
                self.armed = True  # first: a thread that is about to end looks at it last
                self._start_threads()
                self._armed_changed()
        except RuntimeError:  # no thread starts while the interpreter exits: the exit itself writes
            self.armed = False
            logger.debug("no thread could be started", exc_info=True)
        finally:
            self._arming.release()

    def _start_threads(self) -> None:
        """Those that do not run. Raises RuntimeError."""
        if self._aggregator.beat is None:
            self._aggregator.beat = time.monotonic()
            try:
                start_thread(lambda: self._aggregator.run(self._wanted))
            except BaseException:
                self._aggregator.beat = None
                raise
        self._start_writer()

    def _start_writer(self) -> None:
        if not self.writer.running:
            self.writer.running = True
            try:
                start_thread(lambda: self.writer.run(self._wanted))
            except BaseException:
                self.writer.running = False
                raise

    def _forward(self, request: FlushRequest) -> None:
        """From the aggregator to the writer, which may just have ended with an earlier request."""
        self.writer.wake(request)
        try:
            self._start_writer()
        except RuntimeError:
            self.writer.serve(request)

    def _wanted(self) -> bool:
        return self.armed

    def relieve(self) -> None:
        """Start threads that died, and do the work of threads that cannot run (uWSGI without `--enable-threads`)."""
        beat, now = self._aggregator.beat, time.monotonic()
        if not self.armed or (beat is not None and now - beat < STALE and self.writer.running):
            return
        if now - self._relieved < self._settings.flush_interval or not self._arming.acquire(False):
            return
        try:
            self._relieved = now
            self._start_threads()
            # A aggregator that has its turn is alive, and waits for something else than a turn of ours.
            if beat is not None and now - beat >= STALE and not self._aggregator.at_work:
                self._aggregator.aggregate(wait=False)
                if not in_event_loop():
                    self.writer.cycle(asked=True, wait=False)
        except RuntimeError:
            logger.debug("no thread could be started", exc_info=True)
        finally:
            self._arming.release()

    def ask(self, timeout: float, *, final: bool = False) -> FlushRequest:
        """A request on its way through the threads, or answered already when there is nothing to do."""
        request = FlushRequest(timeout, final=final)
        if not self.armed:
            # In the order of the way that a use takes: none can slip past.
            if not (self._unread or self._aggregator.at_work or self._pending.uses or self._pending.audits):
                request.give(True)
                return request
            self.arm()
        if final:
            self._closing, self.armed = True, False
            self._armed_changed()
        self._aggregator.wake(request)  # first: a thread that is about to end looks at its requests last
        try:
            self._start_threads()
        except RuntimeError:
            # The interpreter exits; what is left runs on the caller's thread.
            self._aggregator.aggregate(final=final)
            self.writer.serve(request)
        return request

    @property
    def _unread(self) -> int:
        return self.buffer.uses + (self.journal.unread if self.journal is not None else 0)

    def _refill(self) -> bool:
        """Fold what there was no room for before; False if that was nothing."""
        if not self._aggregator.held_up:
            return False
        self._aggregator.aggregate()
        return True

    def _ended(self) -> None:
        """A final request is served, whether or not anybody still waits for it: the next capture starts the threads
        again, and one that came while the last batch was on its way does so now."""
        self._closing = False
        if self._unread:
            self.arm()

    def unwritten(self, user: UserId) -> Unwritten:
        """What one user has used by now, as far as this process has not written it."""
        self._aggregator.aggregate()
        return self.writer.unwritten(user)

    def closed(self, request: FlushRequest) -> bool:
        """The answer of a final request."""
        pending = 0 if request.answer else self.stats().pending
        if pending:
            where = (
                "left in the journal"
                if self.journal is not None and self.journal.directory is not None
                else "unwritten"
            )
            logger.warning("shut down with %s %s: %s", in_words(pending), where, self.writer.retry.last_error)
        return bool(request.answer)

    def abandon(self) -> None:
        """In a forked child: leave what is here to the parent."""
        if self.journal is not None:
            self.journal.abandon()

    def stats(self) -> Stats:
        """The figures of this process."""
        aggregator, writer, waiting, recovered = (
            self._aggregator,
            self.writer,
            self._unread,
            self.writer.maintenance.recovered,
        )
        beat, ledger = aggregator.beat, writer.ledger
        return Stats(
            captured=aggregator.drained + waiting,
            recovered=recovered.uses,
            written=writer.written + recovered.written,
            pending=waiting + self._pending.uses,
            dropped=aggregator.dropped + writer.dropped + recovered.dropped,
            rejected=aggregator.rejected + writer.rejection.rejected + recovered.rejected,
            metadata_lost=aggregator.metadata_lost + writer.rejection.metadata_lost + recovered.metadata_lost,
            audited=writer.audited + recovered.audited,
            audit_pending=self._pending.audits,
            audit_lost=aggregator.audit_lost + writer.rejection.audit_lost + recovered.audit_lost,
            retries=writer.retry.retries + recovered.retries,
            last_error=writer.retry.last_error or writer.retry.standing,
            heartbeat=None if beat is None else max(time.monotonic() - beat, 0.0),
            writer_id=None if ledger is None else str(ledger.writer_id),
        )
