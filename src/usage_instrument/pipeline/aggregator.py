"""The thread that never touches the database: drains every half second, stamps time, folds, keeps memory bounded."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from _queue import Empty, SimpleQueue  # the C one also under gevent, whose patched twin would need a hub
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from usage_instrument.audit.record import recordable
from usage_instrument.errors import MetadataError, UserIdError
from usage_instrument.events import NAME_LENGTH, Access, Use, bucket_start, fitting_metadata, in_words
from usage_instrument.runtime.flush_request import FlushRequest
from usage_instrument.runtime.threads import allocate_lock
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from . import losses
from .buffer import Buffer, CaptureFailure, Drained
from .journal import Chunk, CorruptJournalError, Journal
from .pending_counts import PendingCounts, size_of

logger = logging.getLogger("usage_instrument")

_PIECE = 2**16
"""Slots of the journal that are aggregated at a time."""
INTERVAL = 0.5
"""Seconds between two drains: what a use's time is right to."""
_SAY_EVERY = 60.0


class Aggregator:
    """Drains the buffer into the pending counts."""

    def __init__(
        self,
        buffer: Buffer,
        pending: PendingCounts,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        forward: Callable[[FlushRequest], None],
        journal: Journal | None = None,
        sinks_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._buffer = buffer
        self._journal = journal
        self._sinks_changed = sinks_changed
        self._pending = pending
        self._settings = settings
        self._forward = forward
        self._canonical = canonical
        self._wake: SimpleQueue[FlushRequest] = SimpleQueue()
        self._turn = allocate_lock()
        self._alive = allocate_lock()
        self._stamp = 0
        self._said: dict[str, float] = {}
        self._sayings: list[str] = []
        self.drained = 0
        self.dropped = 0
        self.rejected = 0
        self.metadata_lost = 0
        self.audit_lost = 0
        self.held_up = False
        """Whether the journal holds more, for which there was no room in memory."""
        self.beat: float | None = None
        """When it last looked, in monotonic seconds; None when no thread runs."""

    def wake(self, request: FlushRequest) -> None:
        """Fold at once and hand the request on to the writer; never waits."""
        self._wake.put(request)

    def run(self, wanted: Callable[[], bool]) -> None:
        """The thread's life; it ends with a final request, unless it is wanted again by then."""
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
                busy = self._journal is not None and self._journal.is_busy
                request = self._wake.get(timeout=INTERVAL / 16 if busy else INTERVAL)
            except Empty:
                request = None
            self.aggregate(final=request is not None and request.final)
            if request is not None:
                self._forward(request)
                if request.final and not wanted():
                    return

    @property
    def at_work(self) -> bool:
        """Whether uses may be in its hands: no longer in the buffer, and not yet pending."""
        return self._turn.locked()

    def aggregate(self, *, wait: bool = True, final: bool = False) -> None:
        """Drain once. Without `wait`, not if somebody else is at it. A final one lets the journal take no more."""
        if not self._turn.acquire(wait):
            return
        try:
            # The wall clock may jump back. Then later uses have an earlier time, and `last_used` keeps the latest.
            self._stamp = time.time_ns() // 1000
            if self._journal is not None:
                self._fold_journal(self._journal, final)
            drained = self._buffer.drain()
            if any(drained):
                with self._pending.lock:
                    self._fold(drained, self._stamp)
            self._say_all()
        finally:
            self._turn.release()

    def _fold_journal(self, journal: Journal, final: bool) -> None:
        if final:
            journal.seal(self._stamp)
            self._sinks_changed()
        elif journal.tick(self._stamp):
            self._sinks_changed()
        self.held_up = False
        taken: Chunk | None = Chunk([], None)
        while taken is not None:
            # Together: the writer takes counts and positions that belong to each other.
            with self._pending.lock:
                try:
                    taken = journal.take(_PIECE, self._has_room)
                    if taken is not None:
                        self._fold_entries(taken)
                except (CorruptJournalError, OSError) as error:
                    self._give_up(journal, error)
                self._pending.positions = journal.positions

    def _give_up(self, journal: Journal, error: Exception) -> None:
        """What cannot be read any more, because somebody else touched the files."""
        uses = journal.skip_unreadable()
        self.drained += uses
        self.dropped += uses
        self._lose(losses.JOURNAL, uses)
        self._say(losses.JOURNAL, f"{in_words(uses)} lost in the journal: {error}")

    def _has_room(self, taken: Chunk) -> bool:
        room = self._pending.room
        self.held_up = len(taken.entries) > room and self._new_keys(taken) > room
        return not self.held_up

    def _new_keys(self, taken: Chunk) -> int:
        bucket, counts = self._bucket(self._stamp_of(taken)), self._pending.counts
        accesses = sum(isinstance(entry, Use) and entry.access is not None for entry, _ in taken.entries)
        return accesses + sum(counts.lacks(bucket, entry[0], self._known(entry[1])) for entry, _ in taken.entries)

    def _known(self, user: UserId) -> UserId:
        try:
            return self._canonical(user)
        except UserIdError:
            return None

    def _stamp_of(self, taken: Chunk) -> int:
        return self._stamp if taken.stamp is None else taken.stamp

    def _fold_entries(self, taken: Chunk) -> None:
        stamp = self._stamp_of(taken)
        bucket = self._bucket(stamp)
        for entry, number in taken.entries:
            if isinstance(entry, Use):
                self.drained += entry.uses * number
                self._add_rich(bucket, entry, stamp)
            else:
                feature, user = entry
                self.drained += number
                self._add(bucket, feature, ((user, number),), stamp)

    def _bucket(self, stamp: int) -> dt.datetime | None:
        if self._settings.history is None:
            return None
        moment = dt.datetime.fromtimestamp(stamp / 1e6, dt.UTC).replace(tzinfo=None)
        return bucket_start(moment, self._settings.history)

    def _fold(self, drained: Drained, stamp: int) -> None:
        bucket = self._bucket(stamp)
        for feature, users in drained.plain:
            self.drained += len(users)
            self._add(bucket, feature, Counter(users).items(), stamp)
        for use in drained.rich:
            self.drained += use.uses
            self._add_rich(bucket, use, stamp)
        for failure in drained.failures:
            self.drained += failure.uses
            self._book(failure)

    def _add(self, bucket: dt.datetime | None, feature: str, uses: Iterable[tuple[UserId, int]], stamp: int) -> bool:
        known: Counter[UserId] = Counter()
        for user, number in uses:
            try:
                known[self._canonical(user)] += number
            except UserIdError as error:
                self._book(CaptureFailure(feature, losses.USER_TYPE, number, str(error)))
        dropped = self._pending.counts.add(bucket, feature, known.items(), stamp, self._pending.room)
        if dropped:
            self.dropped += dropped
            self._lose(losses.MEMORY, dropped)
            self._say(losses.MEMORY, f"{self._pending.max_keys} keys wait for the database (max_pending)")
        return bool(known) and not dropped

    def _add_rich(self, bucket: dt.datetime | None, use: Use, stamp: int) -> None:
        if use.access is not None:
            self._add_access(use, use.access)
        if not use.uses:
            return
        metadata = self._metadata(use)
        if not self._add(bucket, use.feature, [(use.user, use.uses)], stamp) or not metadata:
            return
        key = (use.feature, self._canonical(use.user))
        merged = self._pending.counts.annotate(key, metadata)
        if len(merged) > len(metadata) and size_of(merged) > self._settings.metadata_max_bytes:
            self._pending.counts.replace_metadata(key, metadata)

    def _add_access(self, use: Use, access: Access) -> None:
        if self._pending.room <= 0:
            self.audit_lost += 1
            self._lose(losses.ACCESS, 1)
            self._say(losses.ACCESS, f"{self._pending.max_keys} keys wait for the database (max_pending)")
            return
        self._pending.accesses.append(recordable(use, access, self._canonical, self._settings.metadata_max_bytes))

    def _metadata(self, use: Use) -> dict[str, Any] | None:
        """A use's metadata, if JSON and the bound on its size admit it."""
        if not use.metadata:
            return None
        try:
            text = fitting_metadata(use.metadata, self._settings.metadata_max_bytes)
        except MetadataError as error:
            self._book(CaptureFailure(use.feature, str(error), 0, str(error)))
            return None
        return json.loads(text) if isinstance(use.metadata, str) else use.metadata

    def _book(self, failure: CaptureFailure) -> None:
        if failure.uses:
            self.rejected += failure.uses
            self._lose(failure.reason, failure.uses)
        else:
            self.metadata_lost += 1
        self._say(failure.reason, f"{failure.feature[:NAME_LENGTH]!r}: {failure.detail}")

    def _lose(self, reason: str, uses: int) -> None:
        self._pending.losses[losses.today(), reason] += uses

    def _say(self, reason: str, detail: str) -> None:
        """One line a reason and minute: here, so that no capture ever waits for a log handler."""
        now = time.monotonic()
        if now >= self._said.get(reason, -_SAY_EVERY) + _SAY_EVERY:
            self._said[reason] = now
            lost = f"dropped {self.dropped}, rejected {self.rejected}, metadata lost {self.metadata_lost} so far"
            self._sayings.append(f"{detail} ({lost})")

    def _say_all(self) -> None:
        """Outside of the lock, for which no log handler should make the writer wait."""
        sayings, self._sayings = self._sayings, []
        for saying in sayings:
            logger.warning("%s", saying)
