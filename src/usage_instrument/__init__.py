"""Which features of an app people really use, in the app's own database.

PYTEST_DONT_REWRITE: there is no assert here, and a host that loads this before pytest is not to be warned of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .current import (
    acount,
    aexport,
    aflush,
    aforget,
    aopt_in,
    aopt_out,
    as_user,
    ashutdown,
    atrack,
    auser_features,
    configure,
    count,
    discard,
    export,
    flush,
    forget,
    identify,
    opt_in,
    opt_out,
    paused,
    shutdown,
    stats,
    track,
    user_features,
)
from .errors import AuditUnavailable
from .stats import Stats
from .tracking import tracks

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .forgetting import Receipt
    from .live import FeatureUse
    from .settings import Settings
    from .tracker import Tracker
else:
    _LATER = {"FeatureUse": "live", "Receipt": "forgetting", "Settings": "settings", "Tracker": "tracker"}

    def __getattr__(name):  # noqa: ANN001, ANN202 - hidden from type checkers, who would take it for any name
        """What only who configures needs, once it is asked for."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
        return found


__all__ = [
    "AuditUnavailable",
    "FeatureUse",
    "Receipt",
    "Settings",
    "Stats",
    "Tracker",
    "__version__",
    "acount",
    "aexport",
    "aflush",
    "aforget",
    "aopt_in",
    "aopt_out",
    "as_user",
    "ashutdown",
    "atrack",
    "auser_features",
    "configure",
    "count",
    "discard",
    "export",
    "flush",
    "forget",
    "identify",
    "opt_in",
    "opt_out",
    "paused",
    "shutdown",
    "stats",
    "track",
    "tracks",
    "user_features",
]
