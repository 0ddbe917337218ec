"""What the rows of an answer do not show: why they may be wrong, or empty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, exists, select

from usage_instrument.database import dialects
from usage_instrument.database.expressions import StartOf
from usage_instrument.database.live_tables import LiveTables
from usage_instrument.database.tables import UNIQUE_HISTORY, UNIQUE_USAGE, Tables
from usage_instrument.queries.questions import Question
from usage_instrument.queries.trend import TREND
from usage_instrument.queries.unused_features import UNUSED

NOTHING_DECLARED = "no code has declared a feature here, so no feature can be reported as unused"


def caveats(
    connection: Connection,
    tables: Tables,
    question: Question,
    given: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    """The caveats of an answer to a question with these options."""
    behind = dialects.get(connection.dialect.name).behind(connection)
    if behind and behind >= 1:
        yield f"this standby is {int(behind)} s behind its primary: newer uses are missing"
    for table in old_tables(connection, tables):
        yield f"{table} has no unique index and may count a user twice: run `usage-instrument db upgrade`"
    if question is UNUSED and not _has(connection, tables.catalog.c.feature_name.is_not(None)):
        yield NOTHING_DECLARED
    if question is TREND and given["by"] == "hour":
        start = tables.history.c.bucket_start
        if not _has(connection, start != StartOf("day", start)):
            yield "this history is kept by day: each day's uses are shown at its first hour"
    if question.notes is not None:
        yield from question.notes(connection, tables, given, rows)


def is_empty(connection: Connection, tables: Tables) -> bool:
    """Whether nothing was counted so far."""
    return not _has(connection, tables.usage.c.id.is_not(None))


def old_tables(connection: Connection, tables: Tables) -> list[str]:
    """The tables that have no unique index yet."""
    has_unique = dialects.get(connection.dialect.name).has_unique
    both = ((tables.usage, UNIQUE_USAGE), (tables.history, UNIQUE_HISTORY))
    return [
        table.fullname
        for table, unique in both
        if connection.dialect.has_table(connection, table.name, table.schema)
        and not has_unique(connection, LiveTables(connection, [table]), table, unique)
    ]


def _has(connection: Connection, condition: Any) -> bool:
    return bool(connection.scalar(select(exists().where(condition))))
