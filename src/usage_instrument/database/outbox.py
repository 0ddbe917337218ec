"""The rows of `feature_usage_outbox`: inserted in the host's transaction, and moved into the counts by a writer."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Dialect,
    Table,
    Update,
    and_,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)  # fmt: skip

from usage_instrument.events import Count, Slice, Use, added_slices, bucket_start, in_row_order, slices_of
from usage_instrument.typing import Bucket, UserId

from .tables import Tables

_KEYS = 500
"""Keys in one statement."""
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - naive, as the columns are


class OutboxRow(NamedTuple):
    """One use that waits."""

    outbox_id: UUID
    user_id: UserId
    feature_name: str
    uses: int
    metadata: str | None
    dimensions: str | None
    used_at: dt.datetime


class Insert:
    """The INSERT of one use for a dialect, compiled once: to compile it, or to look it up in SQLAlchemy's cache, takes
    as long as to run it."""

    def __init__(self, tables: Tables, dialect: Dialect, service: str) -> None:
        outbox = tables.outbox
        if dialect.paramstyle == "pyformat":  # such drivers take parameters by position, too, and in fewer steps
            dialect = copy(dialect)
            dialect.paramstyle, dialect.positional = "format", True
        compiled = insert(outbox).inline().compile(dialect=dialect, column_keys=[column.name for column in outbox.c])
        self.text = str(compiled)
        self._service = service
        self._names: Sequence[str] = compiled.positiontup or ()
        """The columns in the order of the parameters."""
        found = {column.name: column.type.dialect_impl(dialect).bind_processor(dialect) for column in outbox.c}
        self._processors = [(name, processor) for name, processor in found.items() if processor is not None]

    def parameters(self, use: Use) -> tuple[Any, ...]:
        """What the driver takes for a use with a canonical user and JSON text."""
        row: dict[str, Any] = {
            "outbox_id": uuid4(),
            "user_id": use.user,
            "feature_name": use.feature,
            "uses": use.uses,
            "metadata": use.metadata,
            "dimensions": _measures(use),
            "used_at": _EPOCH + dt.timedelta(microseconds=use.at or 0),
            "service": self._service,
        }
        for name, processor in self._processors:
            row[name] = processor(row[name])
        return tuple([row[name] for name in self._names])


def _measures(use: Use) -> str | None:
    return json.dumps([use.dimensions, use.value]) if use.dimensions or use.value is not None else None


def has_rows(connection: Connection, tables: Tables) -> bool:
    """Whether anything waits, without a lock."""
    return connection.scalar(select(literal(1)).select_from(tables.outbox).limit(1)) is not None


def oldest(connection: Connection, tables: Tables, limit: int, behind: OutboxRow | None = None) -> list[OutboxRow]:
    """The oldest rows `behind` a row, locked; those that another writer has locked are left to it."""
    outbox = tables.outbox
    columns = (outbox.c[name] for name in OutboxRow._fields)
    time, key = outbox.c.used_at, outbox.c.outbox_id
    query = select(*columns).order_by(time, key).limit(limit).with_for_update(skip_locked=True)
    if behind is not None:
        query = query.where(or_(time > behind.used_at, and_(time == behind.used_at, key > behind.outbox_id)))
    return [OutboxRow(*row) for row in connection.execute(query)]


def remove(connection: Connection, tables: Tables, rows: Sequence[OutboxRow]) -> int:
    """Delete rows, and return their number."""
    outbox = tables.outbox
    gone = delete(outbox).where(outbox.c.outbox_id.in_([row.outbox_id for row in rows]))
    return int(connection.execute(gone).rowcount)


def remove_of(connection: Connection, tables: Tables, user: UserId) -> int:
    """Delete the rows of a user, and return their number."""
    outbox = tables.outbox
    return _by_keys(connection, outbox, outbox.c.user_id == user, delete(outbox))


def give(connection: Connection, tables: Tables, guest: ColumnElement[bool], user: UserId) -> int:
    """Make the rows of a guest the user's, and return their number."""
    return _by_keys(connection, tables.outbox, guest, update(tables.outbox).values(user_id=user))


def _by_keys(connection: Connection, outbox: Table, whose: ColumnElement[bool], change: Delete | Update) -> int:
    """Change rows by their keys: `sql_safe_updates` of MariaDB refuses anything else, and rows that live for seconds
    are worth no index on users."""
    ids = connection.scalars(select(outbox.c.outbox_id).where(whose)).all()
    parts = (ids[start : start + _KEYS] for start in range(0, len(ids), _KEYS))
    return sum(connection.execute(change.where(outbox.c.outbox_id.in_(part), whose)).rowcount for part in parts)


def waiting(connection: Connection, tables: Tables) -> int:
    """The uses in the table."""
    return int(connection.scalar(select(func.coalesce(func.sum(tables.outbox.c.uses), 0))) or 0)


def counts_of(rows: Iterable[OutboxRow], history: Bucket | None, max_bytes: int) -> tuple[Count, ...]:
    """Rows added up by user and feature, in the order in which all writers lock their rows."""
    found: dict[tuple[str, UserId], list[OutboxRow]] = {}
    for row in rows:
        found.setdefault((row.feature_name, row.user_id), []).append(row)
    counts = (_count(feature, user, some, history, max_bytes) for (feature, user), some in found.items())
    return in_row_order(counts)


def _count(feature: str, user: UserId, rows: list[OutboxRow], history: Bucket | None, max_bytes: int) -> Count:
    buckets: dict[dt.datetime, int] = {}
    metadata: str | None = None
    slices: list[Slice] = []
    for row in sorted(rows, key=lambda row: row.used_at):
        if history is not None:
            start = bucket_start(row.used_at, history)
            buckets[start] = buckets.get(start, 0) + row.uses
        metadata = _merged(metadata, row.metadata, max_bytes)
        if row.dimensions is not None:
            dimensions, value = json.loads(row.dimensions)
            use = Use(feature, user, None, row.uses, None, None, dimensions, value)
            slices += slices_of(use, bucket_start(row.used_at, "day"))
    last = max(row.used_at for row in rows)
    return Count(
        feature, user, sum(row.uses for row in rows), last, metadata, tuple(buckets.items()), added_slices(slices)
    )


def _merged(older: str | None, newer: str | None, max_bytes: int) -> str | None:
    if older is None or newer is None:
        return newer or older
    merged = json.dumps({**json.loads(older), **json.loads(newer)}, separators=(",", ":"))
    return merged if len(merged) <= max_bytes else newer
