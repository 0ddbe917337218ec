"""Uses on disk, from the capture to the row: they survive kill -9, and the next process writes them."""

from __future__ import annotations

from .frame import CorruptJournalError as CorruptJournalError
from .frame import Frame as Frame
from .frame import Held as Held
from .frame import Position as Position
from .home import Home as Home
from .home import check_place as check_place
from .home import homes as homes
from .home import reason_parked as reason_parked
from .journal import Journal as Journal
from .log import Entry as Entry
from .mentions import mentions as mentions
from .segment import Taken as Taken
from .status import Status as Status
from .status import status as status
from .status import writers as writers

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
    "homes",
    "mentions",
    "reason_parked",
    "status",
    "writers",
]
