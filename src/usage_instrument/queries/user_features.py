"""Which features did this user use recently?"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Select, select

from usage_instrument.database.tables import Tables
from usage_instrument.typing import UserId

from .arguments import user_and_tables
from .numbers import by_name
from .periods import WEEK, Since, used_since


def user_features(
    user_id: UserId, since: Since = WEEK, *, tables: Tables | None = None
) -> Select[str | None, int | None, dt.datetime, dict[str, Any] | None]:
    """The features of one user, the latest first: `feature_name`, `usage_count`, `last_used` (UTC), `metadata`.

    `usage_count` is of all time. `since` is a timedelta back from now, a datetime (UTC unless it has a time zone), or
    None for all time. A user of None is the anonymous user; a text is parsed as a UUID if the ids are UUIDs. Raises
    UserIdError for an id of another type, ConfigurationError for another `since`.
    """
    user_id, tables = user_and_tables(user_id, tables)
    usage = tables.usage
    found = select(usage.c.feature_name, usage.c.usage_count, usage.c.last_used, usage.c.metadata)
    found = found.where(usage.c.user_id == user_id, *used_since(usage.c.last_used, since))
    return found.order_by(usage.c.last_used.desc(), *by_name(usage.c.feature_name))
