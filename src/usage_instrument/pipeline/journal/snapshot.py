"""What the writer holds, on disk: numbered batches, deferred counts, losses, and how far the segments are read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

from usage_instrument.events import Batch, Count, Loss, Use
from usage_instrument.typing import UserId

from . import records
from .directory import Directory
from .records import (
    CorruptJournalError,
    NewerJournalError,
    count_from_json,
    count_to_json,
    loss_from_json,
    loss_to_json,
    natural,
    use_from_json,
    use_to_json,
)

NAME = "frame"
VERSION = 3
_WITHOUT_SLICES, _WITHOUT_ACCESSES = 2, 1
"""The versions of a snapshot without slices, and without accesses either, so that the releases before read it."""


class ReadPosition(NamedTuple):
    """How far one segment is read: every slot before `slot` but the holes, and none behind it."""

    segment: int
    slot: int
    holes: tuple[int, ...] = ()


class Snapshot(NamedTuple):
    """Every use before the positions is in here or in a batch that is applied; no use behind them is."""

    positions: tuple[ReadPosition, ...]
    batches: tuple[Batch, ...] = ()
    """In the order of their numbers. Those up to the ledger's number are applied."""
    waiting: tuple[Count, ...] = ()
    """Counts whose user is not in the users table yet."""
    losses: tuple[Loss, ...] = ()
    accesses: tuple[Use, ...] = ()

    @property
    def users(self) -> Iterator[UserId]:
        """Every user in it, with repetitions."""
        for counts in (self.waiting, *(batch.counts for batch in self.batches)):
            yield from (count.user for count in counts)
        for accesses in (self.accesses, *(batch.accesses for batch in self.batches)):
            for use in accesses:
                yield from use.users


class SavedSnapshot(NamedTuple):
    """A writer's snapshot, before it sends the first of these batches."""

    writer_id: UUID
    registered: bool
    """Whether the writer's row was in the ledger. If it is missing later, the batches may or may not be applied."""
    held: Snapshot


def save(saved: SavedSnapshot, directory: Directory) -> None:
    """Replace the last snapshot in one step. Raises OSError."""
    held = saved.held
    has_accesses = bool(held.accesses or any(batch.accesses for batch in held.batches))
    has_slices = any(count.slices for count in held.waiting) or any(batch.has_slices for batch in held.batches)
    parts: list[dict[str, Any]] = [
        {
            "version": VERSION if has_slices else _WITHOUT_SLICES if has_accesses else _WITHOUT_ACCESSES,
            "writer": saved.writer_id.hex,
            "registered": saved.registered,
            "positions": [[position.segment, position.slot, list(position.holes)] for position in held.positions],
            "losses": _losses_to_json(held.losses),
            "batches": len(held.batches),
        },
        *(
            {
                "number": batch.number,
                "counts": [count_to_json(count) for count in batch.counts],
                "losses": _losses_to_json(batch.losses),
                "accesses": [use_to_json(use) for use in batch.accesses],
            }
            for batch in held.batches
        ),
        {
            "waiting": [count_to_json(count) for count in held.waiting],
            "accesses": [use_to_json(use) for use in held.accesses],
        },
    ]
    with os.fdopen(directory.open_file(f"{NAME}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.writelines(records.pack(part) for part in parts)
    directory.rename(f"{NAME}.new", NAME)


def has_snapshot(directory: Directory) -> bool:
    """Whether a writer may have sent something from this directory. Raises OSError."""
    return NAME in directory.names


def load(directory: Directory, name: str = NAME) -> SavedSnapshot | None:
    """The last snapshot, or one that was kept; None if there was none. Raises CorruptJournalError, OSError."""
    path = directory.path / name
    try:
        with os.fdopen(directory.open_file(name, os.O_RDONLY), "rb") as file:
            parts = records.read(file, os.fstat(file.fileno()).st_size)
            head: dict[str, Any] = next(parts, {})
            if natural(head["version"]) > VERSION:
                raise NewerJournalError(path, head["version"], VERSION)
            *batches, rest = parts
        return _from_json(head, batches, rest)
    except FileNotFoundError:
        return None
    except (*records.MALFORMED, MemoryError) as error:
        raise CorruptJournalError(f"{path} is damaged: {error!r}") from None


def _from_json(head: dict[str, Any], batches: list[dict[str, Any]], rest: dict[str, Any]) -> SavedSnapshot:
    """Raises one of MALFORMED."""
    given = [natural(batch["number"]) for batch in batches]
    if len(given) != head["batches"] or given != sorted(set(given)):
        raise ValueError("a batch is missing")
    held = Snapshot(
        tuple(
            ReadPosition(natural(segment), natural(slot), tuple(map(natural, holes)))
            for segment, slot, holes in head["positions"]
        ),
        tuple(
            Batch(
                batch["number"],
                tuple(map(count_from_json, batch["counts"])),
                _losses_from_json(batch["losses"]),
                _accesses(batch),
            )
            for batch in batches
        ),
        tuple(map(count_from_json, rest["waiting"])),
        _losses_from_json(head["losses"]),
        _accesses(rest),
    )
    return SavedSnapshot(UUID(hex=head["writer"]), bool(head["registered"]), held)


def _accesses(part: dict[str, Any]) -> tuple[Use, ...]:
    return tuple(map(use_from_json, part.get("accesses", ())))


def _losses_to_json(losses: Iterable[Loss]) -> list[Any]:
    return list(map(loss_to_json, losses))


def _losses_from_json(rows: list[Any]) -> tuple[Loss, ...]:
    return tuple(map(loss_from_json, rows))
