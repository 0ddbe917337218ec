"""The query of the trail: who accessed what, the newest first."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Select, exists, select

from usage_instrument.database.expressions import Ago
from usage_instrument.typing import UNSET, Outcome, Unset, UserId

from .chain import MALFORMED, Row, pseudonym_of

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

_NESTED = 100
"""So many brackets may be nested too deep."""
_COLUMNS = (
    "occurred_at", "user_id", "actor_id", "feature_name", "outcome", "request_id", "service", "metadata", "access_id",
    "chain_id", "number", "seal",
)  # fmt: skip


def accesses(
    tables: Tables,
    *,
    user: UserId | Unset = UNSET,
    actor: UserId | Unset = UNSET,
    feature: str | None = None,
    outcome: Outcome | None = None,
    since: dt.timedelta | dt.datetime | None = None,
    until: dt.datetime | None = None,
    unresolved: bool = False,
    limit: int | None = 100,
) -> Select[Any]:
    """The accesses that match, the newest first, with all columns but `link`. `person` reads their users and actors.

    `user=None` matches anonymous accesses. `since` is a time (UTC, naive) or an age. `unresolved` matches attempts
    without an outcome: cut short, or still running. `limit=None` returns all rows.
    """
    access = tables.access
    query = select(*(access.c[name] for name in _COLUMNS)).order_by(
        access.c.occurred_at.desc(), access.c.chain_id, access.c.number.desc()
    )
    if user is not UNSET:
        query = query.where(access.c.user_id.is_(None) if user is None else access.c.user_id == user)
    if actor is not UNSET:
        query = query.where(access.c.actor_id.is_(None) if actor is None else access.c.actor_id == actor)
    if feature is not None:
        query = query.where(access.c.feature_name == feature)
    if outcome is not None:
        query = query.where(access.c.outcome == outcome)
    if since is not None:
        start: Any = Ago(since) if isinstance(since, dt.timedelta) else since
        query = query.where(access.c.occurred_at >= start)
    if until is not None:
        query = query.where(access.c.occurred_at < until)
    if unresolved:
        ended = access.alias()
        has_ended = exists().where(
            ended.c.occurred_at == access.c.occurred_at,  # which has an index
            ended.c.access_id == access.c.access_id,
            ended.c.outcome != "attempted",
        )
        query = query.where(access.c.outcome == "attempted", ~has_ended)
    return query if limit is None else query.limit(limit)


def metadata_of(row: Row) -> Any:
    """The metadata of a row: JSON values, or the raw text where it is no JSON."""
    text = row["metadata"]
    try:
        values = None if text is None else json.loads(text)
        if text is not None and text.count("[") + text.count("{") > _NESTED:
            json.dumps(values, indent=1)  # raises where it is nested too deep for a reader
    except MALFORMED:
        return text
    return values


def person(row: Row, part: Literal["user", "actor"]) -> object:
    """The user or actor of a row: an id, `forgotten:` and a pseudonym of 16 hexadecimal digits, or None."""
    pseudonym = pseudonym_of(row, part)
    return row[f"{part}_id"] if pseudonym is None else f"forgotten:{pseudonym}"
