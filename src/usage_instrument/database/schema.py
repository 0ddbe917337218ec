"""Defines the tables in a MetaData and creates them in a database."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, get_args

from sqlalchemy import Column, Connection, Engine, ForeignKey, Index, MetaData, Table, event, inspect
from sqlalchemy.exc import DBAPIError

from usage_instrument.errors import ConfigurationError
from usage_instrument.runtime import log
from usage_instrument.typing import HistoryPartitions, IdType, UserIdType

from . import dialects
from .definitions import (
    define_access,
    define_alerts,
    define_catalog,
    define_dimensions,
    define_exposures,
    define_history,
    define_losses,
    define_outbox,
    define_suppressions,
    define_trail,
    define_usage,
    define_writers,
)
from .dialects.base import unique_key
from .tables import INFO, Tables
from .users_column import live_users_column
from .users_table import column_name, defined_users_column, find_users, user_id_column_type


def define_tables(
    metadata: MetaData,
    *,
    schema: str | None = None,
    users: object = "auto",
    user_id_type: UserIdType = "uuid",
    id_type: IdType = "integer",
    history_partitions: HistoryPartitions | None = None,
    history_rollups: bool | None = None,
) -> Tables:
    """Define the tables in a MetaData, the host's own or a new one.

    `users` is what `user_id` refers to: a model, Table, Column, `"table.column"` or `"schema.table.column"`; None makes
    no foreign key. `"auto"` takes `users(id)` if this MetaData already has it and its type fits, and logs the decision.
    `id_type="bigint"` is for more than 2,147,483,647 rows of users and features. `history_partitions="month"` gives a
    new history on PostgreSQL a partition for each month; `"none"` is one table. `history_rollups=True` makes rollups
    of a new history on PostgreSQL, and lets questions about many days use them.
    A second call for the same MetaData and schema returns the same tables. Raises ConfigurationError.
    """
    if user_id_type not in get_args(UserIdType):
        raise ConfigurationError(f"user_id_type is 'uuid', 'integer' or 'string', not {user_id_type!r}")
    if id_type not in get_args(IdType):
        raise ConfigurationError(f"id_type is 'integer' or 'bigint', not {id_type!r}")
    if history_partitions not in (None, *get_args(HistoryPartitions)):
        raise ConfigurationError(f"history_partitions is 'month', 'none' or None, not {history_partitions!r}")
    known = metadata.tables.get(f"{schema}.feature_usage" if schema else "feature_usage")
    if known is not None:
        return Tables.of(known)
    users_column = defined_users_column(metadata, schema, users, user_id_type)
    user_type = user_id_column_type(users_column, user_id_type)

    def user_column() -> Column[Any]:
        references = (
            [ForeignKey(users_column, ondelete="CASCADE", onupdate="CASCADE")] if users_column is not None else []
        )
        return Column("user_id", user_type, *references, nullable=True, comment="The user; NULL is anonymous")

    tables = Tables(
        usage=define_usage(metadata, schema, user_column, id_type),
        writers=define_writers(metadata, schema),
        history=define_history(metadata, schema, user_column, partitioned=history_partitions == "month"),
        catalog=define_catalog(metadata, schema),
        losses=define_losses(metadata, schema),
        access=define_access(metadata, schema, user_type),
        suppressions=define_suppressions(metadata, schema),
        trail=define_trail(metadata, schema),
        exposures=define_exposures(metadata, schema, user_column),
        dimensions=define_dimensions(metadata, schema, user_column),
        outbox=define_outbox(metadata, schema, user_type),
        alerts=define_alerts(metadata, schema),
        user_id_type=user_id_type,
        users=column_name(users_column),
        history_partitions=history_partitions,
        history_rollups=history_rollups,
    )
    if history_partitions == "month":
        event.listen(tables.history, "before_create", _need_partitions)
        event.listen(tables.history, "after_create", _create_partitions)
    if history_rollups:
        event.listen(tables.history, "before_create", _need_rollups)
        event.listen(tables.history, "after_create", _create_rollups)
    for table, unique in tables.uniques:
        Index(unique, *unique_key(table, user_id_type), unique=True, _table=table).ddl_if(
            callable_=cast(Any, _has_expression_indexes)
        )
        Index(f"ix_{table.name}_user_id", table.c.user_id)
        for dialect in dialects.every():
            dialect.create_unique_with(table, unique, user_id_type)
    metadata.info.setdefault(INFO, {})[tables.usage.fullname] = tables
    return tables


@functools.cache
def default_tables(schema: str | None = None, user_id_type: UserIdType = "uuid") -> Tables:
    """The tables in a MetaData of their own, without a foreign key; defined once. Raises ConfigurationError."""
    return define_tables(MetaData(), schema=schema, users=None, user_id_type=user_id_type)


def _has_expression_indexes(*_: object, dialect: Any = None, **__: object) -> bool:
    return dialect is None or dialect.name not in {"mysql", "mariadb"}


def _need_partitions(table: Table, connection: Connection, **_: object) -> None:
    if dialects.get(connection.dialect.name).partitioning.new(connection, table) is None:
        raise ConfigurationError(
            f"history_partitions='month' needs PostgreSQL, and this is {connection.dialect.name}: leave the option out"
        )


def _create_partitions(table: Table, connection: Connection, **_: object) -> None:
    for statement in dialects.get(connection.dialect.name).partitioning.new(connection, table) or ():
        connection.exec_driver_sql(statement)


def _need_rollups(table: Table, connection: Connection, **_: object) -> None:
    if not dialects.get(connection.dialect.name).rollups.is_supported:
        raise ConfigurationError(
            f"history_rollups needs PostgreSQL, and this is {connection.dialect.name}, where no trigger could keep "
            "rollups right when users are deleted: leave the option out"
        )


def _create_rollups(table: Table, connection: Connection, **_: object) -> None:
    users = live_users_column(connection, table)
    dialects.get(connection.dialect.name).rollups.create(connection, table, users)


# ---- in a database


@dataclass(frozen=True)
class Created:
    """The result of `create_all`."""

    tables: Tables
    made: tuple[str, ...]
    """The names of the tables that it created."""
    users: str | None
    """The column that `user_id` refers to; None without a foreign key."""
    why: str
    """The reason, in one sentence."""


def create_all(
    bind: Engine | Connection,
    *,
    schema: str | None = None,
    users: object = "auto",
    user_id_type: UserIdType = "uuid",
    id_type: IdType = "integer",
    history_partitions: HistoryPartitions | None = None,
    history_rollups: bool | None = None,
) -> Created:
    """Create the missing tables in a database.

    `users="auto"` refers to the `users(id)` of this database, if its type fits. For an AsyncEngine:
    `async with engine.begin() as connection: await connection.run_sync(create_all)`. An existing `feature_usage` is not
    changed; `usage-instrument db upgrade` brings it to the current schema. Raises ConfigurationError.
    """
    options: dict[str, Any] = {"schema": schema, "users": users, "user_id_type": user_id_type, "id_type": id_type}
    options |= {"history_partitions": history_partitions, "history_rollups": history_rollups}
    if isinstance(bind, Engine):
        return _create_concurrently(bind, **options)
    if not isinstance(bind, Connection):
        raise ConfigurationError(
            f"create_all takes an Engine or a Connection, not {type(bind).__name__}; with an AsyncEngine: "
            "async with engine.begin() as connection: await connection.run_sync(create_all)"
        )
    inspector = inspect(bind)
    tables, why, _ = reflected_options(bind, **options)
    made = tuple(table.name for table in tables if not inspector.has_table(table.name, schema=table.schema))
    tables.usage.metadata.create_all(bind, tables=list(tables))
    refers = tables.users
    if tables.usage.name not in made:
        live = live_users_column(bind, tables.usage)
        refers = None if live is None else str(live)
        why = f"{tables.usage.fullname} exists: its user_id " + (
            f"refers to {refers}" if refers is not None else "has no foreign key"
        )
    log.info("%s", why)
    return Created(tables, made, refers, why)


def _create_concurrently(engine: Engine, **options: Any) -> Created:
    """As create_all, while other workers of a starting app do the same."""
    failures, tables = 0, len([*default_tables()])
    with engine.connect() as connection:
        while True:
            try:
                with connection.begin():
                    return create_all(connection, **options)
            except DBAPIError as error:
                # The loser of a race fails to create the table, and finds it the next time. ALTER statements follow
                # the own CREATE and do not race.
                failures += 1
                if failures > tables or (error.statement or "").startswith("ALTER"):
                    raise


class ReflectedOptions(NamedTuple):
    """The tables that fit the users table of a database."""

    tables: Tables
    why: str
    """What `user_id` refers to and why, in one sentence."""
    other_type: UserIdType | None = None
    """The `user_id_type` of a users table that was skipped because its ids are of another type."""


def reflected_options(
    connection: Connection,
    *,
    schema: str | None,
    users: object,
    user_id_type: UserIdType,
    id_type: IdType = "integer",
    history_partitions: HistoryPartitions | None = None,
    history_rollups: bool | None = None,
) -> ReflectedOptions:
    """Look up the users table in a database, and define the tables for it. Raises ConfigurationError."""
    metadata = MetaData()
    found = find_users(connection, metadata, schema, users, user_id_type)
    tables = define_tables(
        metadata,
        schema=schema,
        users=found.column,
        user_id_type=user_id_type,
        id_type=id_type,
        history_partitions=history_partitions,
        history_rollups=history_rollups,
    )
    if history_partitions == "month":
        _need_partitions(tables.history, connection)
    if history_rollups:
        _need_rollups(tables.history, connection)
    return ReflectedOptions(tables, found.why, found.other_type)
