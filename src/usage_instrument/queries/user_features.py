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
from .questions import FEATURE, LAST_USED, Question, QuestionColumn, described


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


USER_FEATURES = described(
    Question(
        "user",
        user_features,
        "Features",
        "The features that one user used lately.",
        "What this user used {period}, the latest first, with the latest context. The uses are those of all time.",
        "This user used nothing {period}.",
        "6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55 --since 30d",
        (
            FEATURE,
            QuestionColumn("usage_count", "Uses", "count"),
            LAST_USED,
            QuestionColumn("metadata", "Latest context", "context"),
        ),
        bar="usage_count",
        page_name="user-features",
    )
)
