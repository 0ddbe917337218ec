"""A user's page: what they used, how lately, and what they might like."""

from __future__ import annotations

import sqlalchemy as sa

from .. import tables
from ..errors import Problem
from ..html import render
from ..page_request import Visit
from ..results import answer

_ROWS = 50


def user(visit: Visit) -> str:
    """The page. Raises Problem for a user who was never seen."""
    who = visit.user
    usage = visit.tables.usage
    (used,) = visit.rows(
        sa.select(
            sa.func.count().label("features"),
            sa.func.sum(usage.c.usage_count).label("uses"),
            sa.func.max(usage.c.last_used).label("last_used"),
        ).where(usage.c.user_id == who)
    )
    if not used["features"]:
        raise Problem(
            404,
            "This user used nothing",
            f"No row of {usage.name} has the id “{who}”. Uses that were not written yet, or were rejected, have none.",
        )
    return render(
        "user.html",
        visit=visit,
        who=who,
        used=used,
        features=answer(tables.USER_FEATURES, visit, _ROWS),
        recommended=answer(tables.RECOMMEND, visit),
    )
