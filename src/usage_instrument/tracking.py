"""The former place of `Tracks`, for pickles of 0.1. Import `usage_instrument.tracks` instead."""

from __future__ import annotations

from .capture.decorator import Tracks

__all__ = ["Tracks"]
