"""Uses on disk, from the capture to the row: they survive kill -9, and the next process writes them."""

from __future__ import annotations

from .directory import Home as Home
from .directory import check_place as check_place
from .directory import homes as homes
from .directory import reason_parked as reason_parked
from .journal import Journal as Journal
from .log import Entry as Entry
from .segment import Taken as Taken
from .snapshot import CorruptJournalError as CorruptJournalError
from .snapshot import Frame as Frame
from .snapshot import Held as Held
from .snapshot import Position as Position
from .status import Status as Status
from .status import status as status
from .status import writers as writers
from .user_scan import find_user as find_user

__all__ = [
    "CorruptJournalError",
    "Entry",
    "Frame",
    "Held",
    "Home",
    "Journal",
    "Position",
    "Status",
    "Taken",
    "check_place",
    "find_user",
    "homes",
    "reason_parked",
    "status",
    "writers",
]
