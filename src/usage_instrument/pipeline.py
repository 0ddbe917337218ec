"""Buffer, folder and writer as one: started by the first use, flushed, ended, started again."""

from __future__ import annotations

import logging
import time
from _thread import allocate_lock
from collections.abc import Callable

from . import lifecycle
from .buffer import Buffer
from .catalog import Catalog
from .events import in_words
from .folder import Folder
from .ledger import Ledger
from .pending import Pending
from .settings import Settings
from .stats import Stats
from .store import Store
from .ticket import Ticket
from .typing import UserId
from .writer import Writer

logger = logging.getLogger("usage_instrument")

STALE = 30.0
"""Seconds without a look of the folder after which a request's end does the threads' work."""


class Pipeline:
    """What a tracker replaces as a whole in a forked child. Its construction takes no lock and does no I/O."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        canonical: Callable[[UserId], UserId],
        open_store: Callable[[], Store],
        new_ledger: Callable[[], Ledger],
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
        self.writer = Writer(self._pending, settings, catalog, open_store, new_ledger)
        self._folder = Folder(self.buffer, self._pending, settings, canonical, self._forward)

    def arm(self) -> None:
        """Start the threads. Never waits: whoever finds another thread at it has already appended, and goes on."""
        if self._closing or not self._arming.acquire(False):
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
                lifecycle.start_thread(lambda: self._folder.run(self._wanted))
            except BaseException:
                self._folder.beat = None
                raise
        self._start_writer()

    def _start_writer(self) -> None:
        if not self.writer.running:
            self.writer.running = True
            try:
                lifecycle.start_thread(lambda: self.writer.run(self._wanted))
            except BaseException:
                self.writer.running = False
                raise

    def _forward(self, ticket: Ticket) -> None:
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
            if beat is not None and now - beat >= STALE:
                self._folder.fold(wait=False)
                self.writer.cycle(wait=False)
        except RuntimeError:
            logger.debug("no thread could be started", exc_info=True)
        finally:
            self._arming.release()

    def ask(self, timeout: float, *, final: bool = False) -> Ticket | None:
        """A ticket on its way through the threads; None when there is nothing to do."""
        if not self.armed:
            # In the order of the way that a use takes: none can slip past.
            if not (self.buffer.uses or self._folder.at_work or self._pending.uses):
                return None
            self.arm()
        ticket = Ticket(timeout, final=final)
        if final:
            self._closing, self.armed = True, False
            self._armed_changed()
        self._folder.wake(ticket)  # first: a thread that is about to end looks at its tickets last
        try:
            self._start_threads()
        except RuntimeError:
            # The interpreter exits; what is left runs on the caller's thread.
            self._folder.fold()
            self.writer.serve(ticket)
        return ticket

    def closed(self, ticket: Ticket) -> bool:
        """The end of a final ticket: from now on, the next capture starts the threads again."""
        self._closing = False
        if not ticket.answer:
            logger.warning("shut down with %s unwritten: %s", in_words(self.stats().pending), self.writer.last_error)
        elif self.buffer.uses:  # captured while the last batch was on its way
            self.arm()
        return bool(ticket.answer)

    def stats(self) -> Stats:
        """The figures of this process."""
        folder, writer, waiting = self._folder, self.writer, self.buffer.uses
        beat, ledger = folder.beat, writer.ledger
        return Stats(
            captured=folder.drained + waiting,
            written=writer.written,
            pending=waiting + self._pending.uses,
            dropped=folder.dropped + writer.dropped,
            rejected=folder.rejected + writer.rejected,
            metadata_lost=folder.metadata_lost + writer.metadata_lost,
            retries=writer.retries,
            last_error=writer.last_error,
            heartbeat=None if beat is None else max(time.monotonic() - beat, 0.0),
            writer_id=None if ledger is None else str(ledger.writer_id),
        )
