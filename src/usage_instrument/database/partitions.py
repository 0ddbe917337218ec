"""The partitions of the history: which there are, which months lack one, and what a dialect has to know of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table

from .users_column import UsersColumn

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


class Partitioning:
    """How a database divides the history by month. This one does not; PostgreSQL's does."""

    def new(self, connection: Connection, table: Table) -> list[str] | None:
        """The SQL that gives a new partitioned table its partitions; None where tables have no partitions."""
        return None

    def find(self, connection: Connection, table: Table) -> Partitions | None:
        """The partitions of a live table; None if it is not partitioned by its buckets."""
        return None

    def months_in_default(self, connection: Connection, found: Partitions) -> list[tuple[dt.datetime, int]]:
        """The months of which the default partition has rows, and their number."""
        return []

    def add_month(self, connection: Connection, table: Table, month: dt.datetime, *, patiently: bool) -> bool:
        """Add the partition of a month, with the rows of the month that the default partition has; False if another
        process does.

        Patiently, moving many rows may take longer than a statement of a flush. Readers go on meanwhile.
        """
        raise NotImplementedError

    def drop(self, connection: Connection, table: Table, partition: Partition) -> bool:
        """Drop a partition with its rows; False if another process has, or changes the partitions now."""
        raise NotImplementedError

    def analyze(self, connection: Connection, table: Table) -> None:
        """Renew the statistics of a partitioned table, where the database only does so for its partitions."""

    def preparations(self, table: Table) -> list[tuple[Callable[[Connection], object], bool]]:
        """What makes an existing history ready to be a partition while others write, in this order; with a True, in a
        transaction."""
        raise NotImplementedError

    def is_prepared(self, connection: Connection, table: Table) -> bool:
        """Whether an upgrade to partitions has begun and not ended: it would refuse rows of a distant month."""
        return False

    def abandon(self, connection: Connection, table: Table) -> None:
        """Take back what of the preparations would refuse rows some day."""

    def partition(self, connection: Connection, table: Table, users: UsersColumn | None) -> None:
        """Put a partitioned table in the place of a prepared one, which becomes its first partition."""
        raise NotImplementedError

    def unpartition(self, connection: Connection, table: Table, users: UsersColumn | None) -> None:
        """Put one table with all rows in the place of a partitioned one."""
        raise NotImplementedError

    def foreign_views(self, connection: Connection, table: Table, ours: Sequence[str]) -> list[str]:
        """Views of others on the table, which would go on reading the table of that identity."""
        return []
