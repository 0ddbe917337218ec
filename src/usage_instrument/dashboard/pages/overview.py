"""The first page: what is used, by how many, and what stands out."""

from __future__ import annotations

import sqlalchemy as sa

from .. import questions
from ..answers import answer, laid_out
from ..html import render
from ..totals import totals
from ..trends import trend
from ..visit import Visit

_CARDS = (
    questions.ADOPTION,
    questions.POWER_USERS,
    questions.UNUSED,
    questions.SPIKES,
)
_MANY = 10_000
"""More features than anybody has."""


def overview(visit: Visit) -> str:
    """The page."""
    catalog = visit.tables.catalog
    declared = visit.connection.scalar(sa.select(sa.func.count(sa.distinct(catalog.c.feature_name))))
    if visit.freshness.as_of is None:
        return render("empty.html", visit=visit, declared=declared)
    active = answer(questions.ACTIVE, visit)
    used = visit.rows(questions.TOP.ask(visit, _MANY))
    return render(
        "overview.html",
        visit=visit,
        totals=totals(visit.connection, visit.tables, visit.period),
        active=active.rows[0].values,
        trend=trend(visit),
        declared=declared,
        used=len(used),
        answers=[laid_out(questions.TOP, visit, used), *(answer(question, visit) for question in _CARDS), active],
    )
