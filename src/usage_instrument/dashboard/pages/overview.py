"""The overview: which features are used, by how many users, and which days stand out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from usage_instrument.queries.active_users import ACTIVE
from usage_instrument.queries.adoption import ADOPTION
from usage_instrument.queries.power_users import POWER_USERS
from usage_instrument.queries.spikes import SPIKES
from usage_instrument.queries.top_features import TOP
from usage_instrument.queries.unused_features import UNUSED

from ..html import render
from ..page_request import PageRequest
from ..results import laid_out, result, rows_of, totals_of, trend

_MANY = 10_000
"""More features than any app has."""


def overview(request: PageRequest) -> str:
    """The page."""
    catalog = request.tables.catalog
    declared = request.connection.scalar(sa.select(sa.func.count(sa.distinct(catalog.c.feature_name))))
    if request.freshness.as_of is None:
        return render("empty.html", request=request, declared=declared)
    active = result(ACTIVE, request)
    adopted = rows_of(ADOPTION, request, _MANY)
    uses = sum(row["uses"] for row in adopted) if len(adopted) < _MANY else None  # else there may be more
    return render(
        "overview.html",
        request=request,
        totals=totals_of(request, None, uses),
        active=active.rows[0].values,
        trend=trend(request),
        declared=declared,
        used=len(adopted),
        results=[
            laid_out(TOP, request, _by_use(adopted)),
            laid_out(ADOPTION, request, adopted),
            result(POWER_USERS, request),
            result(UNUSED, request),
            result(SPIKES, request.of_a_week()),
            active,
        ],
    )


def _by_use(adopted: Sequence[Any]) -> list[dict[str, Any]]:
    """The top features, from the answer on adoption: on many millions of rows each statement counts."""
    found = sorted(adopted, key=lambda row: (-row["uses"], row["feature_name"] or ""))
    return [{"feature_name": row["feature_name"], "total_usage": row["uses"]} for row in found]
