"""Where `Tracks` was in 0.1, for what is pickled there. Import `usage_instrument.tracks` instead."""

from __future__ import annotations

from .capture.decorator import Tracks

__all__ = ["Tracks"]
