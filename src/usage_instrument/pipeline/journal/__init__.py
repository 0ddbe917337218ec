"""Captures come in, and stay on the disk until their rows are committed; chunks of uses and snapshots go out.

They survive `kill -9`: the next process writes them.
"""

from __future__ import annotations

from .collector_files import (
    CollectorLock,
    DeclaredFeature,
    collector_seen,
    collector_silence,
    load_features,
    save_features,
)
from .dictionary import Entry
from .directory import Directory, check_root, directories, parked_reason
from .journal import Journal
from .records import CorruptJournalError, NewerJournalError
from .segment import Chunk, numbers
from .snapshot import ReadPosition, SavedSnapshot, Snapshot, has_snapshot
from .status import JournalStatus, status, writers
from .user_scan import directories_naming

__all__ = [
    "Chunk",
    "CollectorLock",
    "CorruptJournalError",
    "DeclaredFeature",
    "Directory",
    "Entry",
    "Journal",
    "JournalStatus",
    "NewerJournalError",
    "ReadPosition",
    "SavedSnapshot",
    "Snapshot",
    "check_root",
    "collector_seen",
    "collector_silence",
    "directories",
    "directories_naming",
    "has_snapshot",
    "load_features",
    "numbers",
    "parked_reason",
    "save_features",
    "status",
    "writers",
]
