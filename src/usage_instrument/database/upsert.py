"""One upsert for rows that are written rarely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table, insert, update


def upsert(
    connection: Connection,
    table: Table,
    key: Mapping[str, Any],
    changed: Mapping[str, Any],
    inserted: Mapping[str, Any] | None = None,
) -> None:
    """Update the row with this key, or insert one; `inserted` are the values of a new row, if they differ.

    The statements are portable. A concurrent insert of the same key violates the primary key: the caller rolls back
    and retries.
    """
    matches = [table.c[name] == value for name, value in key.items()]
    if not connection.execute(update(table).where(*matches).values(**changed)).rowcount:
        connection.execute(insert(table).values(**key, **(changed if inserted is None else inserted)))
