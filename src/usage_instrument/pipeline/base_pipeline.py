"""Takes uses into the journal or the buffer, and starts the threads that take them further."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from usage_instrument.events import Use
from usage_instrument.runtime import log
from usage_instrument.runtime.threads import BackgroundThread, allocate_lock
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from .buffer import Buffer
from .flush_request import FlushRequest
from .journal import Journal

STALE = 30.0
"""Seconds without a cycle of the first thread after which the end of a request does the threads' work."""


class BasePipeline(ABC):
    """Everything that a forked child replaces at once. Its construction takes no lock and does no I/O."""

    first_thread: BackgroundThread[FlushRequest]
    """The thread that takes uses and requests first."""

    def __init__(
        self, settings: Settings, database: str, sinks_changed: Callable[[], None], *, is_handed_over: bool = False
    ) -> None:
        self._settings = settings
        self._sinks_changed = sinks_changed
        self._starting = allocate_lock()
        self._started = self._relieved = 0.0
        self._is_closing = False
        self.is_armed = False
        """Whether the threads were started, so that a capture only has to append."""
        self.buffer = Buffer()
        self.journal: Journal | None = None
        if settings.journal is not None:
            self.journal = Journal(
                settings.journal,
                database,
                settings.journal_max_bytes,
                settings.max_pending,
                self._spill,
                settings.resend_max_bytes,
                is_handed_over=is_handed_over,
            )

    def sink(self, feature: str) -> Callable[[UserId], object] | None:
        """The function that takes plain uses of a feature; None if the next use has to start something first."""
        if self.journal is not None and self.journal.is_open:
            return self.journal.sink(feature)
        if self.is_armed and (self.journal is None or self.journal.is_refused):
            return self.buffer.plain(feature).append
        return None

    def take(self, feature: str, user: UserId) -> None:
        """Take a plain use, and start what it needs."""
        if self._open_journal():
            self.journal.sink(feature)(user)  # type: ignore[union-attr]
        else:
            self.buffer.plain(feature).append(user)
        self.arm()

    def record(self, use: Use) -> None:
        """Take a use that is more than its user."""
        if self.journal is None or not self._open_journal() or not self.journal.put(use):
            self.buffer.rich.append(use)
        if not (self.is_armed and self.first_thread.is_alive):
            self.arm()

    def _open_journal(self) -> bool:
        journal = self.journal
        if journal is None or journal.is_open:
            return journal is not None
        if self._is_closing or not journal.try_open():
            return False
        if self.is_armed:
            self._sinks_changed()
        return True

    def _spill(self, feature: str, user: UserId) -> None:
        """Take a use that the journal has no room for."""
        self.buffer.plain(feature).append(user)
        self.arm()

    @property
    def _unread(self) -> int:
        return self.buffer.uses + (self.journal.unread if self.journal is not None else 0)

    # ---- threads

    @abstractmethod
    def start(self) -> bool:
        """Start the threads that do not live; False while the interpreter exits."""

    @staticmethod
    def _ensure(thread: BackgroundThread[Any]) -> bool:
        """Start a thread unless it lives; False while the interpreter exits."""
        try:
            thread.ensure()
        except RuntimeError:
            log.debug("no thread could be started", exc_info=True)
            return False
        return True

    def arm(self) -> None:
        """Start the threads that do not live. Never waits: a capture beside another thread's start has appended."""
        if self.is_armed and self.first_thread.is_alive:
            return
        if self._is_closing or not self._starting.acquire(False):
            return
        try:
            was_armed, self.is_armed = self.is_armed, True  # before: a thread that ends looks at it last
            if not was_armed:
                self._started = time.monotonic()
            if not self.start():
                self.is_armed = False  # the exit itself writes
            elif not was_armed:
                self._sinks_changed()
        finally:
            self._starting.release()

    # ---- flush and shutdown

    def request_flush(self, timeout: float, *, final: bool = False) -> FlushRequest:
        """Send a request to the first thread; it is answered at once if there is nothing to do."""
        request = FlushRequest(timeout, final=final)
        if not self.is_armed:
            if not self.has_pending(final=final):
                request.give(True)
                return request
            self.arm()
        if final:
            self._is_closing, self.is_armed = True, False
            self._sinks_changed()
        self.first_thread.put(request)
        if not self._ensure(self.first_thread):
            self.serve_here()
        return request

    @abstractmethod
    def has_pending(self, *, final: bool) -> bool:
        """Whether a request has something to wait for."""

    @abstractmethod
    def serve_here(self) -> None:
        """Serve the requests on this thread: the interpreter exits, and no thread starts any more."""

    def abandon(self) -> None:
        """In a forked child: leave everything here to the parent."""
        if self.journal is not None:
            self.journal.abandon()
