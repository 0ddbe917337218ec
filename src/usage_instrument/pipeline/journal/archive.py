"""Earlier snapshots of a writer: the batches that the database acknowledged, for a server that takes over without them.

A snapshot that is replaced stays under a second name, `frame.N`, where N is the first batch of the one in its place.
Keeping it writes nothing. It holds what was sent under the numbers before N; what it has from N on may have changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from usage_instrument.events import Batch

from . import snapshot
from .directory import Directory
from .snapshot import SavedSnapshot

_PREFIX = f"{snapshot.NAME}."


def add(directory: Directory, number: int, max_bytes: int) -> None:
    """Keep the last snapshot, as one that begins with batch `number` is to replace it. Where all of them take more
    than `max_bytes`, delete the oldest. Raises OSError.

    One that begins with the same number, or with a lower one, holds everything that was sent from there on.
    """
    with contextlib.suppress(FileNotFoundError):  # there is no last snapshot
        sizes = {kept: directory.size_of(_name(kept)) for kept in numbers(directory)}
        if number > max(sizes, default=0):
            sizes[number] = directory.size_of(snapshot.NAME)
            directory.link(snapshot.NAME, _name(number))
        for oldest in sorted(sizes):
            if sum(sizes.values()) <= max_bytes:
                break
            directory.unlink(_name(oldest))
            del sizes[oldest]


def clear(directory: Directory) -> int:
    """Delete all of them; return how many. Raises OSError."""
    kept = numbers(directory)
    directory.unlink(*map(_name, kept))
    return len(kept)


def load(directory: Directory) -> list[tuple[int, SavedSnapshot]]:
    """Each of them with its number, the oldest first. Raises CorruptJournalError, OSError."""
    found = ((number, snapshot.load(directory, _name(number))) for number in numbers(directory))
    return [(number, saved) for number, saved in found if saved is not None]


def sent(kept: Iterable[tuple[int, SavedSnapshot]], last: SavedSnapshot, number: int) -> tuple[Batch, ...]:
    """The batches after a number that were sent before those of the last snapshot, without a gap before it."""
    upper = last.held.batches[0].number if last.held.batches else 0
    batches: list[Batch] = []
    for replaced, saved in sorted(kept, key=lambda each: each[0], reverse=True):
        if saved.writer_id == last.writer_id and replaced >= upper:
            older = [batch for batch in saved.held.batches if number < batch.number < upper]
            if older and older[-1].number == upper - 1:
                batches[:0] = older
                upper = older[0].number
    return tuple(batches)


def numbers(directory: Directory) -> list[int]:
    """The numbers of all of them, the oldest first. Raises OSError."""
    found = (name.removeprefix(_PREFIX) for name in directory.names if name.startswith(_PREFIX))
    return sorted(int(number) for number in found if number.isascii() and number.isdigit())


def _name(number: int) -> str:
    return f"{_PREFIX}{number}"
