"""The meaning of the codes in a segment's slots: a feature and its user, or a use with all its details."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from usage_instrument.events import Loss, Use
from usage_instrument.typing import UserId

from .directory import Directory
from .records import (
    MALFORMED,
    CorruptJournalError,
    exactly,
    loss_from_json,
    loss_to_json,
    natural,
    pack,
    stamp,
    unpack,
    use_from_json,
    use_to_json,
    user_from_json,
    user_to_json,
)

Entry: TypeAlias = "tuple[str, UserId] | Use | Loss"

_KEY, _USE, _LOSS, _MARK = "k", "u", "l", "t"


class _Descriptor:
    """Closes a file once no thread uses it any more: a thread that is about to write would hit the next file of this
    number."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.number)


class Dictionary:
    """A file beside the slots. Any thread appends an entry, by one write, before it stores the code in a slot.

    The file also holds marks: until when slots were filled. An entry that cannot be read is skipped.
    """

    def __init__(
        self,
        directory: Directory,
        name: str,
        descriptor: int | None = None,
        is_refused: Callable[[UserId], bool] = lambda user: False,
    ) -> None:
        self._directory = directory
        self._name = name
        self._descriptor = None if descriptor is None else _Descriptor(descriptor)
        self._is_refused = is_refused
        self._codes = itertools.count(1)
        self._entries: dict[int, Entry] | None = {} if descriptor is not None else None
        self._marks: deque[tuple[int, int]] = deque()
        self._is_full = False
        self.size = 0
        """Bytes that were appended."""
        self.keys = 0
        """Users of features that were appended, which the capturing threads hold in memory."""

    @classmethod
    def create(cls, directory: Directory, name: str, is_refused: Callable[[UserId], bool]) -> Dictionary:
        """A new one, which names no user who is refused. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        return cls(directory, name, directory.open_file(name, flags), is_refused)

    # ---- captures

    def add_key(self, feature: str, user: UserId) -> int:
        """A code for the plain uses of a feature by its user. Raises OSError, TypeError, ValueError."""
        if self._is_refused(user):
            raise ValueError("refused")
        code = self._add((feature, user), [_KEY, feature, user_to_json(user)])
        self.keys += 1
        return code

    def add_use(self, use: Use) -> int:
        """A code for this one use. Raises OSError, TypeError, ValueError."""
        if any(map(self._is_refused, use.users)):
            raise ValueError("refused")
        return self._add(use, [_USE, *use_to_json(use)])

    def add_loss(self, loss: Loss) -> int:
        """A code for uses that this process lost. Raises OSError, ValueError."""
        return self._add(loss, [_LOSS, *loss_to_json(loss)])

    def _add(self, entry: Entry, record: list[Any]) -> int:
        descriptor, entries = self._descriptor, self._entries
        if descriptor is None or self._is_full:
            raise ValueError("closed")
        code = next(self._codes)
        data = pack([code, *record])
        if entries is not None:
            entries[code] = entry
        if os.write(descriptor.number, data) < len(data):
            raise OSError("the disk is full")
        self.size += len(data)
        return code

    # ---- the aggregator

    def refuse(self) -> None:
        """Take no more entries: there is no further segment, and this file must not grow."""
        self._is_full = True

    def mark(self, end: int, stamped: int) -> None:
        """Every slot before `end` was filled by then (microseconds since 1970)."""
        self._marks.append((end, stamped))
        descriptor = self._descriptor
        if descriptor is not None:
            with contextlib.suppress(OSError):  # then the segment's own clock dates the uses
                self.size += os.write(descriptor.number, pack([0, _MARK, end, stamped]))

    def stamp(self, slot: int) -> tuple[int, int] | None:
        """When this slot was filled, and before which slot that holds; None behind the last mark. Slots are asked for
        in their order: earlier marks are dropped. Raises CorruptJournalError, OSError."""
        self._load()
        while self._marks and self._marks[0][0] <= slot:
            self._marks.popleft()
        if not self._marks:
            return None
        end, stamped = self._marks[0]
        return stamped, end

    def look_up(self, codes: Iterable[int]) -> list[tuple[Entry, int]]:
        """The entries of these codes, each with its number; 0 is no code. Raises CorruptJournalError, OSError."""
        found = Counter(codes)
        found.pop(0, None)
        entries = self._load()
        try:
            return [(entries[code], number) for code, number in found.items()]
        except KeyError as error:
            path = self._directory.path / self._name
            raise CorruptJournalError(f"{path} is damaged: it has no entry for the code {error}") from None

    @property
    def is_loaded(self) -> bool:
        """Whether the entries are in memory."""
        return self._entries is not None

    def unload(self) -> None:
        """Drop the entries from memory; the file has them."""
        self._entries = None

    def close(self) -> None:
        """Take no more entries, and close the file."""
        self._descriptor = None

    @property
    def users(self) -> Iterator[UserId]:
        """Every user in it, with repetitions. Raises CorruptJournalError, OSError."""
        for entry in list(self._load().values()):
            if not isinstance(entry, Loss):
                yield from entry.users if isinstance(entry, Use) else (entry[1],)

    def _load(self) -> dict[int, Entry]:
        if self._entries is not None:
            return self._entries
        entries: dict[int, Entry] = {}
        marks: deque[tuple[int, int]] = deque()
        try:
            data = self._directory.read(self._name)
        except FileNotFoundError:
            data = b""
        for record in unpack(data):
            with contextlib.suppress(*MALFORMED):
                code, kind, *rest = record
                if kind == _MARK:
                    marks.append((natural(rest[0]), stamp(rest[1])))
                elif kind == _KEY:
                    entries[natural(code)] = (exactly(str, rest[0]), user_from_json(rest[1]))
                elif kind == _USE:
                    entries[natural(code)] = use_from_json(rest)
                elif kind == _LOSS:
                    entries[natural(code)] = loss_from_json(rest)
        self._entries, self._marks = entries, marks
        return entries
