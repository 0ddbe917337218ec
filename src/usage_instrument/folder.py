"""The thread that never touches the database: drains every half second, stamps time, folds, keeps memory bounded."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from _queue import Empty, SimpleQueue  # the C one also under gevent, whose patched twin would need a hub
from _thread import allocate_lock
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from . import rejects
from .buffer import Buffer, Mishap
from .errors import MetadataError, UserIdError
from .events import NAME_LENGTH, Use, bucket_start, fitting_metadata
from .pending import Pending
from .settings import Settings
from .ticket import Ticket
from .typing import UserId

logger = logging.getLogger("usage_instrument")

INTERVAL = 0.5
"""Seconds between two drains: what a use's time is right to."""
_SAY_EVERY = 60.0


class Folder:
    """Drains the buffer into the pending counts."""

    def __init__(
        self,
        buffer: Buffer,
        pending: Pending,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        forward: Callable[[Ticket], None],
    ) -> None:
        self._buffer = buffer
        self._pending = pending
        self._settings = settings
        self._forward = forward
        self._canonical = canonical
        self._wake: SimpleQueue[Ticket] = SimpleQueue()
        self._turn = allocate_lock()
        self._alive = allocate_lock()
        self._stamp = 0
        self._said: dict[str, float] = {}
        self.drained = 0
        self.dropped = 0
        self.rejected = 0
        self.metadata_lost = 0
        self.beat: float | None = None
        """When it last looked, in monotonic seconds; None when no thread runs."""

    def wake(self, ticket: Ticket) -> None:
        """Fold at once and hand the ticket on to the writer; never waits."""
        self._wake.put(ticket)

    def run(self, wanted: Callable[[], bool]) -> None:
        """The thread's life; it ends with a final ticket, unless it is wanted again by then."""
        while self._alive.acquire(False):  # whoever comes second leaves it to the first
            try:
                self._live(wanted)
            finally:
                self.beat = None
                self._alive.release()
            # Whoever came before the line above has started no other thread.
            if self._wake.empty() and not wanted():
                return

    def _live(self, wanted: Callable[[], bool]) -> None:
        while True:
            self.beat = time.monotonic()
            try:
                ticket = self._wake.get(timeout=INTERVAL)
            except Empty:
                ticket = None
            self.fold()
            if ticket is not None:
                self._forward(ticket)
                if ticket.final and not wanted():
                    return

    @property
    def at_work(self) -> bool:
        """Whether uses may be in its hands: no longer in the buffer, and not yet pending."""
        return self._turn.locked()

    def fold(self, *, wait: bool = True) -> None:
        """Drain once. Without `wait`, not if somebody else is at it."""
        if not self._turn.acquire(wait):
            return
        try:
            self._fold()
        finally:
            self._turn.release()

    def _fold(self) -> None:
        drained = self._buffer.drain()
        if not any(drained):
            return
        # The wall clock may jump back; a key's last use may not.
        self._stamp = stamp = max(self._stamp, time.time_ns() // 1000)
        bucket = None
        if self._settings.history is not None:
            moment = dt.datetime.fromtimestamp(stamp / 1e6, dt.UTC).replace(tzinfo=None)
            bucket = bucket_start(moment, self._settings.history)
        for feature, users in drained.plain:
            self.drained += len(users)
            self._add(bucket, feature, Counter(users).items(), stamp)
        for use in drained.rich:
            self.drained += use.uses
            self._add_rich(bucket, use, stamp)
        for mishap in drained.mishaps:
            self.drained += mishap.uses
            self._book(mishap)

    def _add(self, bucket: dt.datetime | None, feature: str, uses: Iterable[tuple[UserId, int]], stamp: int) -> bool:
        known: Counter[UserId] = Counter()
        for user, number in uses:
            try:
                known[self._canonical(user)] += number
            except UserIdError as error:
                self._book(Mishap(feature, rejects.USER_TYPE, number, str(error)))
        with self._pending.lock:
            dropped = self._pending.counts.add(bucket, feature, known.items(), stamp, self._pending.room)
        if dropped:
            self.dropped += dropped
            self._lose(rejects.MEMORY, dropped)
            self._say(rejects.MEMORY, f"{self._pending.max_keys} keys wait for the database (max_pending)")
        return bool(known) and not dropped

    def _add_rich(self, bucket: dt.datetime | None, use: Use, stamp: int) -> None:
        metadata = self._metadata(use)
        if not self._add(bucket, use.feature, [(use.user, use.uses)], stamp) or not metadata:
            return
        key = (use.feature, self._canonical(use.user))
        with self._pending.lock:
            merged = self._pending.counts.annotate(key, metadata)
            if len(merged) > len(metadata) and self._size(merged) > self._settings.metadata_max_bytes:
                self._pending.counts.replace_metadata(key, metadata)

    def _metadata(self, use: Use) -> dict[str, Any] | None:
        """A use's metadata, if JSON and the bound on its size admit it."""
        if not use.metadata:
            return None
        try:
            text = fitting_metadata(use.metadata, self._settings.metadata_max_bytes)
        except MetadataError as error:
            self._book(Mishap(use.feature, str(error), 0, str(error)))
            return None
        return json.loads(text) if isinstance(use.metadata, str) else use.metadata

    @staticmethod
    def _size(metadata: dict[str, Any]) -> int:
        return len(json.dumps(metadata, separators=(",", ":")))

    def _book(self, mishap: Mishap) -> None:
        if mishap.uses:
            self.rejected += mishap.uses
            self._lose(mishap.reason, mishap.uses)
        else:
            self.metadata_lost += 1
        self._say(mishap.reason, f"{mishap.feature[:NAME_LENGTH]!r}: {mishap.detail}")

    def _lose(self, reason: str, uses: int) -> None:
        with self._pending.lock:
            self._pending.losses[rejects.today(), reason] += uses

    def _say(self, reason: str, detail: str) -> None:
        """One line a reason and minute: here, so that no capture ever waits for a log handler."""
        now = time.monotonic()
        if now >= self._said.get(reason, -_SAY_EVERY) + _SAY_EVERY:
            self._said[reason] = now
            logger.warning(
                "%s (dropped %d, rejected %d, metadata lost %d so far)",
                detail, self.dropped, self.rejected, self.metadata_lost,
            )  # fmt: skip
