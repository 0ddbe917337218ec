"""The rows of `feature_usage_exposures` that the exposures of a batch change."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import NamedTuple

from usage_instrument.events import Count, Exposure
from usage_instrument.typing import UserId


class ExposureRow(NamedTuple):
    """The exposures of one unit to one variant, to be added to one row."""

    experiment: str
    unit: str
    variant: str
    user: UserId
    first: dt.datetime
    """UTC, naive, as the columns are."""
    last: dt.datetime
    exposed: int
    """How often."""


def exposure_rows(exposures: Iterable[Count]) -> list[ExposureRow]:
    """Each row once, in the order of the primary key, in which all writers lock their common rows.

    A user without a `unit` of the host's is a unit under the text of their id.
    """
    rows: dict[tuple[str, str, str], ExposureRow] = {}
    for count in exposures:
        experiment, variant, unit = Exposure.of(count.feature)
        if unit is None and count.user is None:
            continue  # of nobody
        key = (experiment, str(count.user) if unit is None else unit, variant)
        first = min((start for start, _ in count.history), default=count.last_used)
        row = ExposureRow(*key, count.user, first, count.last_used, count.uses)
        known = rows.get(key)
        if known is not None:
            row = ExposureRow(
                *key,
                count.user if known.user is None else known.user,
                min(known.first, first),
                max(known.last, row.last),
                known.exposed + row.exposed,
            )
        rows[key] = row
    return [rows[key] for key in sorted(rows)]
