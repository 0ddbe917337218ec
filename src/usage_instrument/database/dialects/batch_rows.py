"""The rows of a batch as the values of columns, for dialects that bind them: no number above what its column holds, and
no time of a use after `now`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from usage_instrument.events import MAX_COUNT, Count

from ..dimensions import DimensionRow
from ..exposures import ExposureRow

Values = tuple[Any, ...]

USAGE = ("user_id", "feature_name", "usage_count", "last_used")
HISTORY = ("user_id", "feature_name", "bucket_start", "usage_count")
EXPOSURES = ("experiment", "unit", "variant", "user_id", "first_exposed_at", "last_exposed_at", "exposures")
DIMENSIONS = (
    "user_id", "feature_name", "dimension", "dimension_value", "bucket_start", "usage_count", "value_count",
    "value_sum", "value_squares", "value_minimum", "value_maximum",
)  # fmt: skip


def usage_values(count: Count, now: dt.datetime) -> Values:
    """A row of `USAGE`, without its metadata."""
    return count.user, count.feature, min(count.uses, MAX_COUNT), min(count.last_used, now)


def history_values(counts: Iterable[Count]) -> list[Values]:
    """Rows of `HISTORY`, in the order of the counts and their buckets."""
    return [
        (count.user, count.feature, start, min(uses, MAX_COUNT)) for count in counts for start, uses in count.history
    ]


def exposure_values(row: ExposureRow, now: dt.datetime) -> Values:
    """A row of `EXPOSURES`."""
    return *row[:4], min(row.first, now), min(row.last, now), min(row.exposed, MAX_COUNT)


def dimension_values(row: DimensionRow) -> Values:
    """A row of `DIMENSIONS`."""
    start, dimension, value, uses, numbers, *sums = row.slice
    return row.user, row.feature, dimension, value, start, min(uses, MAX_COUNT), min(numbers, MAX_COUNT), *sums
