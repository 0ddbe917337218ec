"""Every feature that code declares or anybody used, and what has become of it: the one place that decides."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import ColumnElement, Subquery, case, func, literal_column, null, select, union_all

from usage_instrument.database.expressions import Ago, Later
from usage_instrument.database.tables import Tables

from .defaults import ONE, ZERO, total

DORMANT = dt.timedelta(days=90)
"""A feature without use for so long is dormant."""
RETIRED = 30
"""In days: a feature is retired when each service that declared it has lived on for longer without declaring it."""


def known_features(tables: Tables) -> Subquery:
    """A row for each feature: `feature_name`, `users`, `uses`, `last_used`, `declared_at`, `description`, `retired`.

    `last_used` is None without use, `declared_at` without a declaration; `retired` is 1 or 0.
    """
    usage, catalog = tables.usage, tables.catalog
    used = select(
        usage.c.feature_name,
        func.count(usage.c.user_id).label("users"),
        func.sum(usage.c.usage_count).label("uses"),
        func.max(usage.c.last_used).label("last_used"),
        null().label("declared_at"),
        null().label("description"),
        null().label("retired"),
    ).group_by(usage.c.feature_name)
    alive = (
        select(catalog.c.service, func.max(catalog.c.last_declared_at).label("until"))
        .group_by(catalog.c.service)
        .subquery("services")
    )
    deserted = alive.c.until > Later("day", catalog.c.last_declared_at, literal_column(str(RETIRED)))
    declared = (
        select(
            catalog.c.feature_name,
            null(),
            null(),
            null(),
            func.min(catalog.c.declared_at),
            func.max(catalog.c.description),
            func.min(case((deserted, ONE), else_=ZERO)),
        )
        .join(alive, alive.c.service == catalog.c.service)
        .group_by(catalog.c.feature_name)
    )
    both = union_all(used, declared).subquery("both_sides")
    times = {name: func.max(both.c[name], type_=tables.usage.c.last_used.type) for name in ("last_used", "declared_at")}
    return (
        select(
            both.c.feature_name,
            total(both.c.users).label("users"),
            total(both.c.uses).label("uses"),
            times["last_used"].label("last_used"),
            times["declared_at"].label("declared_at"),
            func.max(both.c.description, type_=catalog.c.description.type).label("description"),
            total(both.c.retired).label("retired"),
        )
        .group_by(both.c.feature_name)
        .subquery("features")
    )


def status(features: Any, *fallback: Any) -> ColumnElement[str]:
    """`retired` or `never` by what the catalogue says, then what `fallback` says: conditions, each with its status.

    Without any: `dormant` after 90 days without use, else `used`.
    """
    known = [(features.c.retired == ONE, _text("retired")), (features.c.last_used.is_(None), _text("never"))]
    if not fallback:
        fallback = ((features.c.last_used < Ago(DORMANT), "dormant"), (features.c.last_used.is_not(None), "used"))
    return case(*known, *((condition, _text(name)) for condition, name in fallback))


def _text(name: str) -> ColumnElement[str]:
    return literal_column(f"'{name}'")
