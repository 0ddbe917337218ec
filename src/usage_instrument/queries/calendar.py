"""The hours, days, weeks or months of a period, used or not: what fills the gaps."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CTE, ColumnElement, literal_column, select, union_all

from usage_instrument.database.expressions import Ago, Later
from usage_instrument.typing import Unit

from .defaults import ONE, ZERO


def calendar(unit: Unit, start: ColumnElement[Any], end: ColumnElement[Any] | None = None) -> CTE:
    """A row for each unit from its `start` until now (or before `end`): `bucket_start`. Without a start, none.

    The units are numbered like the nodes of a binary tree, n having the children 2n and 2n + 1: a recursion as deep as
    the logarithm of their number, as MariaDB gives up silently after a thousand rounds.
    """
    span = select(start.label("start")).subquery("span")
    children = union_all(select(ZERO.label("child")), select(ONE)).subquery("children")
    first = select(ONE.label("n"), span.c.start, span.c.start.label("bucket_start")).where(span.c.start.is_not(None))
    units = first.cte("units", recursive=True)
    number = units.c.n * literal_column("2") + children.c.child
    moment = Later(unit, units.c.start, number - ONE)
    inside = moment <= Ago() if end is None else moment < end
    every = children.c.child <= units.c.n  # always so, but without a comparison SQLAlchemy warns of a product
    more = (
        select(number.label("n"), units.c.start, moment.label("bucket_start"))
        .select_from(units)
        .join(children, every)
        .where(inside)
    )
    return units.union_all(more)
