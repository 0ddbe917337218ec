"""Captures come in, and stay on the disk until their rows are committed; chunks of uses and snapshots go out.

They survive `kill -9`: the next process writes them.
"""

from __future__ import annotations

from .dictionary import Entry as Entry
from .directory import Directory as Directory
from .directory import check_root as check_root
from .directory import directories as directories
from .directory import parked_reason as parked_reason
from .journal import Journal as Journal
from .records import CorruptJournalError as CorruptJournalError
from .records import NewerJournalError as NewerJournalError
from .segment import Chunk as Chunk
from .snapshot import ReadPosition as ReadPosition
from .snapshot import SavedSnapshot as SavedSnapshot
from .snapshot import Snapshot as Snapshot
from .status import JournalStatus as JournalStatus
from .status import status as status
from .status import writers as writers
from .user_scan import directories_naming as directories_naming

__all__ = [
    "Chunk",
    "CorruptJournalError",
    "Directory",
    "Entry",
    "Journal",
    "JournalStatus",
    "NewerJournalError",
    "ReadPosition",
    "SavedSnapshot",
    "Snapshot",
    "check_root",
    "directories",
    "directories_naming",
    "parked_reason",
    "status",
    "writers",
]
