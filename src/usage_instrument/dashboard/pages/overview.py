"""The first page: what is used, by how many, and what stands out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from .. import tables
from ..html import render
from ..page_request import Visit
from ..results import answer, laid_out, rows_of
from ..totals import totals
from ..trends import trend

_CARDS = (
    tables.POWER_USERS,
    tables.UNUSED,
    tables.SPIKES,
)
_MANY = 10_000
"""More features than anybody has."""


def overview(visit: Visit) -> str:
    """The page."""
    catalog = visit.tables.catalog
    declared = visit.connection.scalar(sa.select(sa.func.count(sa.distinct(catalog.c.feature_name))))
    if visit.freshness.as_of is None:
        return render("empty.html", visit=visit, declared=declared)
    active = answer(tables.ACTIVE, visit)
    adopted = rows_of(tables.ADOPTION, visit, _MANY)
    return render(
        "overview.html",
        visit=visit,
        totals=totals(visit),
        active=active.rows[0].values,
        trend=trend(visit),
        declared=declared,
        used=len(adopted),
        answers=[
            laid_out(tables.TOP, visit, _by_use(adopted)),
            laid_out(tables.ADOPTION, visit, adopted),
            *(answer(question, visit) for question in _CARDS),
            active,
        ],
    )


def _by_use(adopted: Sequence[Any]) -> list[dict[str, Any]]:
    """The top features, which the answer on adoption has too: on many millions of rows each question counts."""
    found = sorted(adopted, key=lambda row: (-row["uses"], row["feature_name"] or ""))
    return [{"feature_name": row["feature_name"], "total_usage": row["uses"]} for row in found]
