"""Which features are not used, or no longer?"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, and_, func, not_, or_, select

from usage_instrument.database.tables import Tables

from .arguments import default_tables
from .numbers import by_name
from .questions import FEATURE, LAST_USED, Question, QuestionColumn, always, described, if_ended
from .sources import known_features, status
from .windows import Moment, Window, window
from .zones import TimeZone


def unused_features(
    since: Moment = None, *, until: Moment = None, tz: TimeZone = None, tables: Tables | None = None
) -> Select[str | None, str, int, dt.datetime | None, dt.datetime | None, str | None]:
    """Features without use, the never used first: `feature_name`, `status`, `uses`, `last_used`, `declared_at`,
    `description`.

    Without `since`, the declared features that were never used; with it (a timedelta back from now, a date, a datetime
    or the text of one) also those without use since then. With `until`, the features without use in the days of the
    window (of the time zone `tz` (default: UTC)), by the history, that were declared or used before its end; `uses` and
    `last_used` are still of all time. `status` is the reason: `retired` (the services that declared it have run for
    more than 30 days without it), `never` (declared, never used), `undeclared` (used, but not declared: perhaps
    renamed) or `dormant`. Times are UTC, or None. Raises ConfigurationError for a wrong argument.
    """
    tables, asked = tables or default_tables(), window(since, until, tz)
    features = known_features(tables)
    source: FromClause = features
    last_used, end = features.c.last_used, asked.end()
    kind = status(features, (features.c.declared_at.is_(None), "undeclared"), otherwise="dormant")
    if end is None:
        unused = or_(last_used.is_(None), *(not_(used) for used in asked.begins_by(last_used)))
    else:
        seen = _first_and_last(asked.history(tables, None), end).subquery("seen")
        same = or_(
            seen.c.feature_name == features.c.feature_name,
            and_(seen.c.feature_name.is_(None), features.c.feature_name.is_(None)),
        )
        source = features.outerjoin(seen, same)
        unused = _unused(features, seen, asked, end)
    columns = [features.c.feature_name, kind.label("status"), features.c.uses, last_used]
    return (
        select(*columns, features.c.declared_at, features.c.description)
        .select_from(source)
        .where(unused)
        .order_by(last_used.is_not(None), last_used, *by_name(features.c.feature_name))
    )


def _first_and_last(history: FromClause, end: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
    """The first and the last bucket of each feature before the end of a window."""
    start = history.c.bucket_start
    found = select(history.c.feature_name, func.min(start).label("first"), func.max(start).label("last"))
    return found.where(start < end).group_by(history.c.feature_name)


def _unused(features: FromClause, seen: FromClause, asked: Window, end: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether a feature was known by the end of the window, and has no use in it; the history may be shorter."""
    start, declared_at = asked.start(), asked.zone.local(features.c.declared_at)
    last_used = asked.zone.local(features.c.last_used)
    if start is None:
        return and_(declared_at < end, seen.c.last.is_(None), or_(last_used.is_(None), last_used >= end))
    is_known = or_(declared_at < end, seen.c.first < start, last_used < start)
    return and_(
        is_known,
        or_(seen.c.last.is_(None), seen.c.last < start),
        or_(last_used.is_(None), last_used < start, last_used >= end),
    )


UNUSED = described(
    Question(
        "unused",
        unused_features,
        "Unused",
        "Features that nobody uses.",
        "Features without a use {period}. Retired: no service declares it any more.",
        "Every feature that code declares was used {period}.",
        "--since 90d --fail-over 10",
        (
            FEATURE,
            QuestionColumn("status", "Status", "status"),
            LAST_USED,
            QuestionColumn("uses", "Uses", "count", is_extra=True),
            QuestionColumn("declared_at", "Declared", "time", is_extra=True),
            QuestionColumn("description", "Description", "text", is_extra=True),
        ),
        needs_hours=if_ended,
        takes_months=always,
        topic="Features",
    )
)
