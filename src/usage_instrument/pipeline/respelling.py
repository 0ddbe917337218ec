"""Gives the users of a batch another spelling, and adds up the counts that thereby become one row."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable

from usage_instrument.events import Batch, Count, added_slices, in_row_order
from usage_instrument.typing import UserId


def respelled(batch: Batch, of: Callable[[UserId], UserId], metadata_max_bytes: int) -> Batch:
    """The batch with the spelling `of` each user, and each key once; the same batch if nothing changes."""
    if all(of(user) == user for user in batch.users):
        return batch
    rows: dict[tuple[str, UserId], Count] = {}
    for count in sorted(batch.counts, key=lambda count: count.last_used):
        key = (count.feature, of(count.user))
        rows[key] = _sum(rows[key], count, metadata_max_bytes) if key in rows else count._replace(user=key[1])
    counts = in_row_order(rows.values())
    return batch._replace(counts=counts, accesses=tuple(use.respelled(of) for use in batch.accesses))


def _sum(older: Count, newer: Count, metadata_max_bytes: int) -> Count:
    metadata = newer.metadata or older.metadata
    if newer.metadata and older.metadata:
        merged = json.dumps({**json.loads(older.metadata), **json.loads(newer.metadata)}, separators=(",", ":"))
        metadata = merged if len(merged) <= metadata_max_bytes else newer.metadata
    history: Counter[dt.datetime] = Counter()
    for start, uses in (*older.history, *newer.history):
        history[start] += uses
    return older._replace(
        uses=older.uses + newer.uses,
        last_used=newer.last_used,
        metadata=metadata,
        history=tuple(history.items()),
        slices=added_slices((*older.slices, *newer.slices)),
    )
