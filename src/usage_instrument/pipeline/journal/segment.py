"""A stretch of the journal: slots in a mapped file that captures fill with codes, and one thread reads."""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from usage_instrument.events import Use
from usage_instrument.typing import UserId

from .dictionary import Dictionary, Entry
from .snapshot import CorruptJournalError, ReadPosition

VERSION = 1
_HEAD = struct.Struct("<8sIIQI")
_MAGIC = b"usagejnl"
_CLOCK = 32  # where the header keeps when its writer was last alive
SLOTS_AT = 64
SLOT = 4
"""Bytes a slot: a code, or 0 while nothing has been put there."""
_RUN = 4096  # so many empty slots in a row are the end: each of fewer needs a thread that took it and was interrupted


class Chunk(NamedTuple):
    """Uses that were read: what they are, how often each, and when they were made."""

    entries: list[tuple[Entry, int]]
    stamp: int | None
    """Microseconds since 1970; None is just now."""


class Segment:
    """Any thread puts codes into slots without a lock; the aggregator takes them out."""

    def __init__(self, path: Path, data: mmap.mmap | bytes, log: Dictionary, *, sealed: bool) -> None:
        self.path = path
        self.number = int(path.name)
        self.log = log
        self._data = data
        self._size = len(data)
        self._view: memoryview | None = memoryview(data)[SLOTS_AT:].cast("I")
        self._write = memoryview(bytearray(SLOT) if sealed else data)[0 if sealed else SLOTS_AT :].cast("I")
        self._next = itertools.count()
        self._codes: dict[str, _Codes] = {}
        self._pos = 0
        self._holes: list[int] = []
        self._marked = 0
        self._unread: int | None = None
        self._last: int | None = None
        self._is_dead = sealed
        self.sealed = sealed
        self.after: Segment | None = None
        """Where captures go that find this one full or sealed, if there is one."""

    @classmethod
    def create(
        cls, aggregator: Path, number: int, slots: int, is_refused: Callable[[UserId], bool] = lambda user: False
    ) -> Segment:
        """A fresh one, its space on the disk taken: a hole in the file would kill the host on a full disk. It names
        nobody who is refused. Raises OSError."""
        path = aggregator / f"{number:08d}"
        size = SLOTS_AT + slots * SLOT
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path.with_suffix(".slots"), flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            data = mmap.mmap(descriptor, size)
            log = Dictionary.create(path.with_suffix(".log"), is_refused)
        except BaseException:
            path.with_suffix(".slots").unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        head = _HEAD.pack(_MAGIC, VERSION, 0, number, slots)
        data[: len(head) + 4] = head + struct.pack("<I", zlib.crc32(head))
        return cls(path, data, log, sealed=False)

    @classmethod
    def load(cls, path: Path, position: ReadPosition | None) -> Segment:
        """One of a dead writer. Raises CorruptJournalError, OSError."""
        with path.with_suffix(".slots").open("rb") as file:
            slots = _slots_of(path, file.read(SLOTS_AT), os.fstat(file.fileno()).st_size)
            # Nothing was put into one whose writer was killed while it made it.
            data: mmap.mmap | bytes = bytes(SLOTS_AT)
            if slots:
                data = mmap.mmap(file.fileno(), SLOTS_AT + slots * SLOT, access=mmap.ACCESS_READ)
        segment = cls(path, data, Dictionary(path.with_suffix(".log"), None), sealed=True)
        if position is not None:
            segment._pos, segment._holes = position.slot, list(position.holes)
        return segment

    # ---- captures

    def sink(self, feature: str, spill: Callable[[str, UserId], object]) -> Callable[[UserId], object]:
        """What takes one plain use of a feature by its user: two look-ups and a store."""
        codes = self._codes.setdefault(feature, _Codes(self.log, feature))
        slots, take = self._write, self._next.__next__

        def append(user: UserId) -> None:
            try:
                # The code first: between taking the slot and the store, nothing of ours may run.
                slots[take()] = codes[user]
            except Exception:  # full, or sealed, or the disk is: the use goes elsewhere
                spill(feature, user)

        return append

    def put(self, use: Use) -> bool:
        """Take one use that is more than its user; False when this segment does not take it any more."""
        if self.sealed:
            return False
        try:
            code = self.log.add_use(use)
            self._write[next(self._next)] = code
        except Exception:
            return False
        return True

    # ---- the aggregator

    def tick(self, stamp: int) -> float:
        """The writer lives, and all that was put here by now was put here by `stamp`; return which part of the slots
        was filled since the last tick."""
        struct.pack_into("<Q", self._data, _CLOCK, stamp)
        start, self._marked = self._marked, self._end(self._marked)
        if self._marked > start:
            self.log.mark(self._marked, stamp)
        return (self._marked - start) / len(self._read)

    def seal(self) -> None:
        """Take nothing more. Whoever is about to store finds no place, and goes elsewhere."""
        self.sealed = True
        self._write.release()
        self._codes = {}

    def rest(self) -> None:
        """Keep nothing in memory that the files can tell again, and no file open: there may be hundreds of segments."""
        if self.sealed and self._view is not None:
            self._last, self._unread = self._end(self._pos), self.unread  # once it is read, its files may go
            # Not closed: another thread may be counting in it. The last one who does lets go of the mapping.
            self._data, self._view = self._data[:SLOTS_AT], None
        if self.sealed:
            self.log.forget()

    @property
    def _read(self) -> memoryview:
        """The slots. Raises OSError."""
        view = self._view
        if view is None:
            with self.path.with_suffix(".slots").open("rb") as file:
                view = self._view = memoryview(file.read(self._size))[SLOTS_AT:].cast("I")
        return view

    def take(self, size: int, fits: Callable[[Chunk], bool]) -> Chunk | None:
        """Read on by at most `size` slots, all of one mark, as far as `fits` admits; None when nothing is left to read,
        or nothing fits. Raises CorruptJournalError, OSError."""
        filled = [index for index in self._holes if self._read[index]]
        if filled:
            taken = Chunk(self.log.named(self._read[index] for index in filled), self._stamp(filled[-1])[0])
            if not fits(taken):
                return None
            self._holes = [index for index in self._holes if index not in filled]
            return self._read_by(taken)
        end = self._end(self._pos)
        if self._pos >= end:
            if self.sealed:
                self._holes = []
            return None
        stamp, until = self._stamp(self._pos)
        size = min(size, end - self._pos, until - self._pos)
        while size:
            codes = self._read[self._pos : self._pos + size].tolist()
            taken = Chunk(self.log.named(codes), stamp)
            if fits(taken):
                if not self.sealed:
                    self._holes += [self._pos + index for index, code in enumerate(codes) if not code]
                self._pos += size
                return self._read_by(taken)
            size //= 2
        return None

    def _read_by(self, taken: Chunk) -> Chunk:
        if self._unread is not None:
            self._unread -= _uses(taken.entries)
        return taken

    def skip(self) -> int:
        """Give up what is not read, and return how many uses that were."""
        left = self.unread
        self._pos, self._holes, self._unread = len(self._read), [], 0
        return left

    @property
    def position(self) -> ReadPosition:
        """How far it is read."""
        return ReadPosition(self.number, self._pos, tuple(self._holes))

    @property
    def unread(self) -> int:
        """How many uses were put here and not read yet."""
        if self._unread is not None:
            return self._unread
        codes = self._read[self._pos : self._end(self._pos)].tolist() + [self._read[index] for index in self._holes]
        was_known = self.log.recalled
        try:
            unread = _uses(self.log.named(codes)) if codes else 0
        except (CorruptJournalError, OSError):  # then nobody can tell of a count
            unread = len(codes) - codes.count(0)
        if self.sealed:
            self._unread = unread
            if not was_known:
                self.log.forget()
        return unread

    @property
    def clock(self) -> int:
        """When its writer was last alive, in microseconds since 1970; 0 if it never said."""
        clock: int = struct.unpack_from("<Q", self._data, _CLOCK)[0]
        return clock

    @property
    def full(self) -> bool:
        """Whether captures will soon find no slot any more."""
        return self._end(self._marked) >= len(self._read) - len(self._read) // 16

    @property
    def done(self) -> bool:
        """Whether everything here is read, and nothing can come."""
        return self.sealed and not any(self._read[index] for index in self._holes) and self._pos >= self._end(self._pos)

    def remove(self) -> None:
        """Delete the files, the slots first: without them, the log means nothing. Raises OSError."""
        self.log.close()
        for suffix in (".slots", ".log"):
            self.path.with_suffix(suffix).unlink(missing_ok=True)

    def _end(self, start: int) -> int:
        """Behind the last slot that is taken, looked for from `start` on; in a sealed one it stays where it is."""
        if not self.sealed:
            return self._find_end(start)
        if self._last is None:
            self._last = self._find_end(self._pos)
        return max(start, self._last)

    def _find_end(self, start: int) -> int:
        end = start
        while end < len(self._read):
            taken = -(-len(self._read[end : end + _RUN].tobytes().rstrip(b"\0")) // SLOT)
            end += taken
            if taken < _RUN and not any(self._read[end : end + _RUN].tobytes()):
                break
        return end

    def _stamp(self, slot: int) -> tuple[int | None, int]:
        """When this slot was filled, and up to which slot that holds."""
        marked = self.log.stamp(slot)
        if marked is not None:
            return marked
        if self._is_dead:  # its last uses, made in the half second before its end
            return self.clock or None, len(self._read)
        return None, len(self._read)


def segments(aggregator: Path) -> Iterator[Path]:
    """The segments in a directory, by their numbers, each without its suffix."""
    for path in sorted(aggregator.glob("*.slots")):
        yield path.with_suffix("")


def _slots_of(path: Path, head: bytes, size: int) -> int:
    """How many slots the header tells of. Raises CorruptJournalError."""
    if not any(head):
        return 0
    if len(head) == SLOTS_AT:
        magic, version, _, _, slots = _HEAD.unpack_from(head)
        (checksum,) = struct.unpack_from("<I", head, _HEAD.size)
        if magic == _MAGIC and checksum == zlib.crc32(head[: _HEAD.size]):
            if version != VERSION:
                raise CorruptJournalError(f"{path}.slots is of version {version}, and this release reads {VERSION}")
            if size < SLOTS_AT + slots * SLOT:
                raise CorruptJournalError(f"{path}.slots is truncated: {size} bytes of {SLOTS_AT + slots * SLOT}")
            return int(slots)
    raise CorruptJournalError(f"{path}.slots is no segment of a journal, or it is damaged")


class _Codes(dict[UserId, int]):
    """A feature's users by their codes; whoever is new gets one."""

    __slots__ = ("_feature", "_log")

    def __init__(self, log: Dictionary, feature: str) -> None:
        self._log = log
        self._feature = feature

    def __missing__(self, user: UserId) -> int:
        code = self[user] = self._log.add_key(self._feature, user)
        return code


def _uses(entries: Iterable[tuple[Entry, int]]) -> int:
    return sum(number * (entry.weight if isinstance(entry, Use) else 1) for entry, number in entries)
