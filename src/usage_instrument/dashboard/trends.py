"""The trend of a period: two charts over one time axis, and the table of their numbers."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from .charts import Chart, Point, chart
from .page_request import Visit
from .results import MOST, Answer, answer
from .tables import TREND

_SMALL = 48


@dataclass(frozen=True)
class Trend:
    """What is drawn, and what it is drawn from."""

    uses: Chart
    users: Chart
    answer: Answer


def trend(visit: Visit) -> Trend:
    """The trend of the visit's feature, or of all of them together."""
    found = answer(TREND, visit, MOST)
    rows = [row.values for row in found.rows]
    starts = [_day(row["bucket_start"]) for row in rows]
    per = visit.period.by
    uses = [Point(start, row["uses"], row["anonymous_uses"]) for start, row in zip(starts, rows, strict=True)]
    users = [Point(start, row["unique_users"]) for start, row in zip(starts, rows, strict=True)]
    return Trend(
        chart("uses", f"Uses per {per}", "uses", uses, part="anonymous", has_axis=False),
        chart("users", f"Users per {per}", "users", users, height=_SMALL),
        found,
    )


def _day(start: dt.datetime | dt.date) -> dt.date:
    return start.date() if isinstance(start, dt.datetime) else start
