"""The period that a page is about."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from .errors import Problem


@dataclass(frozen=True)
class Period:
    """So many days, today among them."""

    name: str
    """As it stands in the address."""
    days: int
    by: Literal["day", "week"]
    """The grain of its charts."""

    @property
    def since(self) -> dt.timedelta:
        """Its length, as questions take it."""
        return dt.timedelta(days=self.days)

    @property
    def lately(self) -> Period:
        """What of it stands beside a past that it resembles: a week at most."""
        return min(self, PERIODS[0], key=lambda period: period.days)

    @property
    def words(self) -> str:
        """As people say it."""
        return f"{self.days} days"


PERIODS = (Period("7d", 7, "day"), Period("28d", 28, "day"), Period("90d", 90, "day"), Period("400d", 400, "week"))
DEFAULT = PERIODS[1]


def period_of(name: str | None) -> Period:
    """The period of that name, the default without one. Raises Problem."""
    for period in PERIODS:
        if period.name == (name or DEFAULT.name):
            return period
    raise Problem(
        400,
        f"There is no period “{name}”",
        f"Choose one of {', '.join(period.name for period in PERIODS)} above.",
    )
