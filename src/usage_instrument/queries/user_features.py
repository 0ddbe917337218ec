"""Which features did this user use lately?"""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select

from usage_instrument.errors import ConfigurationError, UserIdError
from usage_instrument.schema import Tables
from usage_instrument.typing import UserId, UserIdType

from .defaults import default_tables

WEEK = dt.timedelta(days=7)


def user_features(
    user_id: UserId, since: dt.timedelta | dt.datetime | None = WEEK, *, tables: Tables | None = None
) -> Select[tuple[str | None, int | None, dt.datetime, dict[str, Any] | None]]:
    """What one user used since then, the latest first: `feature_name`, `usage_count`, `last_used` (UTC), `metadata`.

    `usage_count` is of all time. `since` is a timedelta back from now, a datetime (UTC, unless it says otherwise), or
    None for everything. A user of None is the anonymous user, and the text of a UUID is a UUID where ids are. Raises
    UserIdError for an id that the tables cannot hold and ConfigurationError for another `since`.
    """
    tables = tables or default_tables(_kind(user_id))
    usage = tables.usage
    user_id = _converted(user_id, tables.user_id_type)
    found = select(usage.c.feature_name, usage.c.usage_count, usage.c.last_used, usage.c.metadata).where(
        usage.c.user_id.is_(None) if user_id is None else usage.c.user_id == user_id
    )
    start = _start(since)
    if start is not None:
        found = found.where(usage.c.last_used >= start)
    return found.order_by(usage.c.last_used.desc(), usage.c.feature_name)


def _kind(user_id: UserId) -> UserIdType:
    """The tables that such an id comes from, where nobody says."""
    if isinstance(user_id, str):
        return "string" if _uuid(user_id) is None else "uuid"
    return "integer" if isinstance(user_id, int) else "uuid"


def _converted(user_id: UserId, kind: UserIdType) -> UserId:
    if kind == "uuid" and isinstance(user_id, str):
        user_id = _uuid(user_id) or user_id
    type_ = {"uuid": UUID, "integer": int, "string": str}[kind]
    if user_id is not None and (isinstance(user_id, bool) or not isinstance(user_id, type_)):
        raise UserIdError(f"user ids of these tables are of type {kind}, and {user_id!r} is not")
    return user_id


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _start(since: object) -> dt.datetime | None:
    if isinstance(since, dt.timedelta):
        return dt.datetime.now(dt.UTC).replace(tzinfo=None) - since
    if isinstance(since, dt.datetime):
        return since if since.tzinfo is None else since.astimezone(dt.UTC).replace(tzinfo=None)
    if since is None:
        return None
    raise ConfigurationError(f"since is a timedelta, a datetime or None, not {since!r}")
