"""The latest batches that the database acknowledged, for a server that takes over without them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from usage_instrument.events import Batch
from usage_instrument.typing import UserId

from .pending_counts import size_of_access, size_of_details

_BATCHES = 64
"""Batches that are kept whole."""
_NUMBERS = 10_000
"""Batches before them whose number of uses is known."""
_COUNT_BYTES = 400
"""Bytes in memory per count, beside its metadata and slices."""


class Missing(NamedTuple):
    """The acknowledged batches that a database lacks."""

    kept: list[Batch]
    uses: int
    """Uses in batches that are no longer kept, as far as their number is known."""
    accesses: int
    """Accesses in such batches."""


class Acknowledged:
    """Keeps the latest batches, at most `max_bytes`, in the order of their numbers."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._batches: deque[tuple[Batch, int]] = deque()
        self._bytes = 0
        self._dropped: deque[tuple[int, int, int]] = deque(maxlen=_NUMBERS)
        """The number, the uses and the accesses of each batch that is no longer kept."""

    def add(self, batch: Batch) -> None:
        """Keep a batch that the database has acknowledged, instead of the oldest ones if they take too much."""
        size = _size(batch)
        self._batches.append((batch, size))
        self._bytes += size
        while self._batches and (self._bytes > self._max_bytes or len(self._batches) > _BATCHES):
            oldest, size = self._batches.popleft()
            self._bytes -= size
            self._dropped.append((oldest.number, oldest.uses, len(oldest.accesses)))

    def take(self, number: int) -> Missing:
        """Remove and return the batches after a number."""
        kept: list[Batch] = []
        while self._batches and self._batches[-1][0].number > number:
            batch, size = self._batches.pop()
            self._bytes -= size
            kept.insert(0, batch)
        uses = accesses = 0
        while self._dropped and self._dropped[-1][0] > number:
            _, dropped_uses, dropped_accesses = self._dropped.pop()
            uses, accesses = uses + dropped_uses, accesses + dropped_accesses
        return Missing(kept, uses, accesses)

    def clear(self) -> None:
        """Remove all batches."""
        self._batches.clear()
        self._dropped.clear()
        self._bytes = 0

    def change(self, change: Callable[[Batch], Batch]) -> None:
        """Replace each batch by what a function makes of it."""
        self._batches = deque((changed, _size(changed)) for changed in (change(batch) for batch, _ in self._batches))
        self._bytes = sum(size for _, size in self._batches)

    @property
    def users(self) -> set[UserId]:
        """The users of all batches."""
        return {count.user for batch, _ in self._batches for count in batch.counts}


def _size(batch: Batch) -> int:
    details = sum(size_of_details(count) for count in batch.counts if count.metadata is not None or count.slices)
    return _COUNT_BYTES * len(batch.counts) + details + sum(map(size_of_access, batch.accesses))
