"""Finds the tables in a database whose settings are unknown."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection, MetaData, Table, column, exc, inspect, select, table

from usage_instrument.errors import SchemaError

from . import dialects
from .dialects.base import as_uuid
from .live_tables import LiveTables
from .schema import default_tables, define_tables
from .tables import Tables
from .users_column import live_users_column
from .users_table import kind_of, live_column

_NAMED = 3
"""Schemas that a message names, at most."""


def find_tables(connection: Connection, schema: str | None = None) -> Tables:
    """The tables of a schema (default: the connection's), with the live user id type and users table.

    Raises SchemaError if there are none.
    """
    live = live_column(connection, inspect(connection), schema, "feature_usage", "user_id")
    if live is None:
        where = f"{schema}.feature_usage" if schema else "feature_usage"
        fix = elsewhere(connection) or "run `usage-instrument db create`, or correct the URL"
        raise SchemaError(f"there is no table {where}: {fix}")
    user_id_type = kind_of(as_uuid(live.type)) or "uuid"  # SQLite reflects unknown types as NULL
    users = live_users_column(connection, default_tables(schema).usage)
    found = default_tables(schema, user_id_type)
    if users is not None:
        found = define_tables(MetaData(), schema=schema, users=str(users), user_id_type=user_id_type)
    rollups = dialects.get(connection.dialect.name).rollups
    return replace(found, history_rollups=True) if rollups.find(connection, found.history) else found


def elsewhere(connection: Connection) -> str | None:
    """The fix if the tables are in other schemas: creating them would make a second set."""
    if connection.dialect.name != "postgresql":  # elsewhere a schema is a database, which the URL names
        return None
    tables = table("tables", column("table_name"), column("table_schema"), schema="information_schema")
    named = select(tables.c.table_schema).where(tables.c.table_name == "feature_usage")
    schemas = sorted(connection.scalars(named.order_by(tables.c.table_schema).limit(_NAMED)))
    if not schemas:
        return None
    place = f"the schema {schemas[0]}" if len(schemas) == 1 else f"the schemas {', '.join(schemas)}"
    return f"it is in {place}: pass --schema {schemas[0]}, schema={schemas[0]!r}, or set $USAGE_INSTRUMENT_SCHEMA"


def has_table(live: LiveTables, table: Table) -> bool:
    """Whether a table is there; False also where MariaDB does not show it to a role without rights."""
    try:
        return live.has_table(table.name, schema=table.schema)
    except exc.DBAPIError as error:
        if dialects.get(live.dialect.name).classify(error) is not dialects.Fault.CONFIGURATION:
            raise
        return False


def is_readable(connection: Connection, table: Table, live: LiveTables | None = None) -> bool:
    """Whether a table is there, and the role may read it; within a transaction."""
    dialect = dialects.get(connection.dialect.name)
    return has_table(live or LiveTables(connection, [table]), table) and dialect.may_read(connection, table)


def missing_tables(connection: Connection, tables: Tables, *more: Table) -> list[str]:
    """The tables that most queries read, and these, as far as the database lacks them."""
    unasked = (
        *(tables.access, tables.suppressions, tables.trail, tables.exposures),
        *(tables.dimensions, tables.outbox, tables.alerts),
    )
    queried = [each for each in tables if each not in unasked or each in more]
    live = LiveTables(connection, queried)
    return [each.fullname for each in queried if not has_table(live, each)]
