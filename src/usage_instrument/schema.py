"""The tables, for applications: define them in a MetaData, or create them in a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .database.schema import Created, create_all, define_tables
from .database.tables import Tables

if TYPE_CHECKING:
    from .database.mixin import FeatureUsageMixin

__all__ = ["Created", "FeatureUsageMixin", "Tables", "create_all", "define_tables"]


def __getattr__(name: str) -> Any:
    # The mixin needs the ORM, which costs a third of SQLAlchemy's import.
    if name == "FeatureUsageMixin":
        from .database.mixin import FeatureUsageMixin

        return FeatureUsageMixin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
