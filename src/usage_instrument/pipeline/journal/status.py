"""The content of the journals below one root, by writer. Reading it changes nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from usage_instrument.errors import UsageInstrumentError
from usage_instrument.events import Batch

from .directory import Directory, directories, writer_of
from .journal import Journal
from .records import NewerJournalError
from .snapshot import SavedSnapshot


class JournalStatus(NamedTuple):
    """One writer's journal."""

    writer: UUID
    state: str
    """`alive`, `dead` (the next process recovers it), `newer` (another release does), `parked` (it needs a person)."""
    pending: int = 0
    """Uses that are in no batch yet."""
    in_batches: int = 0
    """Uses in batches that are not known to be applied, and uses that wait for their user."""
    losses: int = 0
    """Uses dropped or rejected, which the next batch reports to the database."""
    bytes: int = 0
    silent: float | None = None
    """Seconds since its writer was last alive; None if it never recorded it."""
    note: str = ""
    """Why it is parked, or cannot be read."""


def status(root: str, applied: Callable[[UUID], int] = lambda writer: 0) -> Iterator[JournalStatus]:
    """Every journal below `root`, the oldest first; `applied` returns the last batch of a writer in the ledger.

    Raises OSError if there is no such directory, and what `applied` raises.
    """
    for path in directories(root):
        with contextlib.suppress(FileNotFoundError):  # its owner has just deleted it
            yield _status(path, root, applied)


def writers(root: str) -> set[UUID]:
    """The writers whose rows in the ledger the journals below `root` need as long as they are there. Raises OSError."""
    try:
        return {found.writer for found in status(root)}
    except FileNotFoundError:  # no process has kept a journal there
        return set()


def _status(path: Path, root: str, applied: Callable[[UUID], int]) -> JournalStatus:
    """Raises FileNotFoundError."""
    found = JournalStatus(writer_of(path), "dead")
    adopted: Directory | None = None
    try:
        directory = Directory.open(path)
        adopted = Directory.adopt(path)
        reason = directory.parked_reason
        state = "parked" if reason is not None else "alive" if adopted is None else "dead"
        found = found._replace(state=state, bytes=directory.size, note=reason or "")
        if not directory.has_lock:
            return found._replace(state="parked", note=reason or "its file `lock` is missing")
        journal, saved = Journal.load(directory, root, 0)
        found = found._replace(pending=journal.unread)
    except FileNotFoundError:
        raise
    except NewerJournalError as error:
        return found._replace(state="newer" if found.state == "dead" else found.state, note=found.note or str(error))
    except (OSError, UsageInstrumentError) as error:
        return found._replace(note=found.note or str(error))
    finally:
        if adopted is not None:
            adopted.release()
    if journal.clock:
        found = found._replace(silent=max(time.time() - journal.clock / 1e6, 0.0))
    if saved is None:
        return found
    last_batch = applied(saved.writer_id)
    try:
        sent = journal.sent_before(saved, last_batch)
    except (OSError, UsageInstrumentError):
        sent = ()
    return _with_snapshot(found, saved, sent, last_batch)


def _with_snapshot(
    found: JournalStatus, saved: SavedSnapshot, sent: tuple[Batch, ...], last_batch: int
) -> JournalStatus:
    held = saved.held
    batches = [*sent, *(batch for batch in held.batches if batch.number > last_batch)]
    return found._replace(
        writer=saved.writer_id,
        in_batches=sum(batch.uses for batch in batches) + sum(count.uses for count in held.waiting),
        losses=sum(loss.uses for losses in (held.losses, *(batch.losses for batch in batches)) for loss in losses),
    )
