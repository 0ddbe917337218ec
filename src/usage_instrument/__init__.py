"""Counts which features of an app people use, in the app's own database.

PYTEST_DONT_REWRITE: there is no assert here, and a host may load this before pytest without a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._default import (
    acount,
    aexport,
    aflush,
    aforget,
    amerge,
    aopt_in,
    aopt_out,
    as_user,
    ashutdown,
    atrack,
    auser_features,
    carry,
    configure,
    count,
    discard,
    export,
    flush,
    flush_after,
    forget,
    identify,
    merge,
    opt_in,
    opt_out,
    paused,
    shutdown,
    stats,
    track,
    user_features,
)
from .capture.decorator import tracks
from .capture.experiments import expose, variant
from .errors import AuditUnavailable
from .stats import Stats

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .pipeline.read_your_writes import FeatureUse
    from .privacy.erasure import Receipt
    from .privacy.merge import MergeReceipt
    from .settings import Settings
    from .tracker import Tracker
else:
    _LATER = {
        "FeatureUse": "pipeline.read_your_writes",
        "MergeReceipt": "privacy.merge",
        "Receipt": "privacy.erasure",
        "Settings": "settings",
        "Tracker": "tracker",
    }

    def __getattr__(name):  # noqa: ANN001, ANN202 - hidden from type checkers, who would take it for any name
        """Imports names that only configuration needs."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
        return found


__all__ = [
    "AuditUnavailable",
    "FeatureUse",
    "MergeReceipt",
    "Receipt",
    "Settings",
    "Stats",
    "Tracker",
    "__version__",
    "acount",
    "aexport",
    "aflush",
    "aforget",
    "amerge",
    "aopt_in",
    "aopt_out",
    "as_user",
    "ashutdown",
    "atrack",
    "auser_features",
    "carry",
    "configure",
    "count",
    "discard",
    "export",
    "expose",
    "flush",
    "flush_after",
    "forget",
    "identify",
    "merge",
    "opt_in",
    "opt_out",
    "paused",
    "shutdown",
    "stats",
    "track",
    "tracks",
    "user_features",
    "variant",
]
