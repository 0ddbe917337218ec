"""Public: the tables, defined in a MetaData or created in a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .database.schema import Created, create_all, define_tables
from .database.tables import Tables

if TYPE_CHECKING:
    from .database.mixin import FeatureUsageMixin

__all__ = ["Created", "FeatureUsageMixin", "Tables", "create_all", "define_tables"]


def __getattr__(name: str) -> Any:
    # The mixin needs the ORM, a third of the import time of SQLAlchemy.
    if name == "FeatureUsageMixin":
        from .database.mixin import FeatureUsageMixin

        return FeatureUsageMixin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
