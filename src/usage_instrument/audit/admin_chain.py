"""The chain of administrative actions on the trail itself: checkpoints, truncations and erasures. It is never cut."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, insert, select

from usage_instrument.errors import AuditError
from usage_instrument.events import Access, Use
from usage_instrument.typing import UserId

from .chain import MALFORMED, PARTS, Row, first_link, first_links, is_linked, link, row_of
from .trail import trail_id

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

ADMIN_CHAIN = UUID("b1f6a1f0-7d0b-5b9e-9a55-0c7a5d1e0001")
"""Its chain id, in every database."""
CHECKPOINT = "usage_instrument.checkpoint"
TRUNCATION = "usage_instrument.cut"
ERASURE = "usage_instrument.erasure"


def append(
    connection: Connection,
    tables: Tables,
    key: str | None,
    feature: str,
    record: Mapping[str, Any],
    actor: UserId = None,
) -> None:
    """Add a record in the caller's transaction; `actor` ordered the action. A concurrent one violates the primary key:
    the caller retries. Raises AuditError."""
    number, before = end(connection, tables, key)
    number += 1
    row = row_of(action(feature, record, actor), "", ADMIN_CHAIN, number)
    row["link"] = link(key, before, row)
    connection.execute(insert(tables.access), row)


def action(feature: str, record: Mapping[str, Any], actor: UserId) -> Use:
    """An administrative action as an access."""
    text = json.dumps(record, separators=(",", ":"), sort_keys=True)
    return Use(feature, None, text, 0, Access(uuid4(), "success", time.time_ns() // 1000, actor))


def end(connection: Connection, tables: Tables, key: str | None) -> tuple[int, str]:
    """The number and link of the last row. Raises AuditError if it is not consistent: nothing must build on it."""
    access = tables.access
    query = select(access).where(access.c.chain_id == ADMIN_CHAIN).order_by(access.c.number.desc()).limit(2)
    rows = [dict(row) for row in connection.execute(query).mappings()]
    trail = trail_id(connection, tables)
    if not rows:
        return 0, first_link(key, ADMIN_CHAIN, trail)
    last = rows[0]
    before = first_links(key, ADMIN_CHAIN, trail) if last["number"] == 1 else (rows[-1]["link"],)
    is_next = last["number"] == 1 or rows[-1]["number"] == last["number"] - 1
    if not (is_next and any(is_linked(key, each, last) for each in before)):
        raise AuditError(
            f"row {last['number']} of the admin chain {ADMIN_CHAIN} is inconsistent, so nothing was recorded: set "
            "USAGE_INSTRUMENT_AUDIT_KEY to the key of this trail, or see `usage-instrument audit verify` and delete "
            "the foreign row"
        )
    return last["number"], last["link"]


class Records:
    """The readable records of the admin chain's consistent rows."""

    def __init__(self, rows: Sequence[Row], key: str | None, trail: UUID | None) -> None:
        self.checkpoints: list[str] = []
        """Digests of heads."""
        self.cuts: list[tuple[UUID, int, str]] = []
        """Chain, number and link of each last deleted row."""
        self.erasures: list[tuple[str, str, UUID, int, int]] = []
        """Pseudonym, part, chain, first and last number of each run of rows."""
        self.malformed: list[int] = []
        """The numbers of rows with metadata that is no record."""
        before: tuple[str, ...] = first_links(key, ADMIN_CHAIN, trail)
        for number, row in enumerate(rows, 1):
            if row["number"] != number or not any(is_linked(key, each, row) for each in before):
                break
            before = (row["link"],)
            try:
                self._read(row["feature_name"], json.loads(row["metadata"]))
            except MALFORMED:
                self.malformed.append(number)

    def _read(self, feature: str, record: Any) -> None:
        if feature == CHECKPOINT:
            self.checkpoints.append(record["digest"])
        elif feature == TRUNCATION:
            self.cuts += [(UUID(hex=chain), int(number), str(end)) for chain, (number, end) in record["cuts"].items()]
        elif feature == ERASURE:
            name = str(record["name"])
            self.erasures += [
                (name, part, UUID(hex=chain), int(first), int(last))
                for part in PARTS
                for chain, runs in record[part].items()
                for first, last in runs
            ]


def digest(heads: object) -> str:
    """The hash of a checkpoint's heads, which its record holds."""
    return hashlib.sha256(json.dumps(heads, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
