"""The uses of a period by user and feature, whichever table has them."""

from __future__ import annotations

from sqlalchemy import FromClause, func, select

from usage_instrument.database.tables import Tables

from .arguments import rows_of
from .periods import Since, counted_since


def counts_since(tables: Tables, since: Since, feature: str | None = None) -> FromClause:
    """`user_id`, `feature_name`, `usage_count`, one row for each user and feature. Raises ConfigurationError.

    That is what `feature_usage` is by itself, so that users need no telling apart.
    """
    source, period = counted_since(tables, since)
    rows = [*rows_of(source.c.feature_name, feature), *period]
    if source is tables.usage and not rows:
        return source
    key = (source.c.user_id, source.c.feature_name)
    if source is tables.usage:
        return select(*key, source.c.usage_count).where(*rows).subquery("counts")
    uses = func.sum(source.c.usage_count).label("usage_count")
    return select(*key, uses).where(*rows).group_by(*key).subquery("counts")
