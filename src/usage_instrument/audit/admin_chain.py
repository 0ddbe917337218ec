"""The steward's chain: what was done to the trail itself, its checkpoints, cuts and erasures; nobody cuts it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, insert, select

from usage_instrument.events import Access, Use

from .chain import Row, first_link, link, row_of

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

STEWARD = UUID("b1f6a1f0-7d0b-5b9e-9a55-0c7a5d1e0001")
"""The id of its chain, in every database."""
CHECKPOINT = "usage_instrument.checkpoint"
CUT = "usage_instrument.cut"
ERASURE = "usage_instrument.erasure"


def append(connection: Connection, tables: Tables, key: str | None, feature: str, record: Mapping[str, Any]) -> None:
    """Add a record, within the caller's transaction. Whoever does so at the same time fails on the primary key, and
    does it again."""
    access = tables.access
    last = connection.execute(
        select(access.c.number, access.c.link)
        .where(access.c.chain_id == STEWARD)
        .order_by(access.c.number.desc())
        .limit(1)
    ).first()
    number, before = (last.number + 1, last.link) if last is not None else (1, first_link(key, STEWARD))
    text = json.dumps(record, separators=(",", ":"), sort_keys=True)
    done = Use(feature, None, text, 0, Access(uuid4(), "success", time.time_ns() // 1000))
    row = row_of(done, "", STEWARD, number)
    row["link"] = link(key, before, row)
    connection.execute(insert(access), row)


def records(rows: Iterator[Row], feature: str) -> Iterator[dict[str, Any]]:
    """What the rows of the chain say of one thing, the oldest first."""
    for row in rows:
        if row["feature_name"] == feature:
            yield json.loads(row["metadata"])


def digest(heads: object) -> str:
    """What a checkpoint's record keeps of its heads."""
    return hashlib.sha256(json.dumps(heads, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
