"""What a role is granted that writes as an app does, where the audit trail is not among it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection

if TYPE_CHECKING:
    from ..tables import Tables


def grants(connection: Connection, tables: Tables, role: str) -> list[str]:
    """What an app needs to write, for a role that is quoted already."""
    preparer = connection.dialect.identifier_preparer
    statements = [
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {preparer.format_table(table)} TO {role}"
        for table in tables
        if table is not tables.access
    ]
    if tables.users is not None:
        place, _, column = tables.users.rpartition(".")
        users = ".".join(preparer.quote(part) for part in place.split("."))
        statements.append(f"GRANT SELECT ({preparer.quote(column)}) ON {users} TO {role}")
    return statements
