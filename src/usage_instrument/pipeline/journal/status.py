"""What lies in the journals of one place, by writer: read, and left as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from uuid import UUID

from usage_instrument.errors import UsageInstrumentError

from .directory import Directory, directories, parked_reason
from .journal import Journal
from .snapshot import SavedSnapshot


class JournalStatus(NamedTuple):
    """One writer's journal."""

    writer: UUID
    state: str
    """`alive`, `dead` (the next process takes it over) or `parked` (it needs a person)."""
    pending: int
    """Uses that are in no batch yet."""
    in_batches: int
    """Uses in batches that are not known to be applied, and that wait for their user."""
    losses: int
    """Uses dropped or rejected, which the next batch tells the database."""
    bytes: int
    silent: float | None
    """Seconds since its writer was last alive; None if it never said."""
    note: str = ""
    """Why it is parked, or cannot be read."""


def status(place: str, applied: Callable[[UUID], int] = lambda writer: 0) -> Iterator[JournalStatus]:
    """Every journal below `place`, the oldest first; `applied` tells the last batch of a writer in the ledger.

    Raises OSError when there is no such directory.
    """
    for path in directories(place):
        reason = parked_reason(path)
        home = Directory.adopt(path)
        state = "parked" if reason is not None else "alive" if home is None else "dead"
        try:
            # A living one's is read beside its owner, who may delete it meanwhile.
            journal, frame = Journal.adopted(home if home is not None else Directory(path, None), place, 0)
            yield _status(journal, frame, state, reason or "", applied)
        except FileNotFoundError:
            continue
        except (OSError, UsageInstrumentError) as error:
            yield JournalStatus(
                Directory(path, None).writer_id,
                state,
                0,
                0,
                0,
                Directory(path, None).size(),
                None,
                reason or str(error),
            )
        finally:
            if home is not None:
                home.release()


def writers(place: str) -> set[UUID]:
    """Whose rows in the ledger the journals below `place` need, for as long as they are there. Raises OSError."""
    try:
        return {found.writer for found in status(place)}
    except FileNotFoundError:  # nothing was ever kept there
        return set()


def _status(
    journal: Journal, frame: SavedSnapshot | None, state: str, note: str, applied: Callable[[UUID], int]
) -> JournalStatus:
    batches, waiting, losses, writer = [], 0, 0, journal.writer_id or UUID(int=0)
    if frame is not None:
        writer = frame.writer_id
        last = applied(writer)
        batches = [batch for batch in frame.held.batches if batch.number > last]
        waiting = sum(count.uses for count in frame.held.waiting)
        losses = sum(loss.uses for loss in frame.held.losses)
        losses += sum(loss.uses for batch in batches for loss in batch.losses)
    clock = journal.clock
    return JournalStatus(
        writer=writer,
        state=state,
        pending=journal.unread,
        in_batches=sum(batch.uses for batch in batches) + waiting,
        losses=losses,
        bytes=journal.size,
        silent=max(time.time() - clock / 1e6, 0.0) if clock else None,
        note=note,
    )
