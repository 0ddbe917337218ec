"""Which features are used most?"""

from __future__ import annotations

from sqlalchemy import Select, select

from usage_instrument.errors import ConfigurationError
from usage_instrument.schema import Tables

from .defaults import default_tables, total


def top_features(limit: int = 5, *, tables: Tables | None = None) -> Select[tuple[str | None, int]]:
    """The most used features and how often all users together used them: `feature_name`, `total_usage`.

    Raises ConfigurationError for a limit that is no whole number of at least 1.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"limit is a whole number of at least 1, not {limit!r}")
    usage = (tables or default_tables()).usage
    uses = total(usage.c.usage_count).label("total_usage")
    return (
        select(usage.c.feature_name, uses)
        .group_by(usage.c.feature_name)
        .order_by(uses.desc(), usage.c.feature_name)
        .limit(limit)
    )
