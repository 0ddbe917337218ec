"""Finds the tables in a database whose settings are unknown."""

from __future__ import annotations

from sqlalchemy import Connection, MetaData, inspect

from usage_instrument.errors import SchemaError

from .dialects.base import as_uuid, live_users_column
from .schema import define_tables
from .tables import Tables
from .users_table import kind_of, live_column


def find_tables(connection: Connection, schema: str | None = None) -> Tables:
    """The tables of a schema (default: the connection's), with the live user id type and users table.

    Raises SchemaError if there are none.
    """
    column = live_column(connection, inspect(connection), schema, "feature_usage", "user_id")
    if column is None:
        where = f"{schema}.feature_usage" if schema else "feature_usage"
        raise SchemaError(f"there is no table {where}: run `usage-instrument db create`, or correct the URL")
    user_id_type = kind_of(as_uuid(column.type)) or "uuid"  # SQLite reflects unknown types as NULL
    users = live_users_column(connection, define_tables(MetaData(), schema=schema, users=None).usage)
    return define_tables(
        MetaData(), schema=schema, users=None if users is None else str(users), user_id_type=user_id_type
    )


def missing_tables(connection: Connection, tables: Tables) -> list[str]:
    """The tables that queries read and the database lacks."""
    inspector = inspect(connection)
    queried = [table for table in tables if table not in (tables.access, tables.suppressions, tables.trail)]
    return [table.fullname for table in queried if not inspector.has_table(table.name, schema=table.schema)]
