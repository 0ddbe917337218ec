"""Turns captured uses into pending counts, without touching the database: stamps, aggregates, bounds memory."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from usage_instrument.audit.record import recordable
from usage_instrument.capture.call_arguments import log_lost_key
from usage_instrument.errors import MetadataError, UserIdError, describe
from usage_instrument.events import (
    NAME_LENGTH,
    Access,
    Exposure,
    Loss,
    Use,
    bucket_start,
    fitting_metadata,
    is_exposure,
    slices_of,
    uses_text,
)
from usage_instrument.runtime import log
from usage_instrument.runtime.threads import allocate_lock
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId

from . import losses
from .buffer import Buffer, CaptureFailure, Drained
from .journal import Chunk, CorruptJournalError, Entry, Journal
from .pending_counts import ACCESS_OVERHEAD, SLICE_BYTES, PendingCounts, size_of, size_of_access

_PLAIN = Use("", None)[2:]
"""A use of `track` with nothing but its feature and its user."""
_CHUNK = 2**16
"""Slots of the journal that are aggregated at a time."""
INTERVAL = 0.5
"""Seconds between two cycles, and so the precision of a use's time."""
BUSY_INTERVAL = INTERVAL / 16
"""Seconds between two cycles while captures fill the journal fast."""


class Aggregator:
    """Drains the buffer and reads the journal into the pending counts; its thread runs a cycle every half second."""

    def __init__(
        self,
        buffer: Buffer,
        pending: PendingCounts,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        journal: Journal | None = None,
        sinks_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._buffer = buffer
        self._pending = pending
        self._settings = settings
        self._canonical = canonical
        self._journal = journal
        self._sinks_changed = sinks_changed
        self._turn = allocate_lock()
        self._stamp = 0
        self._warnings: dict[str, str] = {}
        self.drained = 0
        self.dropped = 0
        self.rejected = 0
        self.metadata_lost = 0
        self.audit_lost = 0
        self._lacks_room = False
        self.held_up = False
        """Whether the latest complete cycle left uses in the journal, as memory had no room for them."""

    @property
    def is_at_work(self) -> bool:
        """Whether uses may have left the buffer without being pending yet."""
        return self._turn.locked()

    @property
    def pause(self) -> float:
        """Seconds until the next cycle."""
        return BUSY_INTERVAL if self._journal is not None and self._journal.is_busy else INTERVAL

    def aggregate(self, *, wait: bool = True, final: bool = False) -> None:
        """Run one cycle. Without `wait`, return at once if another thread runs one. `final` closes the journal."""
        if not self._turn.acquire(wait):
            return
        try:
            # If the wall clock jumps back, later uses have an earlier time, and `last_used` keeps the latest.
            self._stamp = time.time_ns() // 1000
            if self._journal is not None:
                self._read_journal(self._journal, final)
            drained = self._buffer.drain()
            if any(drained):
                with self._pending.lock:
                    self._add_drained(drained)
        finally:
            warnings, self._warnings = self._warnings, {}
            self._turn.release()
        for reason, detail in warnings.items():  # without the locks: a log handler may be slow
            lost = f"dropped {self.dropped}, rejected {self.rejected}, metadata lost {self.metadata_lost} so far"
            log.warning(("lost", reason), "%s (%s)", detail, lost)

    def _read_journal(self, journal: Journal, final: bool) -> None:
        if final:
            journal.seal(self._stamp)
            self._sinks_changed()
        elif journal.tick(self._stamp):
            self._sinks_changed()
        self._lacks_room = False
        chunk: Chunk | None = Chunk([], None)
        while chunk is not None:
            # In one step: the writer takes counts together with the positions that they were read at.
            with self._pending.lock:
                try:
                    chunk = journal.take(_CHUNK, self._has_room)
                    if chunk is not None:
                        self._add_chunk(chunk)
                except (CorruptJournalError, OSError) as error:  # other processes changed the files
                    uses = journal.skip_unreadable()
                    self.drained += uses
                    self._drop(losses.JOURNAL, uses, f"{uses_text(uses)} lost in the journal: {error}")
                self._pending.positions = journal.positions
        self.held_up = self._lacks_room  # not before: the writer would take a cycle at work for a complete one

    def _has_room(self, chunk: Chunk) -> bool:
        room = self._pending.room
        self._lacks_room = (len(chunk.entries) > room and self._new_keys(chunk) > room) or not self._has_bytes(chunk)
        return not self._lacks_room

    def _has_bytes(self, chunk: Chunk) -> bool:
        pending = self._pending.bytes  # 0: the chunk is as large as it is, and must be read at some time
        size = sum(_size_of(entry) for entry, _ in chunk.entries if isinstance(entry, Use))
        return not pending or not size or pending + size <= self._pending.max_bytes

    def _new_keys(self, chunk: Chunk) -> int:
        stamp, counts = self._stamp_of(chunk), self._pending.counts
        bucket = self._bucket(stamp)
        accesses = sum(isinstance(entry, Use) and entry.access is not None for entry, _ in chunk.entries)
        return accesses + sum(
            counts.lacks(self._bucket_of(entry, bucket), entry[0], self._known(entry[1]))
            for entry, _ in chunk.entries
            if not isinstance(entry, Loss)
        )

    def _bucket_of(self, entry: Entry, bucket: dt.datetime | None) -> dt.datetime | None:
        """The bucket of a use: that of its own time, if a transaction kept it for a while."""
        return self._bucket(entry.at) if isinstance(entry, Use) and entry.at is not None else bucket

    def _known(self, user: UserId) -> UserId:
        try:
            return self._canonical(user)
        except UserIdError:
            return None

    def _stamp_of(self, chunk: Chunk) -> int:
        return self._stamp if chunk.stamp is None else chunk.stamp

    def _bucket(self, stamp: int) -> dt.datetime | None:
        if self._settings.history is None:
            return None
        return bucket_start(_moment(stamp), self._settings.history)

    def _add_chunk(self, chunk: Chunk) -> None:
        stamp = self._stamp_of(chunk)
        bucket = self._bucket(stamp)
        for entry, number in chunk.entries:
            if isinstance(entry, Use):
                self.drained += entry.uses * number
                self._add_rich(bucket, entry, stamp)
            elif isinstance(entry, Loss):
                self._pending.losses[entry.day, entry.reason] += entry.uses * number
            else:
                feature, user = entry
                self.drained += number
                self._add(bucket, feature, ((user, number),), stamp)

    def _add_drained(self, drained: Drained) -> None:
        bucket = self._bucket(self._stamp)
        plain = dict(drained.plain)
        for use in drained.rich:
            if use[2:] == _PLAIN:
                plain.setdefault(use.feature, []).append(use.user)
            else:
                self.drained += use.uses
                self._add_rich(bucket, use, self._stamp)
        for feature, users in plain.items():
            self.drained += len(users)
            self._add(bucket, feature, Counter(users).items(), self._stamp)
        for failure in drained.failures:
            self.drained += failure.uses
            self._fail(failure)

    def _add(self, bucket: dt.datetime | None, feature: str, uses: Iterable[tuple[UserId, int]], stamp: int) -> bool:
        """Add plain uses; False if none of them was kept."""
        counts = self._pending.counts
        before = counts.uses
        dropped = counts.add(bucket, feature, self._known_pairs(feature, uses), stamp, self._pending.room)
        if dropped:
            self._drop(losses.MEMORY, dropped, self._full)
        return counts.uses > before and not dropped

    def _known_pairs(self, feature: str, uses: Iterable[tuple[UserId, int]]) -> Iterator[tuple[UserId, int]]:
        canonical = self._canonical
        for user, number in uses:
            try:
                known = canonical(user)
            except Exception as error:  # a subclass of the host's may raise anything
                self._fail(CaptureFailure(feature, losses.USER_TYPE, number, describe(error)))
            else:
                yield known, number

    def _add_rich(self, bucket: dt.datetime | None, use: Use, stamp: int) -> None:
        if use.access is not None:
            self._add_access(use, use.access)
        if not use.uses:
            return
        if use.at is not None:
            bucket, stamp = self._bucket(use.at), use.at
        metadata = self._metadata(use)
        if not self._add(bucket, use.feature, [(use.user, use.uses)], stamp):
            return
        if use.dimensions or use.value is not None:
            self._add_slices(use, stamp)
        if not metadata:
            return
        if self._pending.bytes + size_of(metadata) > self._pending.max_bytes:
            self._fail(CaptureFailure(use.feature, "metadata bytes", 0, f"metadata lost: {self._too_large}"))
        else:
            key = (use.feature, self._canonical(use.user))
            self._pending.counts.merge_metadata(key, metadata, self._settings.metadata_max_bytes)

    def _add_slices(self, use: Use, stamp: int) -> None:
        slices = slices_of(use, _day(stamp))
        if self._pending.bytes + SLICE_BYTES * len(slices) > self._pending.max_bytes:
            self._fail(CaptureFailure(use.feature, "dimensions", 0, f"dimensions and value lost: {self._too_large}"))
        else:
            self._pending.counts.add_slices((use.feature, self._canonical(use.user)), slices)

    def _add_access(self, use: Use, access: Access) -> None:
        recorded = recordable(use, access, self._canonical, self._settings.metadata_max_bytes)
        size = size_of_access(recorded)
        has_bytes = self._pending.bytes + size <= self._pending.max_bytes
        if self._pending.room <= 0 or not has_bytes:
            self.audit_lost += 1
            self._lose(losses.ACCESS, 1, self._full if has_bytes else self._too_large)
            return
        self._pending.accesses.append(recorded)
        self._pending.access_bytes += size

    def _metadata(self, use: Use) -> str | None:
        """A use's metadata as JSON text, unless it is no JSON or too large."""
        if not use.metadata:
            return None
        try:
            return fitting_metadata(use.metadata, self._settings.metadata_max_bytes, log_lost_key)
        except MetadataError as error:
            self._fail(CaptureFailure(use.feature, "metadata", 0, str(error)))
            return None

    @property
    def _full(self) -> str:
        return f"{self._pending.max_keys} keys wait for the database (max_pending)"

    @property
    def _too_large(self) -> str:
        return f"{self._pending.max_bytes} bytes wait for the database (max_pending_bytes)"

    def _fail(self, failure: CaptureFailure) -> None:
        detail = detail_of(failure)
        if failure.uses:
            self.rejected += failure.uses
            self._lose(failure.reason, failure.uses, detail)
        else:
            self.metadata_lost += 1
            self._warnings.setdefault(failure.reason, detail)

    def _drop(self, reason: str, uses: int, detail: str) -> None:
        self.dropped += uses
        self._lose(reason, uses, detail)

    def _lose(self, reason: str, uses: int, detail: str) -> None:
        self._pending.losses[losses.today(), reason] += uses
        self._warnings.setdefault(reason, detail)


def detail_of(failure: CaptureFailure) -> str:
    """A failure for the log."""
    name = Exposure.of(failure.feature).experiment if is_exposure(failure.feature) else failure.feature
    return f"{name[:NAME_LENGTH]!r}: {failure.detail}"


def _moment(stamp: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(stamp / 1e6, dt.UTC).replace(tzinfo=None)


def _day(stamp: int) -> dt.datetime:
    """Dimensions are kept by day, whatever the grain of the history."""
    return bucket_start(_moment(stamp), "day")


def _size_of(use: Use) -> int:
    """About the bytes that a use of the journal takes in memory."""
    metadata = use.metadata if isinstance(use.metadata, str) or use.metadata is None else json.dumps(use.metadata)
    size = size_of(metadata) + SLICE_BYTES * (len(use.dimensions or ()) + (use.value is not None))
    return size if use.access is None else size + ACCESS_OVERHEAD
