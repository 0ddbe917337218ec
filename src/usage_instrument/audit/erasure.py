"""Erases a user from the trail: pseudonyms replace ids, every link stays valid, and the trail records the erasure."""

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
"""The most rows of a transaction."""


def erase(connection: Connection, tables: Tables, audit_key: str | None, user: UserId, pseudonym: str) -> int:
    """Erase a user from up to ROWS rows, and record which. Returns their number, 0 when none is left; the caller
    commits. Self-accesses that searched for the user lose their metadata."""
    access = tables.access
    # The database decides who is the user: its equality may differ from Python's.
    matches = [(access.c[f"{part}_id"] == user).label(f"is_{part}") for part in ("user", "actor")]
    rows: list[dict[str, Any]] = []
    for theirs in (or_(access.c.user_id == user, access.c.actor_id == user), self_access.searched_for(tables, user)):
        query = (
            select(access, *matches)
            .where(theirs)
            .order_by(access.c.chain_id, access.c.number)
            .limit(ROWS)
            .with_for_update()
        )
        rows = rows or [dict(row) for row in connection.execute(query).mappings()]
    if not rows:
        return 0
    changes: list[dict[str, Any]] = []
    by_part: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for row in rows:
        parts = [part for part in PARTS if part == "details" or row[f"is_{part}"]]
        for part in parts:
            by_part[part].append(row)
        changes.append({"in_chain": row["chain_id"], "at_number": row["number"], **erased(row, parts, pseudonym)})
    connection.execute(
        update(access)
        .where(access.c.chain_id == bindparam("in_chain"), access.c.number == bindparam("at_number"))
        .values({name: bindparam(name) for name in ("user_id", "actor_id", "request_id", "metadata", "seal")}),
        changes,
    )
    record = {"name": pseudonym, **{part: _spans(rows) for part, rows in by_part.items()}}
    admin_chain.append(connection, tables, audit_key, admin_chain.ERASURE, record)
    return len(rows)


def _spans(rows: list[dict[str, Any]]) -> dict[str, list[list[int]]]:
    """The numbers of sorted rows by chain, as the first and last of each run."""
    spans: dict[str, list[list[int]]] = {}
    for chain, members in itertools.groupby(rows, lambda row: row["chain_id"].hex):
        runs = spans.setdefault(chain, [])
        for row in members:
            if runs and runs[-1][1] == row["number"] - 1:
                runs[-1][1] = row["number"]
            else:
                runs.append([row["number"], row["number"]])
    return spans
