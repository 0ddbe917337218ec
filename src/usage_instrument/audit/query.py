"""Who accessed what: the rows of the trail as a question, the newest first."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import ColumnElement, Select, select

from usage_instrument.database.expressions import Ago
from usage_instrument.typing import UNSET, Outcome, Unset, UserId, _Unset

from .chain import Row, pseudonym_of

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables


def accesses(
    tables: Tables,
    *,
    user: UserId | Unset = UNSET,
    actor: UserId | Unset = UNSET,
    feature: str | None = None,
    outcome: Outcome | None = None,
    since: dt.timedelta | dt.datetime | None = None,
    until: dt.datetime | None = None,
    limit: int | None = 100,
) -> Select[Any]:
    """The accesses by these, the newest first: occurred_at, user_id, actor_id, feature_name, outcome, request_id,
    service, metadata, access_id, chain_id, number, seal (which `whose` reads).

    `user=None` is nobody known, `since` a time (UTC, naive) or how long ago, `limit` the most rows, None for all.
    """
    access = tables.access
    asked = select(
        access.c.occurred_at,
        access.c.user_id,
        access.c.actor_id,
        access.c.feature_name,
        access.c.outcome,
        access.c.request_id,
        access.c.service,
        access.c.metadata,
        access.c.access_id,
        access.c.chain_id,
        access.c.number,
        access.c.seal,
    ).order_by(access.c.occurred_at.desc(), access.c.chain_id, access.c.number.desc())
    if not isinstance(user, _Unset):
        asked = asked.where(access.c.user_id.is_(None) if user is None else access.c.user_id == user)
    if not isinstance(actor, _Unset):
        asked = asked.where(access.c.actor_id.is_(None) if actor is None else access.c.actor_id == actor)
    if feature is not None:
        asked = asked.where(access.c.feature_name == feature)
    if outcome is not None:
        asked = asked.where(access.c.outcome == outcome)
    if since is not None:
        start: Any = Ago(since) if isinstance(since, dt.timedelta) else since
        asked = asked.where(access.c.occurred_at >= start)
    if until is not None:
        asked = asked.where(_before(access.c.occurred_at, until))
    return asked if limit is None else asked.limit(limit)


def whose(row: Row, part: Literal["user", "actor"]) -> object:
    """Whom a row names there: an id, the pseudonym of who was forgotten, as `forgotten:` and 16 hexadecimal digits,
    or None."""
    pseudonym = pseudonym_of(row, part)
    return row[f"{part}_id"] if pseudonym is None else f"forgotten:{pseudonym}"


def _before(moment: ColumnElement[Any], until: dt.datetime) -> ColumnElement[bool]:
    return moment < until
