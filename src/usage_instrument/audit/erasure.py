"""Erases a user from the trail: pseudonyms replace ids, every link stays valid, and the trail records the erasure."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table, bindparam, insert, or_, select, update

from usage_instrument.typing import UserId

from . import admin_chain, self_access
from .chain import PARTS, Chain, erased

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

ROWS = 1_000
"""The most rows of a transaction."""
_LOOKED_UP = 400


def erase(
    connection: Connection,
    tables: Tables,
    audit_key: str | None,
    user: UserId,
    pseudonym: str,
    actor: UserId = None,
) -> int:
    """Erase a user from up to ROWS rows, and record which, and that `actor` ordered it. Returns the number of rows, 0
    when none is left; the caller commits.

    A row of the user loses the id, the request id and the metadata, and so does its anonymous attempt. A row of
    another user that they acted for loses only the actor. A self-access that searched for them loses its metadata.
    """
    access = tables.access
    # The database decides who is the user: its equality may differ from Python's.
    matches = [(access.c[f"{part}_id"] == user).label(f"is_{part}") for part in ("user", "actor")]
    is_search = self_access.searched_for(tables, user)
    matches.append(is_search.label("is_search"))
    rows: list[dict[str, Any]] = []
    for theirs in (or_(access.c.user_id == user, access.c.actor_id == user), is_search):
        query = select(access, *matches).where(theirs).order_by(access.c.chain_id, access.c.number)
        found = connection.execute(query.limit(ROWS).with_for_update()).mappings()
        rows = rows or [dict(row) for row in found]
    if not rows:
        return 0
    rows += _attempts(connection, access, [row for row in rows if row["is_user"]])
    changes: list[dict[str, Any]] = []
    by_part: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for row in sorted(rows, key=lambda row: (row["chain_id"].int, row["number"])):
        is_details = row["is_user"] or row["is_search"] or not row["is_actor"]
        is_erased = {"user": row["is_user"], "actor": row["is_actor"], "details": is_details}
        parts = [part for part in PARTS if is_erased[part]]
        for part in parts:
            by_part[part].append(row)
        changes.append({"in_chain": row["chain_id"], "at_number": row["number"], **erased(row, parts, pseudonym)})
    connection.execute(
        update(access)
        .where(access.c.chain_id == bindparam("in_chain"), access.c.number == bindparam("at_number"))
        .values({name: bindparam(name) for name in ("user_id", "actor_id", "request_id", "metadata", "seal")}),
        changes,
    )
    record: dict[str, Any] = {"name": pseudonym, **{part: _spans(rows) for part, rows in by_part.items()}}
    if actor is not None and actor == user:
        record["ordered_by"] = "themselves"  # the row must not name them again
        actor = None
    admin_chain.append(connection, tables, audit_key, admin_chain.ERASURE, record, actor)
    return len(rows)


def record_kept(
    connection: Connection, tables: Tables, audit_key: str | None, pseudonym: str, actor: UserId, chain: Chain | None
) -> None:
    """Record that `actor` ordered an erasure that leaves the trail as it is; the caller commits.

    A role that may not read the trail cannot extend the admin chain: its record is the only row of `chain`.
    """
    record = {"name": pseudonym, "kept": True, **{part: {} for part in PARTS}}
    if chain is None:
        admin_chain.append(connection, tables, audit_key, admin_chain.ERASURE, record, actor)
    else:
        rows = chain.rows([admin_chain.action(admin_chain.ERASURE, record, actor)], "")
        connection.execute(insert(tables.access), rows)


def _attempts(connection: Connection, access: Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The attempts of these accesses that were recorded before their user was known."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(rows), _LOOKED_UP):
        some = rows[start : start + _LOOKED_UP]
        query = select(access).where(
            access.c.occurred_at.in_({row["occurred_at"] for row in some}),  # which has an index
            access.c.access_id.in_({row["access_id"] for row in some}),
            access.c.outcome == "attempted",
            access.c.user_id.is_(None),
            or_(access.c.request_id.is_not(None), access.c.metadata.is_not(None)),
        )
        attempts = connection.execute(query.with_for_update()).mappings()
        found += [{**row, "is_user": False, "is_actor": False, "is_search": False} for row in attempts]
    known = {(row["chain_id"], row["number"]) for row in rows}
    return [row for row in found if (row["chain_id"], row["number"]) not in known]


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
