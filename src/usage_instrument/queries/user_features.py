"""Which features did this user use recently?"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Select, and_, func, or_, select

from usage_instrument.database.tables import Tables
from usage_instrument.typing import UserId

from .arguments import user_and_tables
from .numbers import by_name, total
from .questions import FEATURE, LAST_USED, Question, QuestionColumn, described, if_ended
from .windows import WEEK, Moment, Window, window
from .zones import TimeZone


def user_features(
    user_id: UserId, since: Moment = WEEK, *, until: Moment = None, tz: TimeZone = None, tables: Tables | None = None
) -> Select[str | None, int | None, dt.datetime, dict[str, Any] | None]:
    """The features of one user, the latest first: `feature_name`, `usage_count`, `last_used` (UTC), `metadata`.

    `usage_count` is of all time. `since` is a timedelta back from now, a date, a datetime, the text of one, or None for
    all time; its days are those of the time zone `tz` (default: UTC). With `until`, the history answers: `usage_count`
    is of the days of the window, `last_used` the last of its days (hours) with a use, and `metadata` is None if a later
    use has replaced it. A user of None is the anonymous user; a text is parsed as a UUID if the ids are UUIDs. Raises
    UserIdError for an id of another type, ConfigurationError for another wrong argument.
    """
    user_id, tables = user_and_tables(user_id, tables)
    usage = tables.usage
    asked = window(since, until, tz)
    if asked.until is not None:
        return _of_history(user_id, asked, tables)
    found = select(usage.c.feature_name, usage.c.usage_count, usage.c.last_used, usage.c.metadata)
    found = found.where(usage.c.user_id == user_id, *asked.begins_by(usage.c.last_used))
    return found.order_by(usage.c.last_used.desc(), *by_name(usage.c.feature_name))


def _of_history(
    user_id: UserId, asked: Window, tables: Tables
) -> Select[str | None, int | None, dt.datetime, dict[str, Any] | None]:
    history, usage = tables.history, tables.usage
    last, feature = func.max(history.c.bucket_start, type_=history.c.bucket_start.type), history.c.feature_name
    bucket = asked.zone.local(history.c.bucket_start)
    counted = select(feature, total(history.c.usage_count).label("usage_count"), last.label("last_used"))
    counted = counted.where(history.c.user_id == user_id, *asked.contains(bucket)).group_by(feature)
    used = counted.subquery("used")
    end = asked.end()
    is_latest = [] if end is None else [asked.zone.local(usage.c.last_used) < end]
    name, other = usage.c.feature_name, used.c.feature_name
    same = [usage.c.user_id == user_id, or_(name == other, and_(name.is_(None), other.is_(None)))]
    metadata = select(usage.c.metadata).where(*same, *is_latest).scalar_subquery().label("metadata")
    found = select(used.c.feature_name, used.c.usage_count, used.c.last_used, metadata)
    return found.order_by(used.c.last_used.desc(), *by_name(used.c.feature_name))


USER_FEATURES = described(
    Question(
        "user",
        user_features,
        "Features",
        "The features that one user used lately.",
        "What this user used {period}, the latest first, with the latest context. The uses are of all time, unless the "
        "period has an end.",
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
        is_of_all_time=True,
        needs_hours=if_ended,
    )
)
