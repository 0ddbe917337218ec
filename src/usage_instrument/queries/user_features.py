"""Which features did this user use recently?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, overload

from sqlalchemy import Select, and_, func, or_, select

from usage_instrument.database.tables import Tables
from usage_instrument.typing import UserId

from .arguments import user_and_tables
from .comparison import Compare, compared, window_before
from .numbers import by_name, total
from .questions import FEATURE, LAST_USED, Query, Question, QuestionColumn, described, if_ended
from .windows import WEEK, Moment, Window, window
from .zones import TimeZone


@overload
def user_features(
    user_id: UserId,
    since: Moment = WEEK,
    *,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[str | None, int | None, dt.datetime, dict[str, Any] | None]: ...
@overload
def user_features(
    user_id: UserId,
    since: Moment = WEEK,
    *,
    until: Moment = None,
    compare: Compare,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def user_features(
    user_id: UserId,
    since: Moment = WEEK,
    *,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """The features of one user, the latest first: `feature_name`, `usage_count`, `last_used` (UTC), `metadata`.

    `usage_count` is of all time. `since` is a timedelta back from now, a date, a datetime, the text of one, or None for
    all time; its days are those of the time zone `tz` (default: UTC). With `until`, the history answers: `usage_count`
    is of the days of the window, `last_used` the last of its days (hours) with a use, and `metadata` is None if a later
    use has replaced it. A user of None is the anonymous user; a text is parsed as a UUID if the ids are UUIDs. Raises
    UserIdError for an id of another type, ConfigurationError for another wrong argument.

    `compare="previous"` makes the history answer too. It adds `usage_count_before` (in the window of the same length
    before), `usage_count_change` and `usage_count_relative_change` (0.1 is a tenth more, None if there was nothing
    before). Features that only the window before has come last, without `last_used` and `metadata`.
    """
    user_id, tables = user_and_tables(user_id, tables)
    usage = tables.usage
    asked, before = window(since, until, tz), window_before(compare, since, until, tz)
    if asked.until is not None or before is not None:
        return _of_history(user_id, asked, before, tables)
    found = select(usage.c.feature_name, usage.c.usage_count, usage.c.last_used, usage.c.metadata)
    found = found.where(usage.c.user_id == user_id, *asked.begins_by(usage.c.last_used))
    return found.order_by(usage.c.last_used.desc(), *by_name(usage.c.feature_name))


def _of_history(user_id: UserId, asked: Window, before: Window | None, tables: Tables) -> Query:
    usage, counted = tables.usage, _counted(user_id, asked, tables)
    if before is not None:
        counted = compared(counted, _counted(user_id, before, tables), ["feature_name"], ["usage_count"])
    used = counted.subquery("used")
    end = asked.end()
    is_latest = [] if end is None else [asked.zone.local(usage.c.last_used) < end]
    name, other = usage.c.feature_name, used.c.feature_name
    same = [usage.c.user_id == user_id, or_(name == other, and_(name.is_(None), other.is_(None)))]
    is_used = [] if before is None else [used.c.last_used.is_not(None)]
    metadata = select(usage.c.metadata).where(*same, *is_latest, *is_used).scalar_subquery().label("metadata")
    # By itself, PostgreSQL puts NULL before the latest time.
    last_is_none = [] if before is None else [used.c.last_used.is_(None)]
    return select(*used.c, metadata).order_by(*last_is_none, used.c.last_used.desc(), *by_name(used.c.feature_name))


def _counted(user_id: UserId, asked: Window, tables: Tables) -> Query:
    history = tables.history
    last, feature = func.max(history.c.bucket_start, type_=history.c.bucket_start.type), history.c.feature_name
    bucket = asked.zone.local(history.c.bucket_start)
    counted = select(feature, total(history.c.usage_count).label("usage_count"), last.label("last_used"))
    return counted.where(history.c.user_id == user_id, *asked.contains(bucket)).group_by(feature)


def _needs_hours(given: Mapping[str, Any]) -> bool:
    return if_ended(given) or given["compare"] is not None


USER_FEATURES = described(
    Question(
        "user",
        user_features,
        "Features",
        "The features that one user used lately.",
        "What this user used {period}, the latest first, with the latest context. The uses are of all time, unless the "
        "period has an end or is compared.",
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
        compared=("usage_count",),
        needs_hours=_needs_hours,
    )
)
