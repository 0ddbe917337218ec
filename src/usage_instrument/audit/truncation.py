"""Truncation: deletes old rows from the front of each chain and records where, so that the rest still verifies."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Connection, and_, delete, func, select

from . import admin_chain

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

_CHAINS_PER_TRANSACTION = 200


def count_old(connection: Connection, tables: Tables, before: dt.datetime) -> int:
    """How many rows `truncate` would delete."""
    return sum(rows for _, _, rows in _old(connection, tables, before))


def truncate(connection: Connection, tables: Tables, before: dt.datetime, key: str | None = None) -> Iterator[int]:
    """Delete rows older than `before` (UTC, naive) up to the first newer row of each chain.

    Commits several transactions, and yields the number of rows that each deleted. Raises what SQLAlchemy raises.
    """
    old = _old(connection, tables, before)
    connection.rollback()
    for start in range(0, len(old), _CHAINS_PER_TRANSACTION):
        with connection.begin():
            yield _truncate(connection, tables, old[start : start + _CHAINS_PER_TRANSACTION], before, key)


def _old(connection: Connection, tables: Tables, before: dt.datetime) -> list[tuple[UUID, int, int]]:
    """Each chain that begins with old rows: the number of the last of them, and how many there are."""
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
            access.c.chain_id != admin_chain.ADMIN_CHAIN,
            access.c.occurred_at < before,
            (newer.c.number.is_(None)) | (access.c.number < newer.c.number),
        )
        .group_by(access.c.chain_id)
    )
    return [(UUID(int=chain.int), last, rows) for chain, last, rows in connection.execute(old)]


def _truncate(
    connection: Connection, tables: Tables, old: list[tuple[UUID, int, int]], before: dt.datetime, key: str | None
) -> int:
    access = tables.access
    cuts: dict[str, list[Any]] = {}
    deleted = 0
    for chain, last, _ in old:
        link = connection.scalar(select(access.c.link).where(and_(access.c.chain_id == chain, access.c.number == last)))
        if link is None:  # another process has truncated it meanwhile
            continue
        cuts[chain.hex] = [last, link]
        rows = and_(access.c.chain_id == chain, access.c.number <= last)
        deleted += connection.execute(delete(access).where(rows)).rowcount
    if cuts:
        record = {"before": before.isoformat(), "rows": deleted, "cuts": cuts}
        admin_chain.append(connection, tables, key, admin_chain.TRUNCATION, record)
    return deleted
