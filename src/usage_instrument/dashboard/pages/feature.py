"""The page of a feature: its declaration, trend, users, variants, dimensions and related features."""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
from collections.abc import Sequence

import sqlalchemy as sa

from usage_instrument.database.definitions import OPTIONAL
from usage_instrument.database.reflection import is_readable
from usage_instrument.events import NUMBERS
from usage_instrument.queries.dimensions import DIMENSIONS
from usage_instrument.queries.power_users import POWER_USERS
from usage_instrument.queries.related_features import RELATED
from usage_instrument.queries.spikes import SPIKES
from usage_instrument.queries.variants import VARIANTS
from usage_instrument.queries.windows import window_words

from ..errors import PageError
from ..html import address, render
from ..page_request import MAX_KEY, PageRequest
from ..results import Result, result, totals_of, trend, window_of
from .search import names_of

RETIRED = dt.timedelta(days=30)
_SAMPLE = 200
"""Rows whose metadata is read for keys."""
_KEYS = 12


def feature(request: PageRequest) -> str:
    """The page. Raises PageError for a feature that neither code nor table knows."""
    name, usage, catalog = request.feature, request.tables.usage, request.tables.catalog
    columns = (column for column in catalog.c if OPTIONAL not in column.info)
    declared = request.rows(sa.select(*columns).where(catalog.c.feature_name == name).order_by("service"))
    (used,) = request.rows(
        sa.select(
            sa.func.count().label("rows"),
            sa.func.sum(usage.c.usage_count).label("uses"),
            sa.func.count(usage.c.user_id).label("users"),
            sa.func.max(usage.c.last_used).label("last_used"),
        ).where(usage.c.feature_name == name)
    )
    if not declared and not used["rows"]:
        raise _unknown(request, name)
    dimensions = request.cached(("dimensions of", name), lambda: _dimensions(request, name))
    named = [each for each in dimensions if each != NUMBERS][:_KEYS]
    keys = list(dict.fromkeys([*named, *_keys(request, name)]))[:_KEYS]
    key = request.parameters.get("key") or (keys[0] if keys else None)
    dimension = request.parameters.get("dimension") or (named[0] if named else None)
    with_key = dataclasses.replace(request, parameters={**request.parameters, "key": key or ""})
    return render(
        "feature.html",
        request=request,
        name=name,
        declared=declared,
        stale=request.freshness.now - RETIRED,
        used=used,
        totals=totals_of(request, name),
        trend=trend(request),
        keys=keys,
        key=key,
        variants=None if key is None else result(VARIANTS, with_key),
        dimensions=named,
        dimension=dimension,
        by_dimension=_by_dimension(request, dimension) if dimensions else None,
        results=[result(POWER_USERS, request), result(RELATED, request), result(SPIKES, request.of_a_week())],
    )


def _keys(request: PageRequest, name: str) -> Sequence[str]:
    """The most frequent keys in the metadata of some of the feature's rows."""
    usage = request.tables.usage
    sample = request.connection.scalars(
        sa.select(usage.c.metadata).where(usage.c.feature_name == name, usage.c.metadata.is_not(None)).limit(_SAMPLE)
    )
    found: dict[str, int] = {}
    for metadata in sample:
        for key in metadata if isinstance(metadata, dict) else ():
            found[key] = found.get(key, 0) + 1
    usual = sorted((key for key in found if 0 < len(key) <= MAX_KEY), key=lambda key: (-found[key], key))
    return usual[:_KEYS]


def _dimensions(request: PageRequest, name: str) -> Sequence[str]:
    """The dimensions of the feature, and NUMBERS if its uses have some; none without the table."""
    dimensions = request.tables.dimensions
    if not is_readable(request.connection, dimensions):
        return []
    names = sa.select(dimensions.c.dimension).distinct().where(dimensions.c.feature_name == name)
    return sorted(request.connection.scalars(names))


def _by_dimension(request: PageRequest, dimension: str | None) -> Result:
    """The values of a dimension; without one, the numbers of all uses."""
    parameters = {**request.parameters, "dimension": dimension or NUMBERS, "by": ""}
    found = result(DIMENSIONS, dataclasses.replace(request, parameters=parameters))
    period = window_words(*window_of(DIMENSIONS, request))
    what, unshown, rows = "How often the feature was used with each value", {"dimension"}, found.rows
    if dimension is None:
        what, unshown = "The numbers beside the uses", {"dimension", "dimension_value", "share"}
        rows = [dataclasses.replace(row, bar=None) for row in rows]
    elif not any(row.values["value_mean"] is not None for row in rows):
        unshown |= {"value_sum", "value_mean"}
    columns = tuple(column for column in found.columns if column.name not in unshown)
    return dataclasses.replace(found, about=f"{what} {period}.", columns=columns, rows=rows)


def _unknown(request: PageRequest, name: str) -> PageError:
    near = difflib.get_close_matches(name, [known for known in names_of(request) if known], 5)
    return PageError(
        404,
        f"No feature is called “{name}”",
        "Neither the code nor the table knows this name. Check its spelling; its rows may have been deleted.",
        links=tuple((known, address("feature", feature=known, **request.kept)) for known in near),
    )
