"""The honest line: as of when the numbers are, and what is missing from them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa

import usage_instrument
from usage_instrument.database.expressions import Ago, Day
from usage_instrument.database.tables import Tables

SILENT = dt.timedelta(minutes=10)
"""After so long without a heartbeat a writer is silent: dead, or cut off from the database."""
RECENT = dt.timedelta(days=7)


@dataclass(frozen=True)
class Freshness:
    """How far the numbers can be trusted."""

    now: dt.datetime
    as_of: dt.datetime | None
    """The newest heartbeat of a writer, else the newest use; None for empty tables."""
    living: int
    """Writers that were heard of lately."""
    silent: int
    lost: int
    """Uses dropped or rejected in seven days."""
    pending: int | None
    """Uses that this process has not written yet; None where it records none, so that nobody here can know."""


def freshness(connection: sa.Connection, tables: Tables) -> Freshness:
    """Look at the ledger and the losses, in one question."""
    writers, losses, usage = tables.writers, tables.losses, tables.usage
    is_silent = writers.c.heartbeat_at < Ago(SILENT)
    recently = losses.c.day > Day(Ago(RECENT))
    row = connection.execute(
        sa.select(
            Ago().label("now"),
            sa.func.max(writers.c.heartbeat_at).label("heartbeat"),
            sa.func.count(writers.c.writer_id).label("writers"),
            sa.func.count(sa.case((is_silent, writers.c.writer_id))).label("silent"),
            sa.select(sa.func.sum(losses.c.uses)).where(recently).scalar_subquery().label("lost"),
            sa.select(sa.func.max(usage.c.last_used)).scalar_subquery().label("last_used"),
        )
    ).one()
    return Freshness(
        row.now,
        max((moment for moment in (row.heartbeat, row.last_used) if moment is not None), default=None),
        row.writers - row.silent,
        row.silent,
        int(row.lost or 0),
        _pending(),
    )


def _pending() -> int | None:
    stats = usage_instrument.stats()
    return stats.pending if stats.captured or stats.heartbeat is not None else None
