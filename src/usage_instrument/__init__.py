"""Which features of an app people really use, in the app's own database."""

from __future__ import annotations

from .current import (
    aflush,
    as_user,
    ashutdown,
    configure,
    discard,
    flush,
    identify,
    paused,
    shutdown,
    stats,
    track,
)
from .settings import Settings
from .stats import Stats
from .tracker import Tracker
from .tracking import tracks

__version__ = "0.1.0"

__all__ = [
    "Settings",
    "Stats",
    "Tracker",
    "__version__",
    "aflush",
    "as_user",
    "ashutdown",
    "configure",
    "discard",
    "flush",
    "identify",
    "paused",
    "shutdown",
    "stats",
    "track",
    "tracks",
]
