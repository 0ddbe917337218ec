"""Which features of an app people really use, in the app's own database.

PYTEST_DONT_REWRITE: there is no assert here, and a host that loads this before pytest is not to be warned of it.
"""

from __future__ import annotations

from .current import (
    acount,
    aflush,
    as_user,
    ashutdown,
    auser_features,
    configure,
    count,
    discard,
    flush,
    identify,
    paused,
    shutdown,
    stats,
    track,
    user_features,
)
from .live import FeatureUse
from .settings import Settings
from .stats import Stats
from .tracker import Tracker
from .tracking import tracks

__version__ = "0.1.0"

__all__ = [
    "FeatureUse",
    "Settings",
    "Stats",
    "Tracker",
    "__version__",
    "acount",
    "aflush",
    "as_user",
    "ashutdown",
    "auser_features",
    "configure",
    "count",
    "discard",
    "flush",
    "identify",
    "paused",
    "shutdown",
    "stats",
    "track",
    "tracks",
    "user_features",
]
