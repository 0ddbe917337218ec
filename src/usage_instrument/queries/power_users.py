"""Who uses the application, or one feature of it, most?"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Select, func, select

from usage_instrument.schema import Tables
from usage_instrument.typing import UserId

from .arguments import checked_limit, rows_of
from .defaults import default_tables, share, total
from .periods import Since, counted_since


def power_users(
    feature: str | None = None, limit: int = 10, *, since: Since = None, tables: Tables | None = None
) -> Select[UserId, int, float, int, dt.datetime]:
    """The users with the most uses, of one feature or of all: `user_id`, `uses`, `share`, `features`, `last_used`.

    `share` (0 to 1) is of all uses, the anonymous ones included; `features` is how many different ones the user used of
    those asked about. The anonymous user is no power user. `since` is a timedelta (7 days: today and the six before,
    UTC) or a datetime (from its day on), answered from the history. Raises ConfigurationError for a wrong argument.
    """
    tables = tables or default_tables()
    source, period = counted_since(tables, since)
    rows = [*rows_of(source.c.feature_name, feature), *period]
    user, uses = source.c.user_id, total(source.c.usage_count).label("uses")
    everything = select(uses).where(*rows).scalar_subquery()
    top = (
        select(user, uses, func.count(source.c.feature_name.distinct()).label("features"))
        .where(user.is_not(None), *rows)
        .group_by(user)
        .order_by(uses.desc(), user)
        .limit(checked_limit(limit))
        .subquery("top_users")
    )
    usage = tables.usage
    last = select(func.max(usage.c.last_used)).where(
        usage.c.user_id == top.c.user_id, *rows_of(usage.c.feature_name, feature)
    )
    columns = [top.c.user_id, top.c.uses, share(top.c.uses, everything).label("share"), top.c.features]
    return select(*columns, last.scalar_subquery().label("last_used")).order_by(top.c.uses.desc(), top.c.user_id)
