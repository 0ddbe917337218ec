"""A writer's journal: the segment that captures fill, the one they fill next, and the snapshot."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

from usage_instrument.events import Batch, Loss, Use
from usage_instrument.runtime import log
from usage_instrument.runtime.threads import allocate_lock, get_ident
from usage_instrument.runtime.waiting import in_greenlets
from usage_instrument.typing import UserId

from . import archive, snapshot
from .directory import Directory, directories
from .segment import Chunk, Segment, numbers
from .snapshot import ReadPosition, SavedSnapshot

_SLOTS, _SLOTS_MIN = 2**20, 2**10
"""Slots of a segment."""
_DICTIONARY_BYTES = 2**22
"""Bytes of dictionary after which the next segment begins."""
_RETRY = 60.0
"""Seconds until the journal is opened again after the disk refused it."""
_BUSY = 1 / 16
"""The share of a segment between two ticks from which on the aggregator reads more often."""
_PATIENCE = 5.0
"""Seconds that a first use waits while another thread opens the journal."""


class Journal:
    """Opened by the first use, then filled by any thread without a lock, and read by the aggregator alone.

    While the disk refuses it, uses stay in memory as if there were no journal, and the log reports it.
    """

    def __init__(
        self,
        root: str,
        database: str,
        max_bytes: int,
        max_keys: int,
        spill: Callable[[str, UserId], object],
        archive_max_bytes: int = 0,
        *,
        is_handed_over: bool = False,
    ) -> None:
        self.root = root
        self._is_handed_over = is_handed_over
        """Whether a collector writes it. Then `max_bytes` is the bound of everything below the root."""
        self._database = database
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._archive_max_bytes = archive_max_bytes
        self._slots = max(min(_SLOTS, max_bytes // 32), _SLOTS_MIN)
        self._spill = spill
        self._opening = allocate_lock()
        self._openers: set[int] = set()
        """Threads that open or delete the journal."""
        self._refused_at: float | None = None
        self._segments: list[Segment] = []
        self._current: Segment | None = None
        self._next_number = 0
        self._is_rotating = False
        self.is_erased: Callable[[UserId], bool] = lambda user: False
        """Users that the journal must not name any more: their uses stay in memory."""
        self.directory: Directory | None = None
        self.is_busy = False
        """Whether slots fill so fast that the aggregator must read more often."""

    @classmethod
    def load(
        cls, directory: Directory, root: str, max_bytes: int, archive_max_bytes: int = 0
    ) -> tuple[Journal, SavedSnapshot | None]:
        """The journal of a dead writer, to be read. Raises CorruptJournalError, OSError."""
        journal = cls(root, directory.database or "", max_bytes, 0, lambda feature, user: None, archive_max_bytes)
        journal.directory = directory
        saved = snapshot.load(directory)
        positions = {position.segment: position for position in saved.held.positions} if saved is not None else {}
        for number in numbers(directory):
            journal._segments.append(Segment.load(directory, number, positions.get(number)))
            journal._next_number = number + 1
        return journal, saved

    # ---- captures

    @property
    def is_open(self) -> bool:
        """Whether it takes uses."""
        return self._current is not None

    @property
    def is_refused(self) -> bool:
        """Whether the disk refused it, so that uses stay in memory for now."""
        return self._refused_at is not None

    @property
    def writer_id(self) -> UUID | None:
        """Its writer; None before it was first opened."""
        return self.directory.writer_id if self.directory is not None else None

    def try_open(self) -> bool:
        """Make the directory and its first segments; False if uses stay in memory. Waits for another thread that is
        at it, never for itself: a signal handler or a destructor may interrupt the opening."""
        if self._current is not None:
            return True
        if self._refused_at is not None and time.monotonic() < self._refused_at + _RETRY:
            return False
        thread = get_ident()
        if thread in self._openers:
            return False
        self._openers.add(thread)
        try:
            # A real lock would stop the hub of the greenlets.
            if self._opening.acquire(timeout=0.0 if in_greenlets() else _PATIENCE):
                try:
                    self._open()
                finally:
                    self._opening.release()
        finally:
            self._openers.discard(thread)
        return self._current is not None

    def _open(self) -> None:
        if self._current is not None:
            return
        try:
            segment = self._begin()
        except OSError as error:
            self._refused_at = time.monotonic()
            self._report(error)
        else:
            self._current, self._refused_at = segment, None

    def _begin(self) -> Segment:
        """Raises OSError."""
        if self.directory is None:
            self.directory = Directory.create(self.root, uuid4(), self._database)
        segment = self._make()
        if not self._is_handed_over:  # else it is soon replaced, and the next segment waits for a need
            segment.after = self._make_if_possible()
        return segment

    def sink(self, feature: str) -> Callable[[UserId], object]:
        """A function that takes a plain use of this feature."""
        segment = self._current
        if segment is None or segment.is_sealed:
            return lambda user: self._overflow(feature, user)
        return segment.sink(feature, self._overflow)

    def put(self, entry: Use | Loss) -> bool:
        """Take a use with its details, or a loss; False if it cannot be kept here."""
        segment = self._current
        while segment is not None:
            if segment.put(entry):
                return True
            segment = segment.after
        return False

    def _overflow(self, feature: str, user: UserId) -> None:
        """Take a use whose segment is full or sealed. The aggregator replaces the sink within half a second."""
        if not self.put(Use(feature, user)):
            self._spill(feature, user)

    # ---- the aggregator

    def tick(self, stamp: int) -> bool:
        """Record the time (microseconds since 1970), and go on to the next segment if this one is used up. True if
        sinks must be replaced."""
        segment = self._current
        if segment is None:
            return self._refused_at is not None and self.try_open()
        self.is_busy = segment.tick(stamp) > _BUSY
        after = segment.after
        if after is None and (not self._is_handed_over or self._is_half_used(segment)):
            after = segment.after = self._make_if_possible()
        if after is None:
            if self._is_used_up(segment):
                segment.dictionary.refuse()
            return False
        after.tick(stamp)
        if not (self._is_rotating or self._is_used_up(segment)):
            return False
        if not self._is_handed_over:
            after.after = self._make_if_possible()
        self._current, self._is_rotating = after, False
        self._seal(segment, stamp)
        return True

    def rotate_soon(self) -> None:
        """Go on to the next segment with the next tick, so that this one can be deleted."""
        self._is_rotating = self._current is not None

    @property
    def is_rotated(self) -> bool:
        """Whether this is done, and all former segments are deleted."""
        return not self._is_rotating and not any(segment.is_sealed for segment in self._segments)

    def _is_used_up(self, segment: Segment) -> bool:
        dictionary = segment.dictionary
        return segment.is_full or dictionary.size >= _DICTIONARY_BYTES or dictionary.keys >= self._max_keys

    def _is_half_used(self, segment: Segment) -> bool:
        dictionary = segment.dictionary
        return segment.is_half_used or 2 * dictionary.size >= _DICTIONARY_BYTES or 2 * dictionary.keys >= self._max_keys

    def seal(self, stamp: int) -> None:
        """Take no more uses, until it is opened again."""
        segment, self._current = self._current, None
        while segment is not None:
            self._seal(segment, stamp)
            segment = segment.after

    @staticmethod
    def _seal(segment: Segment, stamp: int) -> None:
        segment.seal()
        segment.tick(stamp)
        segment.dictionary.close()

    # ---- a process with a collector, and the collector

    @property
    def is_blank(self) -> bool:
        """Whether nothing was captured here."""
        return all(segment.is_blank for segment in list(self._segments))

    def rest(self) -> None:
        """Keep sealed segments on the disk alone."""
        for segment in self._segments:
            segment.rest()

    def hand_over(self, stamp: int, *, final: bool = False) -> tuple[Path, int] | None:
        """Leave the directory, with everything that was captured so far, to a collector, and go on in a new one, or
        `final` in none. Returns the former directory and the number of its uses; None if there was none, or another
        thread opens it."""
        thread = get_ident()
        if not self._opening.acquire(False):
            return None
        self._openers.add(thread)
        try:
            return self._hand_over(stamp, final)
        finally:
            self._openers.discard(thread)
            self._opening.release()

    def _hand_over(self, stamp: int, final: bool) -> tuple[Path, int] | None:
        directory, segments, last = self.directory, self._segments, self._current
        if directory is None:
            return None
        self.directory, self._segments = None, []
        following = None
        if last is not None and not final:
            try:
                following = self._begin()
            except OSError as error:
                self._refused_at = time.monotonic()
                self._report(error)
        while last is not None and last.after is not None:
            last = last.after
        if last is not None:
            last.after = following  # for captures that hold a sink of the former
        self._current = following
        for segment in segments:
            self._seal(segment, stamp)
        uses = sum(segment.unread for segment in segments)
        directory.hand_over()
        return directory.path, uses

    def take_over(self, directory: Directory) -> None:
        """Take the segments of a directory whose lock this process holds, and of which no snapshot was made. Raises
        CorruptJournalError, OSError."""
        if self.directory is None:
            raise OSError("closed")
        for number in numbers(directory):
            segment = Segment.load(directory, number, None)
            segment.move(self.directory, self._next_number)
            self._next_number += 1
            self._segments.insert(0, segment)  # the current one is the last

    def take(self, size: int, fits: Callable[[Chunk], bool]) -> Chunk | None:
        """As Segment.take, through all segments. Raises CorruptJournalError, OSError."""
        for segment in list(self._segments):
            chunk = segment.take(size, fits)
            if chunk is not None:
                return chunk
            if not segment.is_done and segment is not self._current:
                break
        for segment in self._segments:
            segment.rest()  # it is read, or waits for room in memory
        return None

    def skip_unreadable(self) -> int:
        """Give up the first segment that is not read whole, and return the number of its uses."""
        for segment in list(self._segments):
            if not segment.is_done:
                return segment.skip()
        return 0

    @property
    def positions(self) -> tuple[ReadPosition, ...]:
        """How far every segment is read."""
        return tuple(segment.position for segment in self._segments)

    @property
    def unread(self) -> int:
        """Uses that were captured here and not read yet."""
        return sum(segment.unread for segment in list(self._segments))

    @property
    def clock(self) -> int:
        """When its writer was last alive, in microseconds since 1970; 0 if it never recorded it."""
        return max((segment.clock for segment in self._segments), default=0)

    # ---- the writer

    def sent_before(self, saved: SavedSnapshot, number: int) -> tuple[Batch, ...]:
        """The batches after a number that were sent before those of the last snapshot, as far as they are kept.
        Raises CorruptJournalError, OSError."""
        return archive.sent(archive.load(self.directory), saved, number) if self.directory is not None else ()

    def save(self, saved: SavedSnapshot, *, anew: bool = False) -> None:
        """Keep what the writer holds, and delete the segments that are in it whole. The snapshot before is kept too,
        as far as there is room; `anew` deletes all earlier ones.

        Raises OSError. Then the batches must not be sent: a recovery would send those of the snapshot before.
        """
        directory = self.directory
        if directory is None:
            return
        if not anew and saved.held.batches:
            with contextlib.suppress(OSError):  # the file system is full, or has no second names
                archive.add(directory, saved.held.batches[0].number, self._archive_max_bytes)
        try:
            snapshot.save(saved, directory)
        except OSError:
            if not (archive.clear(directory) or self._free_reserve()):
                raise
            snapshot.save(saved, directory)
        if anew:
            archive.clear(directory)
        for segment in list(self._segments):
            if segment.is_done and segment.position in saved.held.positions:
                segment.remove()  # first: as long as a file is there, the snapshots must have its position
                self._segments.remove(segment)

    def _free_reserve(self) -> bool:
        """Delete the segment that is to be filled next, for its space on the disk; False if there is none."""
        current = self._current
        reserve = current.after if current is not None else None
        if current is None or reserve is None:
            return False
        current.after = None
        reserve.seal()
        if reserve.is_done:
            reserve.remove()
            self._segments.remove(reserve)
        return True

    def retire(self) -> bool:
        """Delete everything, once it is written; False if a use has arrived since. The snapshot goes last: without
        it, a segment would be read anew."""
        thread = get_ident()
        if not self._opening.acquire(False):
            return False
        self._openers.add(thread)
        try:
            self._current = None
            for segment in self._segments:
                segment.seal()
            if not all(segment.is_done for segment in self._segments):
                return False
            directory, self.directory = self.directory, None
            if directory is not None:
                with contextlib.suppress(OSError):
                    for segment in self._segments:
                        segment.remove()
                    directory.remove()
            self._segments, self._refused_at, self._is_rotating = [], None, False
            return True
        finally:
            self._openers.discard(thread)
            self._opening.release()

    def abandon(self) -> None:
        """In a forked child: leave the files to the parent."""
        if self.directory is not None:
            self.directory.release()
        for segment in self._segments:
            segment.dictionary.close()

    # ---- files

    def _make(self) -> Segment:
        """Raises OSError."""
        if self.directory is None:
            raise OSError("closed")
        if self._segments and not self._has_room() and not (archive.clear(self.directory) and self._has_room()):
            raise OSError(f"journal_max_bytes ({self._max_bytes}) are in use")
        segment = Segment.create(self.directory, self._next_number, self._slots, lambda user: self.is_erased(user))
        self._next_number += 1
        self._segments.append(segment)
        return segment

    def _has_room(self) -> bool:
        """Whether another segment is within the bound. Raises OSError."""
        if self.directory is None:
            return False
        size = _size_below(self.root) if self._is_handed_over else self.directory.size
        return size + self._slots * 4 <= self._max_bytes

    def _make_if_possible(self) -> Segment | None:
        try:
            return self._make()
        except OSError as error:
            self._report(error)
            return None

    def _report(self, error: OSError) -> None:
        message = error.strerror or str(error)
        log.warning(
            ("journal", self.root), "the journal in %s takes no more (%s): uses stay in memory", self.root, message
        )


def _size_below(root: str) -> int:
    """Bytes of all journals. Raises OSError."""
    total = 0
    for path in directories(root):
        with contextlib.suppress(FileNotFoundError):  # a collector has just deleted it
            total += Directory.open(path).size
    return total
