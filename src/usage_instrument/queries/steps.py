"""The days, weeks or months in which a user was active, as the bits of one number.

So a database has one row in memory for each user. The distinct users and weeks are many times more rows, which it would
have to sort.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import CTE, BigInteger, ColumnElement, FromClause, Subquery, case, cast, func, select, union

from usage_instrument.database.expressions import Later
from usage_instrument.typing import Unit

from .numbers import ONE, number
from .windows import Window

_MOST = 62
"""Bits of a BIGINT without its sign."""
_LENGTHS: dict[Unit, int] = {"day": 1, "week": 7, "month": 28}
_RUN = 8
"""Steps that are counted together: users with the same bits of these are one row."""


def are_few(asked: Window, unit: Unit) -> bool:
    """Whether the units of a window, one before it and two after it have a bit each; the window may be one of another
    day by the clock of the database."""
    return asked.days is not None and asked.days // _LENGTHS[unit] + 5 <= _MOST


@dataclass(frozen=True)
class Steps:
    """The units of a calendar, numbered from 1. A user has a bit for each."""

    units: CTE
    """`n`, `bucket_start`."""
    unit: Unit

    def bits(self, moment: ColumnElement[Any], rows: ColumnElement[bool] | None = None) -> ColumnElement[int]:
        """The bits of a group of rows, or of some of them. Rows of the future have the bit after the last unit."""
        starts = select(self.units.c.bucket_start)
        ends = select(Later(self.unit, self.units.c.bucket_start, ONE))
        edges = func.array(union(starts, ends).order_by(ONE).scalar_subquery())
        bit = _bit(func.width_bucket(moment, edges))
        return func.bit_or(bit if rows is None else case((rows, bit)))

    def is_first(self, bits: ColumnElement[int]) -> ColumnElement[bool]:
        """The condition that a unit is the first one of these bits."""
        lowest: ColumnElement[bool] = bits.op("&")(-bits) == _bit(self.units.c.n)
        return lowest

    def counted(self, by_user: FromClause, bits: ColumnElement[int], *key: ColumnElement[Any]) -> Run:
        """The users by their bits, some units at a time."""
        firsts = self.units.alias(f"first_{self.units.name}")
        first = (firsts.c.n - ONE).label("first")
        run = (bits.op(">>")(first.element)).op("&")(number(2 ** (_RUN + 1) - 1)).label("run")
        is_first = firsts.c.n % number(_RUN) == ONE
        users = select(*key, first, run, func.count().label("users")).join_from(by_user, firsts, is_first)
        return Run(self, users.group_by(*key, first, run).subquery("runs"))


@dataclass(frozen=True)
class Run:
    """Users by their bits of some units and of the one before them."""

    steps: Steps
    rows: Subquery

    @property
    def units(self) -> FromClause:
        """The units, with the users by their bits."""
        n, first = self.steps.units.c.n, self.rows.c.first
        return self.steps.units.join(self.rows, n.between(first + ONE, first + number(_RUN)))

    @property
    def active(self) -> ColumnElement[int]:
        """The users who are active in a unit."""
        return func.sum(self.rows.c.users * self._is_active(0))

    @property
    def returning(self) -> ColumnElement[int]:
        """Those of them who are active in the unit before too."""
        return func.sum(self.rows.c.users * self._is_active(0) * self._is_active(1))

    def _is_active(self, ago: int) -> ColumnElement[int]:
        n, first = self.steps.units.c.n, self.rows.c.first
        place = n - first if not ago else n - first - number(ago)
        return self.rows.c.run.op(">>", precedence=5)(place).op("&")(ONE)


def _bit(place: ColumnElement[int]) -> ColumnElement[int]:
    return cast(ONE, BigInteger).op("<<")(place)
