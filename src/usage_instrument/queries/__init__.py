"""Analyst queries, one per file. In: arguments and Tables. Out: a `Select` for any Connection or Session."""

from __future__ import annotations

from .active_users import active_users
from .adoption import adoption
from .power_users import power_users
from .recommend import recommend
from .related_features import related_features
from .spikes import spikes
from .top_features import top_features
from .trend import trend
from .unused_features import unused_features
from .user_features import user_features
from .variants import variants

__all__ = [
    "active_users",
    "adoption",
    "power_users",
    "recommend",
    "related_features",
    "spikes",
    "top_features",
    "trend",
    "unused_features",
    "user_features",
    "variants",
]
