"""The questions that analysts ask, each a `Select` for any Connection or Session."""

from __future__ import annotations

from .adoption import adoption
from .top_features import top_features
from .user_features import user_features

__all__ = ["adoption", "top_features", "user_features"]
