"""The cut: old rows go from the front of each chain, and the trail records where, so that what is left still holds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Connection, and_, delete, func, select

from . import admin_chain

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

_CHAINS = 200
"""So many chains a transaction."""


def count_old(connection: Connection, tables: Tables, before: dt.datetime) -> int:
    """How many rows a cut would take."""
    return sum(rows for _, _, rows in _old(connection, tables, before))


def cut(connection: Connection, tables: Tables, before: dt.datetime, key: str | None = None) -> Iterator[int]:
    """Delete what is older than then (UTC, naive), as far as nothing newer stands before it; how many rows went with
    each transaction, which this commits. Raises what SQLAlchemy raises, and then everything before stands."""
    old = _old(connection, tables, before)
    connection.rollback()
    for start in range(0, len(old), _CHAINS):
        with connection.begin():
            yield _cut(connection, tables, old[start : start + _CHAINS], before, key)


def _old(connection: Connection, tables: Tables, before: dt.datetime) -> list[tuple[UUID, int, int]]:
    """Each chain with old rows at its front: the number of the last of them, and how many there are."""
    access = tables.access
    newer = (
        select(access.c.chain_id, func.min(access.c.number).label("number"))
        .where(access.c.occurred_at >= before)
        .group_by(access.c.chain_id)
        .subquery()
    )
    old = (
        select(access.c.chain_id, func.max(access.c.number), func.count())
        .outerjoin(newer, newer.c.chain_id == access.c.chain_id)
        .where(
            access.c.chain_id != admin_chain.STEWARD,
            access.c.occurred_at < before,
            (newer.c.number.is_(None)) | (access.c.number < newer.c.number),
        )
        .group_by(access.c.chain_id)
    )
    return [(UUID(int=chain.int), last, rows) for chain, last, rows in connection.execute(old)]


def _cut(
    connection: Connection, tables: Tables, old: list[tuple[UUID, int, int]], before: dt.datetime, key: str | None
) -> int:
    access = tables.access
    cuts: dict[str, list[Any]] = {}
    gone = 0
    for chain, last, _ in old:
        end = and_(access.c.chain_id == chain, access.c.number == last)
        link = connection.scalar(select(access.c.link).where(end))
        if link is None:  # somebody else has cut it meanwhile
            continue
        cuts[chain.hex] = [last, link]
        gone += connection.execute(delete(access).where(access.c.chain_id == chain, access.c.number <= last)).rowcount
    if cuts:
        admin_chain.append(
            connection, tables, key, admin_chain.CUT, {"before": before.isoformat(), "rows": gone, "cuts": cuts}
        )
    return gone
