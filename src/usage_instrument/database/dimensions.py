"""The rows of `feature_usage_dimensions` that the counts of a batch change, and the limit of different values."""

from __future__ import annotations

import datetime as dt
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, func, literal_column, select

from usage_instrument.events import NUMBERS, OTHER, Count, Slice
from usage_instrument.runtime import log
from usage_instrument.typing import UserId

from .tables import Tables

_FULL = 60.0
"""Seconds until the values of a dimension that has as many as it may are read again: pruning may have made room."""
_BEYOND = 50
"""Values beyond the limit that are read too: writers that add some at the same moment may exceed it."""


class DimensionRow(NamedTuple):
    """The uses of one feature by one user on one day with one value of a dimension, to be added to one row."""

    user: UserId
    feature: str
    slice: Slice

    @property
    def order(self) -> tuple[Any, ...]:
        """The sort key: all writers lock their common rows in one order, the anonymous user's last."""
        start, dimension, value = self.slice.key
        return self.user is None, self.user or 0, self.feature, dimension, value, start


def dimension_rows(counts: Iterable[Count]) -> list[DimensionRow]:
    """Each row once, in the order in which all writers lock them."""
    return _added(DimensionRow(count.user, count.feature, each) for count in counts for each in count.slices)


def _added(rows: Iterable[DimensionRow]) -> list[DimensionRow]:
    found: dict[tuple[UserId, str, tuple[dt.datetime, str, str]], DimensionRow] = {}
    for row in rows:
        key = (row.user, row.feature, row.slice.key)
        known = found.get(key)
        found[key] = row if known is None else known._replace(slice=known.slice.plus(row.slice))
    return sorted(found.values(), key=lambda row: row.order)


class DimensionValues:
    """The values that the table has of each dimension of a feature, so that the different ones stay within a limit.

    The values of the table are read, in the transaction that writes, before a value is added that this writer has not
    seen. So writers that add values one after another keep to the limit together. On PostgreSQL, writers that commit at
    the same moment may each add their values.
    """

    def __init__(self, tables: Tables, limit: int) -> None:
        self._tables = tables
        self._limit = limit
        self._found: dict[tuple[str, str], set[str]] = {}
        self._read_at: dict[tuple[str, str], float] = {}

    def limited(self, connection: Connection, rows: Sequence[DimensionRow]) -> list[DimensionRow]:
        """The rows, with OTHER for values beyond the limit."""
        given: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for row in rows:
            if row.slice.dimension != NUMBERS:
                given[row.feature, row.slice.dimension].add(row.slice.value)
        beyond = {key: found for key, values in given.items() if (found := self._beyond(connection, key, values))}
        if not beyond:
            return [*rows]
        for feature, dimension in beyond:
            log.once(
                ("dimension values", feature, dimension),
                "the dimension %r of feature %r has more than %d different values: further ones count as %s; pass "
                "values of which there are few, or raise dimension_values",
                dimension, feature, self._limit, OTHER,
            )  # fmt: skip
        return _added(
            row._replace(slice=row.slice._replace(value=OTHER))
            if row.slice.value in beyond.get((row.feature, row.slice.dimension), ())
            else row
            for row in rows
        )

    def _beyond(self, connection: Connection, key: tuple[str, str], values: set[str]) -> set[str]:
        known, now = self._found.get(key, set()), time.monotonic()
        new = values - known - {OTHER}
        if not new:
            return set()
        if len(known) < self._limit or now >= self._read_at[key] + _FULL:
            known = self._found[key] = self._read(connection, *key)
            self._read_at[key] = now
            new -= known
        added = sorted(new)[: max(self._limit - len(known), 0)]
        known.update(added)
        return new.difference(added)

    def _read(self, connection: Connection, feature: str, dimension: str) -> set[str]:
        """The values of a dimension: one look into the index for each, however many rows have it."""
        table = self._tables.dimensions
        value = table.c.dimension_value
        its = and_(table.c.feature_name == feature, table.c.dimension == dimension)
        one: ColumnElement[int] = literal_column("1")
        first: Select[Any, int] = select(func.min(value).label("value"), one.label("number")).where(its)
        found = first.cte("found", recursive=True)
        following = select(func.min(value)).where(its, value > found.c.value).scalar_subquery()
        more = found.c.number <= literal_column(str(self._limit + _BEYOND))
        found = found.union_all(select(following, found.c.number + one).where(found.c.value.is_not(None), more))
        values = connection.scalars(select(found.c.value).where(found.c.value.is_not(None)))
        return {each for each in values if each != OTHER}
