"""Mapped classes over the tables, which admin panels of SQLAlchemy show and change nothing of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import BigInteger, MetaData, cast, func, select
from sqlalchemy.orm import registry

from usage_instrument import _default
from usage_instrument.database.schema import define_tables
from usage_instrument.settings import Settings

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

PAGE = 50
"""Rows on a page of a panel."""


class Shown(NamedTuple):
    """A mapped class, and how a panel lists it."""

    model: type
    name: str
    """What one row is."""
    names: str
    columns: tuple[str, ...]
    search: tuple[str, ...]
    order: str
    """The column to sort by, the largest first."""


def shown(tables: Tables | None = None) -> list[Shown]:
    """The classes of a panel: the most used features, the uses by user, and the features that code declares.

    `tables` default to those of the configured tracker. Each call makes new classes.
    """
    tables = tables or _configured_tables()
    usage, catalog = tables.usage, tables.catalog
    most_used = (
        select(
            usage.c.feature_name,
            cast(func.sum(usage.c.usage_count), BigInteger).label("uses"),
            func.count(usage.c.user_id).label("users"),
            func.max(usage.c.last_used, type_=usage.c.last_used.type).label("last_used"),
        )
        .where(usage.c.feature_name.is_not(None))
        .group_by(usage.c.feature_name)
        .subquery("most_used")
    )
    kinds: tuple[tuple[str, Any, dict[str, Any], str, str, tuple[str, ...], str], ...] = (
        (
            "MostUsedFeature", most_used, {"primary_key": [most_used.c.feature_name]},
            "Most used feature", "Most used features", ("feature_name", "uses", "users", "last_used"), "uses",
        ),
        (
            "FeatureUsage", usage, {}, "Feature usage", "Feature usage",
            ("feature_name", "user_id", "usage_count", "last_used"), "last_used",
        ),
        (
            "DeclaredFeature", catalog, {}, "Declared feature", "Declared features",
            ("feature_name", "service", "description", "source", "declared_at"), "declared_at",
        ),
    )  # fmt: skip
    found = []
    for name, source, options, one, many, columns, order in kinds:
        model = type(name, (), {"__doc__": many, "__str__": lambda row: str(row.feature_name)})
        # `metadata` is a name of SQLAlchemy's own on declarative classes, which panels expect.
        properties = {"context": source.c.metadata} if "metadata" in source.c else {}
        registry().map_imperatively(model, source, properties=properties, **options)
        found.append(Shown(model, one, many, columns, ("feature_name",), order))
    return found


def _configured_tables() -> Tables:
    tracker = _default.tracker()
    settings = Settings.from_environment() if tracker is None else tracker.settings
    return define_tables(MetaData(), schema=settings.schema, users=None, user_id_type=settings.user_id_type)
