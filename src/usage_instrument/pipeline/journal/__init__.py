"""Captures come in, and stay on the disk until their rows are committed; chunks of uses and snapshots go out.

They survive `kill -9`: the next process writes them.
"""

from __future__ import annotations

from .dictionary import Entry
from .directory import Directory, check_root, directories, parked_reason
from .journal import Journal
from .records import CorruptJournalError, NewerJournalError
from .segment import Chunk
from .snapshot import ReadPosition, SavedSnapshot, Snapshot
from .status import JournalStatus, status, writers
from .user_scan import directories_naming

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
