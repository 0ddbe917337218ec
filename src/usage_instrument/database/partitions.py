"""The partitions of the history, as values: which there are, and which months lack one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

AHEAD = 3
"""Months after this one that have a partition in advance."""


@dataclass(frozen=True)
class Partition:
    """The rows of the history from one moment until another; None is without an end."""

    name: str
    """Quoted, with its schema."""
    start: dt.datetime | None
    end: dt.datetime | None
    rows: int
    """As the database estimates it."""

    def overlaps(self, month: dt.datetime) -> bool:
        """Whether it holds rows of a month."""
        return (self.start is None or self.start < later(month)) and (self.end is None or self.end > month)


@dataclass(frozen=True)
class Partitions:
    """The partitions of a live history."""

    ranges: tuple[Partition, ...]
    default: str | None
    """The quoted name of the partition of all other rows."""
    is_owned: bool
    """Whether the role may add and drop partitions."""
    this_month: dt.datetime
    """Its start, by the database's clock."""

    def missing(self, months: Iterable[dt.datetime] = (), ahead: int = AHEAD) -> list[dt.datetime]:
        """The starts of this month, the next ones and these others, as far as no partition holds their rows."""
        wanted = {*months, *(later(self.this_month, number) for number in range(ahead + 1))}
        return [month for month in sorted(wanted) if not any(part.overlaps(month) for part in self.ranges)]


def later(month: dt.datetime, number: int = 1) -> dt.datetime:
    """The start of a later month."""
    years, index = divmod(month.month - 1 + number, 12)
    return month.replace(year=month.year + years, month=index + 1)
