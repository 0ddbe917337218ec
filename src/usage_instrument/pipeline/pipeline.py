"""Buffer, folder and writer as one: started by the first use, flushed, ended, started again."""

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

from .aggregator import Folder
from .backend import Backend
from .batcher import Unwritten
from .buffer import Buffer
from .journal import Journal
from .pending_counts import Pending
from .recovery import Recovery
from .writer import Writer

logger = logging.getLogger("usage_instrument")

STALE = 30.0
"""Seconds without a look of the folder after which a request's end does the threads' work."""


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
        self._pending = Pending(settings.max_pending)
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
        self._folder = Folder(
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
        if self._folder.beat is None:
            self._folder.beat = time.monotonic()
            try:
                start_thread(lambda: self._folder.run(self._wanted))
            except BaseException:
                self._folder.beat = None
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

    def _forward(self, ticket: FlushRequest) -> None:
        """From the folder to the writer, which may just have ended with an earlier ticket."""
        self.writer.wake(ticket)
        try:
            self._start_writer()
        except RuntimeError:
            self.writer.serve(ticket)

    def _wanted(self) -> bool:
        return self.armed

    def relieve(self) -> None:
        """Start threads that died, and do the work of threads that cannot run (uWSGI without `--enable-threads`)."""
        beat, now = self._folder.beat, time.monotonic()
        if not self.armed or (beat is not None and now - beat < STALE and self.writer.running):
            return
        if now - self._relieved < self._settings.flush_interval or not self._arming.acquire(False):
            return
        try:
            self._relieved = now
            self._start_threads()
            # A folder that has its turn is alive, and waits for something else than a turn of ours.
            if beat is not None and now - beat >= STALE and not self._folder.at_work:
                self._folder.fold(wait=False)
                if not in_event_loop():
                    self.writer.cycle(asked=True, wait=False)
        except RuntimeError:
            logger.debug("no thread could be started", exc_info=True)
        finally:
            self._arming.release()

    def ask(self, timeout: float, *, final: bool = False) -> FlushRequest:
        """A ticket on its way through the threads, or answered already when there is nothing to do."""
        ticket = FlushRequest(timeout, final=final)
        if not self.armed:
            # In the order of the way that a use takes: none can slip past.
            if not (self._unread or self._folder.at_work or self._pending.uses or self._pending.audits):
                ticket.give(True)
                return ticket
            self.arm()
        if final:
            self._closing, self.armed = True, False
            self._armed_changed()
        self._folder.wake(ticket)  # first: a thread that is about to end looks at its tickets last
        try:
            self._start_threads()
        except RuntimeError:
            # The interpreter exits; what is left runs on the caller's thread.
            self._folder.fold(final=final)
            self.writer.serve(ticket)
        return ticket

    @property
    def _unread(self) -> int:
        return self.buffer.uses + (self.journal.unread if self.journal is not None else 0)

    def _refill(self) -> bool:
        """Fold what there was no room for before; False if that was nothing."""
        if not self._folder.held_up:
            return False
        self._folder.fold()
        return True

    def _ended(self) -> None:
        """A final ticket is served, whether or not anybody still waits for it: the next capture starts the threads
        again, and one that came while the last batch was on its way does so now."""
        self._closing = False
        if self._unread:
            self.arm()

    def unwritten(self, user: UserId) -> Unwritten:
        """What one user has used by now, as far as this process has not written it."""
        self._folder.fold()
        return self.writer.unwritten(user)

    def closed(self, ticket: FlushRequest) -> bool:
        """The answer of a final ticket."""
        pending = 0 if ticket.answer else self.stats().pending
        if pending:
            where = (
                "left in the journal"
                if self.journal is not None and self.journal.directory is not None
                else "unwritten"
            )
            logger.warning("shut down with %s %s: %s", in_words(pending), where, self.writer.failures.last_error)
        return bool(ticket.answer)

    def abandon(self) -> None:
        """In a forked child: leave what is here to the parent."""
        if self.journal is not None:
            self.journal.abandon()

    def stats(self) -> Stats:
        """The figures of this process."""
        folder, writer, waiting, recovered = self._folder, self.writer, self._unread, self.writer.house.recovered
        beat, ledger = folder.beat, writer.ledger
        return Stats(
            captured=folder.drained + waiting,
            recovered=recovered.uses,
            written=writer.written + recovered.written,
            pending=waiting + self._pending.uses,
            dropped=folder.dropped + writer.dropped + recovered.dropped,
            rejected=folder.rejected + writer.mending.rejected + recovered.rejected,
            metadata_lost=folder.metadata_lost + writer.mending.metadata_lost + recovered.metadata_lost,
            audited=writer.audited + recovered.audited,
            audit_pending=self._pending.audits,
            audit_lost=folder.audit_lost + writer.mending.audit_lost + recovered.audit_lost,
            retries=writer.failures.retries + recovered.retries,
            last_error=writer.failures.last_error or writer.failures.standing,
            heartbeat=None if beat is None else max(time.monotonic() - beat, 0.0),
            writer_id=None if ledger is None else str(ledger.writer_id),
        )
