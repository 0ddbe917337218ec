"""The chain of administrative actions on the trail itself: checkpoints, truncations and erasures. It is never cut."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, insert, select

from usage_instrument.events import Access, Use

from .chain import Row, first_link, link, row_of

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

ADMIN_CHAIN = UUID("b1f6a1f0-7d0b-5b9e-9a55-0c7a5d1e0001")
"""Its chain id, in every database."""
CHECKPOINT = "usage_instrument.checkpoint"
TRUNCATION = "usage_instrument.cut"
ERASURE = "usage_instrument.erasure"


def append(connection: Connection, tables: Tables, key: str | None, feature: str, record: Mapping[str, Any]) -> None:
    """Add a record in the caller's transaction. A concurrent one violates the primary key: the caller retries."""
    access = tables.access
    last = connection.execute(
        select(access.c.number, access.c.link)
        .where(access.c.chain_id == ADMIN_CHAIN)
        .order_by(access.c.number.desc())
        .limit(1)
    ).first()
    number, before = (last.number + 1, last.link) if last is not None else (1, first_link(key, ADMIN_CHAIN))
    text = json.dumps(record, separators=(",", ":"), sort_keys=True)
    done = Use(feature, None, text, 0, Access(uuid4(), "success", time.time_ns() // 1000))
    row = row_of(done, "", ADMIN_CHAIN, number)
    row["link"] = link(key, before, row)
    connection.execute(insert(access), row)


def records(rows: Sequence[Row], feature: str) -> Iterator[dict[str, Any]]:
    """The records of one kind of action, the oldest first."""
    for row in rows:
        if row["feature_name"] == feature:
            yield json.loads(row["metadata"])


def digest(heads: object) -> str:
    """The hash of a checkpoint's heads, which its record holds."""
    return hashlib.sha256(json.dumps(heads, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
