"""A writer's journal: the segments that captures fill, the one they fill next, and the frame."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from uuid import UUID, uuid4

from usage_instrument.events import Use
from usage_instrument.runtime.threads import allocate_lock, get_ident
from usage_instrument.typing import UserId

from .directory import Directory
from .segment import Chunk, Segment, segments
from .snapshot import FRAME, ReadPosition, SavedSnapshot, load, save

logger = logging.getLogger("usage_instrument")

_SLOTS = 2**20
_FEWEST = 2**10
_LOG_BYTES = 2**22
_RETRY = 60.0
_BUSY = 1 / 16
_PATIENCE = 5.0
"""Seconds that a first use waits for another thread's, which opens the journal."""


class Journal:
    """Opened by the first use, then filled by any thread without a lock, and read by the aggregator alone.

    Where the disk refuses, uses are kept in memory as if there were no journal, and it is said.
    """

    def __init__(
        self, place: str, database: str, max_bytes: int, max_keys: int, spill: Callable[[str, UserId], object]
    ) -> None:
        self.place = place
        self._database = database
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._slots = max(min(_SLOTS, max_bytes // 32), _FEWEST)
        self._spill = spill
        self._opening = allocate_lock()
        self._openers: set[int] = set()
        self._refused: float | None = None
        self._said = ""
        self._segments: list[Segment] = []
        self._current: Segment | None = None
        self._number = 0
        self._is_rotating = False
        self.is_erased: Callable[[UserId], bool] = lambda user: False
        """Who is not to be named here any more: their uses are kept in memory."""
        self.directory: Directory | None = None
        self.is_busy = False
        """Whether slots are filled so fast that the aggregator has to look more often."""

    @classmethod
    def adopted(cls, home: Directory, place: str, max_bytes: int) -> tuple[Journal, SavedSnapshot | None]:
        """A dead writer's, to be read. Raises CorruptJournalError, OSError."""
        journal = cls(place, home.database or "", max_bytes, 0, lambda feature, user: None)
        journal.directory = home
        frame = load(home.file(FRAME))
        positions = {position.segment: position for position in frame.held.positions} if frame is not None else {}
        for path in segments(home.path):
            number = int(path.name)
            journal._segments.append(Segment.load(path, positions.get(number)))
            journal._number = number + 1
        return journal, frame

    # ---- captures

    @property
    def is_open(self) -> bool:
        """Whether uses are taken."""
        return self._current is not None

    @property
    def is_refused(self) -> bool:
        """Whether the disk did not take it, so that uses are kept in memory for now."""
        return self._refused is not None

    @property
    def writer_id(self) -> UUID | None:
        """Whose it is; None before it was first opened."""
        return self.directory.writer_id if self.directory is not None else None

    def try_open(self) -> bool:
        """Make a segment, in a directory of this writer's. Waits for a thread that is at it, never for itself."""
        if self._current is not None:
            return True
        if self._refused is not None and time.monotonic() < self._refused + _RETRY:
            return False
        thread = get_ident()
        if thread in self._openers:  # a signal handler or __del__ within our own opening
            return False
        self._openers.add(thread)
        try:
            return self._open() if self._opening.acquire(False) else self._await_other()
        finally:
            self._openers.discard(thread)

    def _open(self) -> bool:
        try:
            if self._current is None:
                if self.directory is None:
                    self.directory = Directory.create(self.place, uuid4(), self._database)
                segment = self._make()
                segment.after = self._make_if_possible()
                self._current = segment
            self._refused = None
        except OSError as error:
            self._refused = time.monotonic()
            self._complain(error)
        finally:
            self._opening.release()
        return self._current is not None

    def _await_other(self) -> bool:
        deadline = time.monotonic() + _PATIENCE
        while self._current is None and self._opening.locked() and time.monotonic() < deadline:
            time.sleep(0.0005)
        return self._current is not None

    def sink(self, feature: str) -> Callable[[UserId], object]:
        """What takes a plain use of this feature."""
        segment = self._current
        if segment is None or segment.sealed:
            return lambda user: self._overflow(feature, user)
        return segment.sink(feature, self._overflow)

    def put(self, use: Use) -> bool:
        """Take a use that is more than its user; False if it cannot be kept here."""
        segment = self._current
        while segment is not None:
            if segment.put(use):
                return True
            segment = segment.after
        return False

    def _overflow(self, feature: str, user: UserId) -> None:
        """A use whose segment is full or sealed; the aggregator replaces the sink within half a second."""
        if not self.put(Use(feature, user)):
            self._spill(feature, user)

    # ---- the aggregator

    def tick(self, stamp: int) -> bool:
        """Mark the time, and move on to the next segment where one is full; True if sinks have to be given anew."""
        segment = self._current
        if segment is None:
            return self._refused is not None and self.try_open()
        self.is_busy = segment.tick(stamp) > _BUSY
        after = segment.after = segment.after or self._make_if_possible()
        if after is None:
            if self._is_used_up(segment):
                segment.log.refuse()
            return False
        after.tick(stamp)
        if not (self._is_rotating or self._is_used_up(segment)):
            return False
        after.after = self._make_if_possible()
        self._current, self._is_rotating = after, False
        self._seal(segment, stamp)
        return True

    def rotate_soon(self) -> None:
        """Move on to the next segment soon, so that what this one tells of is deleted."""
        self._is_rotating = True

    @property
    def is_rotated(self) -> bool:
        """Whether that is done: nothing is left of what was there."""
        return not self._is_rotating and not any(segment.sealed for segment in self._segments)

    def _is_used_up(self, segment: Segment) -> bool:
        return segment.full or segment.log.size >= _LOG_BYTES or segment.log.keys >= self._max_keys

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
        segment.log.close()

    def take(self, size: int, fits: Callable[[Chunk], bool]) -> Chunk | None:
        """As Segment.take, through all of them. Raises CorruptJournalError."""
        for segment in list(self._segments):
            taken = segment.take(size, fits)
            if taken is not None:
                return taken
            if not segment.done and segment is not self._current:
                break
        for segment in self._segments:
            segment.rest()  # it is read, or waits for room in memory
        return None

    def skip_unreadable(self) -> int:
        """Skip the first segment that is not read whole, because it cannot be; return how many uses that was."""
        for segment in list(self._segments):
            if not segment.done:
                return segment.skip()
        return 0

    @property
    def positions(self) -> tuple[ReadPosition, ...]:
        """How far everything is read."""
        return tuple(segment.position for segment in self._segments)

    @property
    def unread(self) -> int:
        """How many uses were put here and not read yet."""
        return sum(segment.unread for segment in list(self._segments))

    @property
    def size(self) -> int:
        """Bytes that its files take."""
        return self.directory.size() if self.directory is not None else 0

    @property
    def clock(self) -> int:
        """When its writer was last alive, in microseconds since 1970; 0 if it never said."""
        return max((segment.clock for segment in self._segments), default=0)

    # ---- the writer

    def save(self, frame: SavedSnapshot) -> None:
        """Keep what the writer holds, and delete the segments that are in it whole. Raises OSError: then what is in
        the frame must not be sent, because the one before would have it sent again."""
        home = self.directory
        if home is None:
            return
        try:
            save(frame, home.file(FRAME))
        except OSError:
            if not self._free_reserve():
                raise
            save(frame, home.file(FRAME))
        for segment in list(self._segments):
            if segment.done and segment.position in frame.held.positions:
                segment.remove()  # first: as long as a file is there, the frames have to speak of it
                self._segments.remove(segment)

    def _free_reserve(self) -> bool:
        """Give up the segment that is to be filled next, for the space that it takes; False if there is none."""
        current = self._current
        reserve = current.after if current is not None else None
        if current is None or reserve is None:
            return False
        current.after = None
        reserve.seal()
        if reserve.done:
            reserve.remove()
            self._segments.remove(reserve)
        return True

    def retire(self) -> bool:
        """Everything is written: delete it; False if a use has arrived since. The frame goes last, because segments
        without one would be read anew."""
        if not self._opening.acquire(False):
            return False
        try:
            self._current = None
            for segment in self._segments:
                segment.seal()
            if not all(segment.done for segment in self._segments):
                return False
            directory, self.directory = self.directory, None
            if directory is not None:
                with contextlib.suppress(OSError):
                    for segment in self._segments:
                        segment.remove()
                    directory.remove()
            self._segments, self._refused, self._is_rotating = [], None, False
            return True
        finally:
            self._opening.release()

    def abandon(self) -> None:
        """In a forked child: leave the files to the parent."""
        if self.directory is not None:
            self.directory.release()
        for segment in self._segments:
            segment.log.close()

    # ---- files

    def _make(self) -> Segment:
        if self.directory is None:
            raise OSError("closed")
        size = self._slots * 4
        if self._segments and self.directory.size() + size > self._max_bytes:
            raise OSError(f"journal_max_bytes ({self._max_bytes}) are in use")
        segment = Segment.create(self.directory.path, self._number, self._slots, lambda user: self.is_erased(user))
        self._number += 1
        self._segments.append(segment)
        return segment

    def _make_if_possible(self) -> Segment | None:
        try:
            segment = self._make()
        except OSError as error:
            self._complain(error)
            return None
        self._said = ""
        return segment

    def _complain(self, error: OSError) -> None:
        message = error.strerror or str(error)
        if message != self._said:
            self._said = message
            logger.warning("the journal in %s takes no more (%s): uses are kept in memory", self.place, message)
