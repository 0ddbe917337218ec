"""The writer of all processes of a host: takes the journals that they hand over, and writes them in batches of its own.

It moves the segments of a handed-over directory into its own journal, by one rename each. From then on they are like
its own: a snapshot has their uses before the database sees them, and if the collector is killed, the next one recovers
its journal. The emptied directory stays until the uses are committed, and its end is the acknowledgement.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from usage_instrument.capture.registry import Catalog
from usage_instrument.runtime import log
from usage_instrument.runtime.threads import END, BackgroundThread, Pause
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from .aggregator import INTERVAL, Aggregator
from .backend import Backend
from .buffer import Buffer
from .flush_request import FlushRequest
from .journal import (
    CollectorLock,
    CorruptJournalError,
    Directory,
    Journal,
    NewerJournalError,
    directories,
    has_snapshot,
    numbers,
)
from .known_users import KnownUsers
from .maintenance import Maintenance
from .pending_counts import PendingCounts
from .recovery import Recovery, declare_features
from .store import WriteError
from .writer import Writer

LOOK = INTERVAL
"""Seconds between two looks for what is handed over."""
_AFTER = LOOK / 2
"""Seconds after the moment at which the processes hand over."""

_PASSES = 2
"""Of a single run: the first recovers a killed collector, the second acknowledges what that had taken."""


class Collector:
    """Works below one root, alone, in a thread of its own until `stop`."""

    def __init__(self, root: str, backend: Backend, settings: Settings, canonical: Callable[[UserId], UserId]) -> None:
        self._settings = settings
        self._database = backend.name
        self._root = root
        self._lock = CollectorLock(root)
        self._pending = PendingCounts(settings.max_pending, settings.max_pending_bytes)
        self._journal = Journal(
            root,
            backend.name,
            settings.journal_max_bytes,
            settings.max_pending,
            lambda feature, user: None,
            settings.resend_max_bytes,
        )
        self._aggregator = Aggregator(Buffer(), self._pending, settings, canonical, self._journal)
        self._maintenance = Maintenance(
            Catalog(), settings, Recovery(root, backend.name, settings, canonical, is_collecting=True).run
        )
        self.writer = Writer(
            self._pending,
            settings,
            backend,
            self._aggregator,
            self._maintenance,
            KnownUsers(canonical),
            self._journal,
            lambda: self._thread.is_asked,
        )
        self._taken: list[Directory] = []
        self._next_flush = self._next_attempt = 0.0
        self._thread = BackgroundThread[FlushRequest]("collector", self._cycle)

    def acquire(self) -> bool:
        """Whether no other collector works below this root. Raises OSError."""
        return self._lock.acquire()

    def start(self) -> None:
        """Collect from now on."""
        self._thread.ensure()

    def stop(self, timeout: float) -> FlushRequest:
        """Take what is handed over, write it, and end."""
        request = FlushRequest(timeout, final=True)
        self._thread.put(request)
        self._thread.ensure()
        return request

    def run_once(self, timeout: float) -> bool:
        """Write what is there, and end, on this thread. True if nothing is left."""
        for _ in range(_PASSES):
            was_recovering = self._has_unrecovered()
            self._next_flush = self._next_attempt = 0.0
            self.collect()
            if self.writer.retry.is_failing or not was_recovering:
                break
        request = FlushRequest(timeout, final=True)
        self._end(request)
        return bool(request.answer) and not self._has_unrecovered()

    def _has_unrecovered(self) -> bool:
        """Whether a killed collector, or another dead writer, has left batches."""
        found = self._adopted()
        has_batches = any(map(has_snapshot, found))
        for directory in found:
            directory.release()
        return has_batches

    @property
    def recovered(self) -> int:
        """Uses written from journals of dead writers, as their own batches."""
        return self._maintenance.recovered.written

    def _cycle(self, request: FlushRequest | None) -> Pause:
        try:
            if request is not None:
                self._next_flush = self._next_attempt = 0.0
            self.collect()
        finally:
            if request is not None:
                self._end(request)
        return self._pause if request is None else END

    def _end(self, request: FlushRequest) -> None:
        try:
            self.writer.serve(request)
        finally:
            request.give(False)
            for directory in self._taken:  # the next collector acknowledges them
                directory.release()
            self._taken = []
            self._lock.release()

    @property
    def _pause(self) -> float:
        return LOOK - (time.monotonic() - _AFTER) % LOOK

    def collect(self) -> None:
        """Take what is handed over, write it, and acknowledge it."""
        self._lock.beat()
        if not self._journal.try_open():
            return
        self._take_over()
        now = time.monotonic()
        is_due = now >= self._next_flush
        if now < self._next_attempt or not (is_due or self._taken):
            return
        if is_due:
            self._next_flush = now + self._settings.flush_interval
            self.writer.outbox.is_asked = True
        self._aggregator.aggregate()
        self.writer.write_all()
        if self.writer.retry.is_failing:
            self._next_attempt = time.monotonic() + self.writer.pause
        elif not self._aggregator.held_up and not self._pending.counts and self.writer.batcher.is_sent:
            self._acknowledge()

    def _take_over(self) -> None:
        """Move the segments of all directories that are handed over, or of dead processes, and were never sent."""
        found = self._adopted()
        # A killed collector's are recovered first: what it had taken over is acknowledged only after that.
        is_recovering = any(map(has_snapshot, found))
        try:
            for directory in found:
                if not has_snapshot(directory) and (numbers(directory) or not is_recovering):
                    self._take(directory)
        finally:
            for directory in found:
                if directory not in self._taken:
                    directory.release()

    def _adopted(self) -> list[Directory]:
        """All directories that are handed over, or of dead writers, with their locks."""
        return [directory for path in directories(self._root) if (directory := self._adopt(path)) is not None]

    def _adopt(self, path: Path) -> Directory | None:
        """A directory that this collector may take over, with its lock."""
        directory = None
        try:
            directory = Directory.adopt(path)
            if directory is None:
                return None
            if directory.is_incomplete:
                directory.remove()
            elif directory.parked_reason is None:
                if directory.database in (None, "", self._database):
                    return directory
                log.warning(
                    ("database", path), "the journal %s is for %s, not for %s", path, directory.database, self._database
                )
        except OSError as error:
            log.warning(("adopted", path), "the journal %s cannot be read: %s", path, error)
        if directory is not None:
            directory.release()
        return None

    def _take(self, directory: Directory) -> None:
        try:
            self._journal.take_over(directory)
            self._taken.append(directory)
        except NewerJournalError as error:
            log.warning(("newer", directory.path), "a journal is left to a newer release: %s", error)
        except CorruptJournalError as error:
            log.warning(
                ("parked", directory.path),
                "the journal %s is parked, as it cannot be recovered: %s",
                directory.path,
                error,
            )
            directory.park(str(error))
        except OSError as error:
            log.warning(("taken", directory.path), "the journal %s cannot be taken over: %s", directory.path, error)

    def _acknowledge(self) -> None:
        """Declare the features of what is written, and delete the directories that it came from."""
        if not self._taken:
            return
        try:
            declare_features(self.writer.ready()[0], self._taken)
        except WriteError as error:
            if error.fault.is_transient:
                return
            log.warning("undeclared", "the catalogue was not written: %s", error)
        for directory in self._taken:
            with suppress(OSError):
                directory.remove()
        self._taken = []
