"""The figures of a period, beside those of the one before it."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from usage_instrument.database.tables import Tables
from usage_instrument.queries.periods import first_start

from .page_request import Visit
from .period import Period


@dataclass(frozen=True)
class Figure:
    """A number of the period."""

    value: int
    before: int | None
    """The same of as many days before; None when the history does not reach that far."""


@dataclass(frozen=True)
class Totals:
    """What a period adds up to."""

    uses: Figure
    users: Figure
    is_known: bool
    """Whether there is any history; without it, nothing is known of any period."""


def totals(visit: Visit, feature: str | None = None) -> Totals:
    """Add up the history, of one feature or of all."""
    return visit.remembered(("totals", feature), lambda: _totals(visit.connection, visit.tables, visit.period, feature))


def _totals(connection: sa.Connection, tables: Tables, period: Period, feature: str | None) -> Totals:
    history = tables.history
    start, before = first_start(period.since), first_start(2 * period.since)
    is_now = sa.case((history.c.bucket_start >= start, 1), else_=0).label("is_now")
    found = sa.select(is_now, history.c.user_id, sa.func.sum(history.c.usage_count).label("uses"))
    found = found.where(history.c.bucket_start >= before).group_by(is_now, history.c.user_id)
    if feature is not None:
        found = found.where(history.c.feature_name == feature)
    # By user first: to count the distinct ones of all rows, a database would sort them.
    by_user = found.subquery()
    columns = []
    for name, side in (("now", 1), ("before", 0)):
        is_side = by_user.c.is_now == side
        columns += [
            sa.func.sum(sa.case((is_side, by_user.c.uses), else_=0)).label(f"uses_{name}"),
            sa.func.count(sa.case((is_side, by_user.c.user_id))).label(f"users_{name}"),
        ]
    reaches = sa.exists().where(history.c.bucket_start <= before).label("reaches")
    is_known = sa.exists(history.c.bucket_start).label("is_known")
    row = connection.execute(sa.select(*columns, reaches, is_known).select_from(by_user)).one()

    def figure(name: str) -> Figure:
        earlier = int(getattr(row, f"{name}_before") or 0)
        return Figure(int(getattr(row, f"{name}_now") or 0), earlier if row.reaches and earlier else None)

    return Totals(figure("uses"), figure("users"), bool(row.is_known))
