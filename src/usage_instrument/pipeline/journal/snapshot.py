"""What the writer holds, on disk: the batches by their numbers, what waits, and how far the segments are read."""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from usage_instrument.errors import UsageInstrumentError
from usage_instrument.events import Batch, Count, Loss, Use
from usage_instrument.typing import UserId

from .records import packed, unpacked, use_from_json, use_to_json, user_from_json, user_to_json

FRAME = "frame"
"""Its file."""
VERSION = 2
_OLD = 1
"""Without accesses, which is what a frame without any still is: the release before reads it."""


class CorruptJournalError(UsageInstrumentError):
    """the journal cannot be read"""


class ReadPosition(NamedTuple):
    """How far one segment is read: every slot before `slot` but for the holes, and none behind it."""

    segment: int
    slot: int
    holes: tuple[int, ...] = ()


class Snapshot(NamedTuple):
    """A whole: every use before the positions is in here or in a batch that is applied; none behind them is."""

    positions: tuple[ReadPosition, ...]
    batches: tuple[Batch, ...] = ()
    """In the order of their numbers, which follow each other. What the ledger has passed is applied."""
    waiting: tuple[Count, ...] = ()
    losses: tuple[Loss, ...] = ()
    accesses: tuple[Use, ...] = ()


class SavedSnapshot(NamedTuple):
    """What a writer held before it sent the first of these batches."""

    writer_id: UUID
    registered: bool
    """Whether the writer's row was in the ledger by then: if it is missing later, nothing can be known."""
    held: Snapshot

    @property
    def users(self) -> Iterator[UserId]:
        """Whom it names, as often as it does."""
        held = self.held
        yield from (
            count.user for counts in (held.waiting, *(batch.counts for batch in held.batches)) for count in counts
        )
        for accesses in (held.accesses, *(batch.accesses for batch in held.batches)):
            for use in accesses:
                yield from use.users


def save(frame: SavedSnapshot, path: Path) -> None:
    """Put a frame in the place of the one before, in one step. Raises OSError."""
    held = frame.held
    audits = bool(held.accesses or any(batch.accesses for batch in held.batches))
    records = [
        {
            "version": VERSION if audits else _OLD,
            "writer": frame.writer_id.hex,
            "registered": frame.registered,
            "positions": [[position.segment, position.slot, list(position.holes)] for position in held.positions],
            "losses": _losses_to_json(held.losses),
            "batches": len(held.batches),
        },
        *({"number": batch.number, "counts": _to_json(batch.counts), "losses": _losses_to_json(batch.losses),
           "accesses": [use_to_json(use) for use in batch.accesses]}
          for batch in held.batches),
        {"waiting": _to_json(held.waiting), "accesses": [use_to_json(use) for use in held.accesses]},
    ]  # fmt: skip
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.writelines(packed(record) for record in records)
    fresh.replace(path)


def load(path: Path) -> SavedSnapshot | None:
    """The last frame; None if there was none. Raises CorruptJournalError, OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    records = list(unpacked(data))
    try:
        head, *batches, rest = records
        if head["version"] not in (_OLD, VERSION):
            raise CorruptJournalError(f"{path} is of version {head['version']}, this release reads {VERSION}")
        if len(batches) != head["batches"]:
            raise ValueError("a record is missing")
        held = Snapshot(
            tuple(ReadPosition(segment, slot, tuple(holes)) for segment, slot, holes in head["positions"]),
            tuple(
                Batch(
                    record["number"],
                    _from_json(record["counts"]),
                    _losses_from_json(record["losses"]),
                    _accesses(record),
                )
                for record in batches
            ),
            _from_json(rest["waiting"]),
            _losses_from_json(head["losses"]),
            _accesses(rest),
        )
        return SavedSnapshot(UUID(hex=head["writer"]), bool(head["registered"]), held)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptJournalError(f"{path} is damaged (crc32 {zlib.crc32(data):08x}): {error}") from None


def _to_json(counts: Iterable[Count]) -> list[Any]:
    return [
        [
            count.feature,
            user_to_json(count.user),
            count.uses,
            count.last_used.isoformat(),
            count.metadata,
            [[start.isoformat(), uses] for start, uses in count.history],
        ]
        for count in counts
    ]


def _from_json(rows: list[Any]) -> tuple[Count, ...]:
    return tuple(
        Count(
            feature,
            user_from_json(user),
            uses,
            dt.datetime.fromisoformat(last_used),
            metadata,
            tuple((dt.datetime.fromisoformat(start), number) for start, number in history),
        )
        for feature, user, uses, last_used, metadata, history in rows
    )


def _accesses(record: dict[str, Any]) -> tuple[Use, ...]:
    return tuple(map(use_from_json, record.get("accesses", ())))


def _losses_to_json(losses: Iterable[Loss]) -> list[Any]:
    return [[loss.day.isoformat(), loss.reason, loss.uses] for loss in losses]


def _losses_from_json(rows: list[Any]) -> tuple[Loss, ...]:
    return tuple(Loss(dt.date.fromisoformat(day), reason, uses) for day, reason, uses in rows)
