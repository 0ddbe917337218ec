"""What the codes in a segment's slots mean: a feature and its user, or a use with all that it carries."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from usage_instrument.events import Use
from usage_instrument.typing import UserId

from .records import packed, unpacked, use_from_json, use_to_json, user_from_json, user_to_json
from .snapshot import CorruptJournalError

Entry: TypeAlias = "tuple[str, UserId] | Use"

_KEY, _USE, _MARK = "k", "u", "t"


class Dictionary:
    """A file beside the slots. Any thread appends, one write an entry, before it puts the code into a slot."""

    def __init__(
        self, path: Path, descriptor: int | None, is_refused: Callable[[UserId], bool] = lambda user: False
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._is_refused = is_refused
        self._codes = itertools.count(1)
        self._entries: dict[int, Entry] | None = {} if descriptor is not None else None
        self._marks: deque[tuple[int, int]] = deque()
        self._refuses = False
        self.size = 0
        """Bytes that were appended."""
        self.keys = 0
        """Features' users that were appended, which the capturing threads remember."""

    @classmethod
    def create(cls, path: Path, is_refused: Callable[[UserId], bool]) -> Dictionary:
        """A fresh one, which names nobody who is refused. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return cls(path, os.open(path, flags, 0o600), is_refused)

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

    def _add(self, entry: Entry, record: list[Any]) -> int:
        descriptor, entries = self._descriptor, self._entries
        if descriptor is None or self._refuses:
            raise ValueError("closed")
        code = next(self._codes)
        data = packed([code, *record])
        if entries is not None:
            entries[code] = entry
        if os.write(descriptor, data) < len(data):
            raise OSError("the disk is full")
        self.size += len(data)
        return code

    # ---- the aggregator

    def refuse(self) -> None:
        """Take no more codes, as there is no place for what they would stand for."""
        self._refuses = True

    def mark(self, end: int, stamp: int) -> None:
        """Every slot before `end` was filled by `stamp` (microseconds since 1970)."""
        self._marks.append((end, stamp))
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # the segment's own clock has to do
                self.size += os.write(self._descriptor, packed([0, _MARK, end, stamp]))

    def stamp(self, slot: int) -> tuple[int, int] | None:
        """When this slot was filled, and up to which slot that holds; None behind the last mark. Slots are asked for
        in their order, and what is behind is forgotten."""
        self._recall()
        while self._marks and self._marks[0][0] <= slot:
            self._marks.popleft()
        if not self._marks:
            return None
        end, stamp = self._marks[0]
        return stamp, end

    def named(self, codes: Iterable[int]) -> list[tuple[Entry, int]]:
        """What these codes mean, and how often each is there; 0 is none. Raises CorruptJournalError, OSError."""
        found = Counter(codes)
        found.pop(0, None)
        entries = self._recall()
        try:
            return [(entries[code], number) for code, number in found.items()]
        except KeyError as error:
            raise CorruptJournalError(f"{self._path} is damaged: it does not tell what {error} means") from None

    @property
    def recalled(self) -> bool:
        """Whether what the codes mean is in memory."""
        return self._entries is not None

    def forget(self) -> None:
        """Keep nothing in memory that the file can tell again."""
        self._entries = None

    def close(self) -> None:
        """Take nothing more, and let go of the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    @property
    def users(self) -> Iterator[UserId]:
        """Whom it names, as often as it does. Raises OSError."""
        for entry in list(self._recall().values()):
            yield from entry.users if isinstance(entry, Use) else (entry[1],)

    def _recall(self) -> dict[int, Entry]:
        if self._entries is not None:
            return self._entries
        entries: dict[int, Entry] = {}
        marks: deque[tuple[int, int]] = deque()
        data = self._path.read_bytes() if self._path.exists() else b""
        for code, kind, *rest in unpacked(data):
            if kind == _MARK:
                marks.append((rest[0], rest[1]))
            elif kind == _KEY:
                entries[code] = (rest[0], user_from_json(rest[1]))
            elif kind == _USE:
                entries[code] = use_from_json(rest)
        self._entries, self._marks = entries, marks
        return entries
