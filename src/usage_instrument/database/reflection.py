"""The tables as a database has them, for whoever only reads: found out, not declared."""

from __future__ import annotations

from sqlalchemy import Connection, MetaData, inspect

from usage_instrument.errors import SchemaError

from .dialects.base import as_uuid
from .schema import define_tables
from .tables import Tables
from .users_table import kind_of, live_column, live_target


def find_tables(connection: Connection, schema: str | None = None) -> Tables:
    """The tables in a schema, the connection's own unless given; raises SchemaError where there are none.

    The type of the user ids and the users table that they refer to are the live ones.
    """
    inspector = inspect(connection)
    column = live_column(connection, inspector, schema, "feature_usage", "user_id")
    if column is None:
        where = f"{schema}.feature_usage" if schema else "feature_usage"
        raise SchemaError(f"there is no table {where}: run `usage-instrument db create`, or mend the URL")
    kind = kind_of(as_uuid(column["type"])) or "uuid"  # SQLite tells nothing of a type that it does not know
    target = live_target(connection, define_tables(MetaData(), schema=schema, users=None).usage)
    users = None if target is None else ".".join(part for part in target if part)
    return define_tables(MetaData(), schema=schema, users=users, user_id_type=kind)


def missing_tables(connection: Connection, tables: Tables) -> list[str]:
    """The names of those that the database lacks, of those that questions are about."""
    inspector = inspect(connection)
    asked = [table for table in tables if table not in (tables.access, tables.suppressions)]
    return [table.fullname for table in asked if not inspector.has_table(table.name, schema=table.schema)]
