"""What an answer does not say by itself: why it may be wrong, or empty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, exists, select

from usage_instrument.database import dialects
from usage_instrument.database.expressions import StartOf
from usage_instrument.database.schema import UNIQUE_HISTORY, UNIQUE_USAGE
from usage_instrument.database.tables import Tables

NOTHING_DECLARED = "no code has declared a feature here, so that nobody can tell what is unused"


def notes(
    connection: Connection, tables: Tables, name: str, said: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """What is to be known of the answer to the question of that name, asked with these options."""
    for table in old_tables(connection, tables):
        yield f"{table} may count somebody twice, as it has no unique index: run `usage-instrument db upgrade`"
    if name == "unused" and not _has(connection, tables.catalog.c.feature_name.is_not(None)):
        yield NOTHING_DECLARED
    if name == "trend" and said["by"] == "hour":
        start = tables.history.c.bucket_start
        if not _has(connection, start != StartOf("day", start)):
            yield "the history here is kept by day, and each day's uses stand at its first hour"
    if name == "variants" and rows and all(row["variant"] is None for row in rows):
        yield f"no use of it says anything of {said['key']!r}"


def old_tables(connection: Connection, tables: Tables) -> list[str]:
    """Those that have no unique index yet."""
    has_unique = dialects.get(connection.dialect.name).has_unique
    both = ((tables.usage, UNIQUE_USAGE), (tables.history, UNIQUE_HISTORY))
    return [
        table.fullname
        for table, unique in both
        if connection.dialect.has_table(connection, table.name, table.schema)
        and not has_unique(connection, table, unique)
    ]


def _has(connection: Connection, condition: Any) -> bool:
    return bool(connection.scalar(select(exists().where(condition))))
