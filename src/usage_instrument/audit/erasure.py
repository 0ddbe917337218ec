"""Whom the trail is to name no more: ids become pseudonyms, every link still holds, and the trail records it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, or_, select, update

from usage_instrument.typing import UserId

from . import admin_chain, self_access
from .chain import PARTS, erased

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

ROWS = 1_000
"""So many rows a transaction, at most."""


def erase(connection: Connection, tables: Tables, audit_key: str | None, user: UserId, pseudonym: str) -> int:
    """Take a user's id, and the metadata beside it, out of as many rows as fit a transaction, and record which rows;
    how many that were, 0 once there are none. So with the metadata of looks for them. The caller commits."""
    access = tables.access
    rows: list[dict[str, Any]] = []
    for theirs in (or_(access.c.user_id == user, access.c.actor_id == user), self_access.names(tables, user)):
        asked = select(access).where(theirs).order_by(access.c.chain_id, access.c.number).limit(ROWS).with_for_update()
        rows = rows or [dict(row) for row in connection.execute(asked).mappings()]
    if not rows:
        return 0
    changes: list[dict[str, Any]] = []
    named: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for row in rows:
        parts = [part for part in PARTS if part == "details" or row[f"{part}_id"] == user]
        for part in parts:
            named[part].append(row)
        values = erased(row, parts, pseudonym)
        changes.append({"chain": row["chain_id"], "place": row["number"], **values})
    connection.execute(
        update(access)
        .where(access.c.chain_id == bindparam("chain"), access.c.number == bindparam("place"))
        .values({name: bindparam(name) for name in ("user_id", "actor_id", "request_id", "metadata", "seal")}),
        changes,
    )
    admin_chain.append(
        connection,
        tables,
        audit_key,
        admin_chain.ERASURE,
        {"name": pseudonym, **{part: _spans(named[part]) for part in named}},
    )
    return len(rows)


def _spans(rows: list[dict[str, Any]]) -> dict[str, list[list[int]]]:
    """The places of rows that are in order, as the first and the last of each stretch."""
    spans: dict[str, list[list[int]]] = {}
    for chain, members in itertools.groupby(rows, lambda row: row["chain_id"].hex):
        stretches = spans.setdefault(chain, [])
        for row in members:
            if stretches and stretches[-1][1] == row["number"] - 1:
                stretches[-1][1] = row["number"]
            else:
                stretches.append([row["number"], row["number"]])
    return spans
