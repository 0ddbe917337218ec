"""A segment of the journal: slots in a mapped file that captures fill with codes, and that one thread reads."""

from __future__ import annotations

import contextlib
import enum
import itertools
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from usage_instrument.events import Loss, Use
from usage_instrument.typing import UserId

from .dictionary import Dictionary, Entry
from .directory import Directory
from .records import LATEST, CorruptJournalError, NewerJournalError
from .snapshot import ReadPosition

VERSION = 1
_HEAD = struct.Struct("<8sIIQI")
_MAGIC = b"usagejnl"
_CLOCK = slice(32, 40)
"""Where the header keeps when its writer was last alive."""
SLOTS_AT = 64
SLOT = 4
"""Bytes of a slot: a code, or 0 while nothing was stored."""
_RUN = 4096
"""So many empty slots in a row are the end. Each of fewer is a thread that was interrupted after it took the slot."""


class State(enum.Enum):
    """The states of a segment, in their order; a read brings a resting one back to SEALED."""

    OPEN = "captures fill the slots, which are mapped"
    SEALED = "no capture can follow; the slots are mapped, or in memory"
    RESTING = "no capture can follow; slots and dictionary are on the disk alone, since there may be hundreds of them"


class Chunk(NamedTuple):
    """Uses that were read together."""

    entries: list[tuple[Entry, int]]
    """What they are, and how often each was read."""
    stamp: int | None
    """When they were captured, in microseconds since 1970; None is just now."""


class Segment:
    """Any thread stores codes without a lock; the aggregator takes them out."""

    def __init__(
        self, directory: Directory, number: int, data: mmap.mmap | bytes, dictionary: Dictionary, *, sealed: bool
    ) -> None:
        self._directory = directory
        self.number = number
        self.dictionary = dictionary
        self._size = len(data)
        view = memoryview(data)
        self._slots: memoryview | None = view[SLOTS_AT:].cast("I")
        self._clock: memoryview | None = view[_CLOCK].cast("Q")
        self.clock = self._clock[0] if self._clock[0] < LATEST else 0
        """When its writer was last alive, in microseconds since 1970; 0 if it never recorded it."""
        # Of the segment of a dead writer: when its last uses were captured, in the half second before its end.
        self._last_stamp = self.clock or None if sealed else None
        self._store = memoryview(b"").cast("I") if sealed else view[SLOTS_AT:].cast("I")
        self._next = itertools.count()
        self._codes: dict[str, _Codes] = {}
        self._position = 0
        self._holes: list[int] = []
        self._marked = 0
        self.is_sealed = sealed
        self._end_when_sealed: int | None = None
        self._unread_at_rest: int | None = None
        self.after: Segment | None = None
        """The segment for captures that find this one full or sealed, if there is one."""

    @classmethod
    def create(
        cls, directory: Directory, number: int, slots: int, is_refused: Callable[[UserId], bool] = lambda user: False
    ) -> Segment:
        """A new one, which names no user who is refused. Raises OSError.

        Its space on the disk is taken first: a hole in the file would kill the host on a full disk.
        """
        size = SLOTS_AT + slots * SLOT
        name = _slots_name(number)
        descriptor = directory.open_file(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.posix_fallocate(descriptor, 0, size)
            data = mmap.mmap(descriptor, size)
            dictionary = Dictionary.create(directory, _dictionary_name(number), is_refused)
        except BaseException:
            directory.unlink(name)
            raise
        finally:
            os.close(descriptor)
        head = _HEAD.pack(_MAGIC, VERSION, 0, number, slots)
        data[: len(head) + 4] = head + struct.pack("<I", zlib.crc32(head))
        return cls(directory, number, data, dictionary, sealed=False)

    @classmethod
    def load(cls, directory: Directory, number: int, position: ReadPosition | None) -> Segment:
        """A segment of a dead writer. Raises CorruptJournalError, OSError."""
        name = _slots_name(number)
        with os.fdopen(directory.open_file(name, os.O_RDONLY), "rb") as file:
            slots = _slots_of(str(directory.path / name), file.read(SLOTS_AT), os.fstat(file.fileno()).st_size)
            # A writer that was killed while it made the file has stored nothing.
            data: mmap.mmap | bytes = bytes(SLOTS_AT)
            if slots:
                data = mmap.mmap(file.fileno(), SLOTS_AT + slots * SLOT, access=mmap.ACCESS_READ)
        segment = cls(directory, number, data, Dictionary(directory, _dictionary_name(number)), sealed=True)
        if position is not None:
            if max(position.slot, *position.holes, 0) > slots or slots in position.holes:
                raise CorruptJournalError(f"{directory.path / name} has fewer slots than were read")
            segment._position, segment._holes = position.slot, list(position.holes)
        segment._end_when_sealed = segment._find_end(segment._position)
        return segment

    # ---- captures

    def sink(self, feature: str, spill: Callable[[str, UserId], object]) -> Callable[[UserId], object]:
        """A function that takes one plain use of a feature by its user: two look-ups and a store."""
        codes = self._codes.setdefault(feature, _Codes(self.dictionary, feature))
        slots, take = self._store, self._next.__next__

        def append(user: UserId) -> None:
            try:
                # The code first: between taking the slot and the store, nothing of ours may run.
                slots[take()] = codes[user]
            except Exception:  # full, or sealed, or the disk is: the use goes elsewhere
                spill(feature, user)

        return append

    def put(self, entry: Use | Loss) -> bool:
        """Take one use with its details, or a loss; False if this segment takes it no more."""
        if self.is_sealed:
            return False
        try:
            dictionary = self.dictionary
            code = dictionary.add_use(entry) if isinstance(entry, Use) else dictionary.add_loss(entry)
            self._store[next(self._next)] = code
        except Exception:
            return False
        return True

    # ---- the aggregator

    def tick(self, stamp: int) -> float:
        """Record that the writer lives, and that all uses until now were captured by `stamp`. Return the share of the
        slots that was filled since the last tick."""
        self.clock = stamp
        if self._clock is not None:
            self._clock[0] = stamp  # one store, which a kill cannot divide
        start, self._marked = self._marked, self._end(self._marked)
        if self._marked > start:
            self.dictionary.mark(self._marked, stamp)
        return (self._marked - start) / len(self._read)

    def seal(self) -> None:
        """Take no more uses: a thread that is about to store finds no slots, and its use goes elsewhere."""
        if not self.is_sealed:
            self.is_sealed = True
            self._store.release()
            self._codes = {}
            self._end_when_sealed = self._find_end(self._position)

    def rest(self) -> None:
        """Release what the files hold from memory, if the segment is sealed."""
        if self.state is State.OPEN:
            return
        if self.state is State.SEALED:
            # By the thread that reads: another one would keep a number that this one changes meanwhile.
            self._unread_at_rest = self.unread
            # Not closed: another thread may be counting in it. The last one to do so drops the mapping.
            self._slots = self._clock = None
        self.dictionary.unload()

    @property
    def state(self) -> State:
        """What it is now."""
        if not self.is_sealed:
            return State.OPEN
        return State.SEALED if self._slots is not None else State.RESTING

    @property
    def _read(self) -> memoryview:
        """The slots. Raises CorruptJournalError, OSError."""
        slots = self._slots
        if slots is None:
            data = self._directory.read(_slots_name(self.number))
            if len(data) < self._size:
                raise CorruptJournalError(f"{self._directory.path / _slots_name(self.number)} is truncated")
            slots = self._slots = memoryview(data)[SLOTS_AT : self._size].cast("I")
        return slots

    def take(self, size: int, fits: Callable[[Chunk], bool]) -> Chunk | None:
        """Read at most `size` further slots, of one mark, as far as `fits` admits them. None when nothing is left, or
        nothing fits. Raises CorruptJournalError, OSError."""
        filled = [index for index in self._holes if self._read[index]][:size]
        while filled:
            chunk = Chunk(self.dictionary.look_up(self._read[index] for index in filled), self._stamp_of(filled[-1])[0])
            if fits(chunk):
                self._holes = sorted(set(self._holes) - set(filled))
                return self._taken(chunk)
            if len(filled) == 1:
                return None
            filled = filled[: len(filled) // 2]
        end = self._end(self._position)
        if self._position >= end:
            if self.is_sealed:
                self._holes = []
            return None
        stamp, until = self._stamp_of(self._position)
        size = min(size, end - self._position, until - self._position)
        while size:
            codes = self._read[self._position : self._position + size].tolist()
            chunk = Chunk(self.dictionary.look_up(codes), stamp)
            if fits(chunk):
                if not self.is_sealed:
                    self._holes += [self._position + index for index, code in enumerate(codes) if not code]
                self._position += size
                return self._taken(chunk)
            size //= 2
        return None

    def _taken(self, chunk: Chunk) -> Chunk:
        if self._unread_at_rest is not None:
            self._unread_at_rest -= _uses(chunk.entries)
        return chunk

    def skip(self) -> int:
        """Give up the uses that are not read, and return their number."""
        left = self.unread
        self._position, self._holes, self._unread_at_rest = (self._size - SLOTS_AT) // SLOT, [], 0
        return left

    @property
    def position(self) -> ReadPosition:
        """How far it is read."""
        return ReadPosition(self.number, self._position, tuple(self._holes))

    @property
    def unread(self) -> int:
        """Uses that were captured here and not read yet."""
        if self._unread_at_rest is not None:
            return self._unread_at_rest
        start = self._position
        codes = self._read[start : self._end(start)].tolist() + [self._read[index] for index in self._holes]
        was_loaded = self.dictionary.is_loaded
        try:
            unread = _uses(self.dictionary.look_up(codes)) if codes else 0
        except (CorruptJournalError, OSError):  # a use with a count is one use then
            unread = len(codes) - codes.count(0)
        if not was_loaded:
            self.dictionary.unload()
        return unread

    @property
    def is_full(self) -> bool:
        """Whether captures will soon find no slot any more."""
        return self._end(self._marked) >= len(self._read) - len(self._read) // 16

    @property
    def is_half_used(self) -> bool:
        """Whether half of the slots are taken."""
        return self._marked > len(self._read) // 2

    @property
    def is_blank(self) -> bool:
        """Whether nothing was captured here: each use has an entry in the dictionary first."""
        return not self.dictionary.size

    @property
    def is_done(self) -> bool:
        """Whether everything here is read, and nothing can follow."""
        is_read = self.is_sealed and self._position >= self._end(self._position)
        return is_read and not any(self._read[index] for index in self._holes)

    def move(self, to: Directory, number: int) -> None:
        """Move it into another directory, under another number. The slots come last: until then it is where it was,
        and the dictionary is in both. Raises OSError."""
        slots, dictionary = _slots_name(self.number), _dictionary_name(self.number)
        with contextlib.suppress(FileNotFoundError):  # its writer was killed before it made one
            to.take_over(self._directory, dictionary, _dictionary_name(number), keep=True)
        to.take_over(self._directory, slots, _slots_name(number))
        self._directory.unlink(dictionary)
        self._directory, self.number = to, number
        self.dictionary = Dictionary(to, _dictionary_name(number))

    def remove(self) -> None:
        """Delete the files, the slots first: without them, the dictionary means nothing. Raises OSError."""
        self.dictionary.close()
        self._directory.unlink(_slots_name(self.number), _dictionary_name(self.number))

    def _end(self, start: int) -> int:
        """Behind the last slot that is taken, searched from `start`; in a sealed segment it stays where it is."""
        final = self._end_when_sealed
        return self._find_end(start) if final is None else max(start, final)

    def _find_end(self, start: int) -> int:
        end, slots = start, self._read
        while end < len(slots):
            taken = -(-len(slots[end : end + _RUN].tobytes().rstrip(b"\0")) // SLOT)
            end += taken
            if taken < _RUN and not any(slots[end : end + _RUN].tobytes()):
                break
        return end

    def _stamp_of(self, slot: int) -> tuple[int | None, int]:
        """When this slot was filled, and before which slot that holds."""
        return self.dictionary.stamp(slot) or (self._last_stamp, len(self._read))


def numbers(directory: Directory) -> list[int]:
    """The numbers of a directory's segments, in their order. Raises OSError."""
    names = [name.removesuffix(".slots") for name in directory.names if name.endswith(".slots")]
    return [int(name) for name in names if len(name) == 8 and name.isascii() and name.isdecimal()]


def _slots_name(number: int) -> str:
    return f"{number:08d}.slots"


def _dictionary_name(number: int) -> str:
    return f"{number:08d}.log"


def _slots_of(path: str, head: bytes, size: int) -> int:
    """The number of slots in the header. Raises CorruptJournalError."""
    if not any(head):
        return 0
    if len(head) == SLOTS_AT:
        magic, version, _, _, slots = _HEAD.unpack_from(head)
        (checksum,) = struct.unpack_from("<I", head, _HEAD.size)
        if magic == _MAGIC and checksum == zlib.crc32(head[: _HEAD.size]):
            if version > VERSION:
                raise NewerJournalError(path, version, VERSION)
            if size < SLOTS_AT + slots * SLOT:
                raise CorruptJournalError(f"{path} is truncated: {size} bytes of {SLOTS_AT + slots * SLOT}")
            return int(slots)
    raise CorruptJournalError(f"{path} is no segment of a journal, or it is damaged")


class _Codes(dict[UserId, int]):
    """A feature's users with their codes; a new user gets one."""

    __slots__ = ("_dictionary", "_feature")

    def __init__(self, dictionary: Dictionary, feature: str) -> None:
        self._dictionary = dictionary
        self._feature = feature

    def __missing__(self, user: UserId) -> int:
        code = self[user] = self._dictionary.add_key(self._feature, user)
        return code


def _uses(entries: Iterable[tuple[Entry, int]]) -> int:
    return sum(
        number * (entry.weight if isinstance(entry, Use) else 1)
        for entry, number in entries
        if not isinstance(entry, Loss)
    )
