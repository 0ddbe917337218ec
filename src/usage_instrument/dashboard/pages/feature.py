"""A feature's page: what it is, its trend, who uses it, in which variants, and what goes with it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
from collections.abc import Sequence

import sqlalchemy as sa

from .. import tables
from ..errors import Problem
from ..html import address, render
from ..page_request import MAX_KEY, Visit
from ..results import answer
from ..totals import totals
from ..trends import trend
from .search import names_of

RETIRED = dt.timedelta(days=30)
_SAMPLE = 200
"""Rows whose metadata is looked at for keys."""
_KEYS = 12


def feature(visit: Visit) -> str:
    """The page. Raises Problem for a feature that neither code nor table knows."""
    name = visit.feature
    declared = visit.rows(
        sa.select(visit.tables.catalog).where(visit.tables.catalog.c.feature_name == name).order_by("service")
    )
    usage = visit.tables.usage
    (used,) = visit.rows(
        sa.select(
            sa.func.count().label("rows"),
            sa.func.sum(usage.c.usage_count).label("uses"),
            sa.func.count(usage.c.user_id).label("users"),
            sa.func.max(usage.c.last_used).label("last_used"),
        ).where(usage.c.feature_name == name)
    )
    if not declared and not used["rows"]:
        raise _unknown(visit, name)
    keys = _keys(visit, name)
    key = visit.parameters.get("key") or (keys[0] if keys else None)
    variants = None
    if key is not None:
        variants = answer(tables.VARIANTS, dataclasses.replace(visit, parameters={**visit.parameters, "key": key}))
    return render(
        "feature.html",
        visit=visit,
        name=name,
        declared=declared,
        stale=visit.freshness.now - RETIRED,
        used=used,
        totals=totals(visit, name),
        trend=trend(visit),
        keys=keys,
        key=key,
        variants=variants,
        answers=[answer(question, visit) for question in (tables.POWER_USERS, tables.RELATED, tables.SPIKES)],
    )


def _keys(visit: Visit, name: str) -> Sequence[str]:
    """The keys of the metadata that some of the feature's rows have."""
    usage = visit.tables.usage
    sample = visit.connection.scalars(
        sa.select(usage.c.metadata).where(usage.c.feature_name == name, usage.c.metadata.is_not(None)).limit(_SAMPLE)
    )
    found: dict[str, int] = {}
    for metadata in sample:
        for key in metadata if isinstance(metadata, dict) else ():
            found[key] = found.get(key, 0) + 1
    usual = sorted((key for key in found if 0 < len(key) <= MAX_KEY), key=lambda key: (-found[key], key))
    return usual[:_KEYS]


def _unknown(visit: Visit, name: str) -> Problem:
    near = difflib.get_close_matches(name, [known for known in names_of(visit) if known], 5)
    return Problem(
        404,
        f"No feature is called “{name}”",
        "Neither the code nor the table knows that name. It may be spelt otherwise, or its rows may have been deleted.",
        links=tuple((known, address("feature", feature=known, **visit.kept)) for known in near),
    )
