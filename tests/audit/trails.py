"""Trails to look at: made by chains, as writers make them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from usage_instrument.audit.chain import Chain
from usage_instrument.events import Access, Use
from usage_instrument.schema import Tables

START = 1_700_000_000_000_000
"""Microseconds since 1970."""
SECOND = 1_000_000


def accesses(number: int, start: int = START) -> list[Use]:
    """So many, one a second, by five users."""
    outcomes: Any = ("success", "denied", "failed", "attempted")
    return [
        Use(
            ("open_vault", "read_report")[each % 2],
            uuid.UUID(int=each % 5 + 1),
            '{"drawer":"é"}' if each % 3 else None,
            0,
            Access(
                uuid.UUID(int=each + 2**64),
                outcomes[each % 4],
                start + each * SECOND,
                uuid.UUID(int=9) if each % 7 == 0 else None,
                f"request-{each}" if each % 2 else None,
            ),
        )
        for each in range(number)
    ]


def append(connection: sa.Connection, tables: Tables, chain: Chain, uses: Sequence[Use]) -> None:
    """Add rows to the end of a chain."""
    rows = chain.rows(uses, "web")
    for start in range(0, len(rows), 1000):
        connection.execute(sa.insert(tables.access), rows[start : start + 1000])
    chain.appended(rows)
