"""The tables: in the host's MetaData, in a database, and compared with the live ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, get_args

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Date,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
    inspect,
    text,
)
from sqlalchemy.exc import DBAPIError

from usage_instrument.errors import ConfigurationError
from usage_instrument.events import NAME_LENGTH
from usage_instrument.typing import UserIdType

from . import dialects
from .access_table import define_access
from .columns import Now, feature_column, json_object, timestamp
from .dialects.base import key
from .suppressions import define_suppressions
from .tables import INFO, Tables
from .users_table import find_users, live_target, name_of, target_of, user_type_of

logger = logging.getLogger("usage_instrument")

UNIQUE_USAGE = "uq_feature_usage_user_feature"
UNIQUE_HISTORY = "uq_feature_usage_history_user_feature_bucket"
_TABLES = 7


def define_tables(
    metadata: MetaData,
    *,
    schema: str | None = None,
    users: object = "auto",
    user_id_type: UserIdType = "uuid",
) -> Tables:
    """Put the tables into a MetaData, the host's own or a new one.

    `users` is what `user_id` refers to: `"auto"` takes `users(id)` if this MetaData has it by now and its type fits,
    and says in the log which it did; a model, Table, Column, `"table.column"` or `"schema.table.column"` is taken as it
    is; None makes no foreign key. Calling it again for the same MetaData and schema returns the same tables. Raises
    ConfigurationError.
    """
    if user_id_type not in get_args(UserIdType):
        raise ConfigurationError(f"user_id_type is 'uuid', 'integer' or 'string', not {user_id_type!r}")
    known = metadata.tables.get(f"{schema}.feature_usage" if schema else "feature_usage")
    if known is not None:
        return Tables.of(known)
    target = target_of(metadata, schema, users, user_id_type)
    user_type = user_type_of(target, user_id_type)

    def user_column() -> Column[Any]:
        references = [ForeignKey(target, ondelete="CASCADE")] if target is not None else []
        return Column("user_id", user_type, *references, nullable=True, comment="The user; NULL is anonymous")

    usage = Table(
        "feature_usage",
        metadata,
        Column("id", Integer, primary_key=True),
        user_column(),
        feature_column(nullable=True),
        Column("metadata", json_object(), nullable=True, comment="The latest context of the use"),
        Column("usage_count", Integer, nullable=True, server_default=text("1"), comment="Uses by this user"),
        Column(
            "last_used",
            timestamp(),
            nullable=False,
            server_default=Now("CURRENT_TIMESTAMP"),
            comment="The most recent use, UTC",
        ),
        schema=schema,
        comment="Which user used which feature how often: one row a user and feature",
        # Updates in place need room on the page, and no index on what changes: hence none on last_used either.
        postgresql_with={"fillfactor": 85},
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    writers = Table(
        "feature_usage_writers",
        metadata,
        Column("writer_id", Uuid, primary_key=True, comment="One writing process, from its first batch to its end"),
        Column("service", String(NAME_LENGTH), nullable=False, server_default=text("''"), comment="The program's name"),
        Column("last_batch", BigInteger, nullable=False, server_default=text("0"), comment="The last batch applied"),
        Column("started_at", timestamp(), nullable=False, comment="When it registered, UTC"),
        Column("heartbeat_at", timestamp(), nullable=False, comment="When it last wrote, UTC"),
        Column("suppression", BigInteger, nullable=False, server_default=text("0"), comment="Grows: it has to look"),
        schema=schema,
        comment="The ledger that makes every batch count exactly once",
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    history = Table(
        "feature_usage_history",
        metadata,
        user_column(),
        feature_column(nullable=True),
        Column("bucket_start", timestamp(), nullable=False, comment="The start of the hour or day, UTC"),
        Column("usage_count", Integer, nullable=True, server_default=text("1"), comment="Uses in this bucket"),
        schema=schema,
        comment="Uses by user, feature and hour or day",
        postgresql_with={"fillfactor": 85},  # as above: the rows of today are updated all day
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    catalog = Table(
        "feature_usage_catalog",
        metadata,
        Column(
            "service", String(NAME_LENGTH), primary_key=True, server_default=text("''"), comment="The program's name"
        ),
        feature_column(primary_key=True, nullable=False),
        Column("description", Text, nullable=True, comment="What it is, by its author"),
        Column("source", Text, nullable=True, comment="The code that declares it"),
        Column("declared_at", timestamp(), nullable=False, comment="When it was first declared, UTC"),
        Column("last_declared_at", timestamp(), nullable=False, comment="When it was last declared, UTC"),
        schema=schema,
        comment="Every feature that code declares, used or not",
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    losses = Table(
        "feature_usage_losses",
        metadata,
        Column("day", Date, primary_key=True, comment="UTC"),
        Column(
            "service", String(NAME_LENGTH), primary_key=True, server_default=text("''"), comment="The program's name"
        ),
        Column("reason", String(NAME_LENGTH), primary_key=True, comment="Why"),
        Column("uses", BigInteger, nullable=False, server_default=text("0"), comment="How many uses were lost"),
        schema=schema,
        comment="Uses that were dropped or rejected: whether the numbers can be trusted",
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    for table, unique in ((usage, UNIQUE_USAGE), (history, UNIQUE_HISTORY)):
        Index(unique, *key(table, user_id_type), unique=True, _table=table).ddl_if(
            callable_=cast(Any, _has_expression_indexes)
        )
        Index(f"ix_{table.name}_user_id", table.c.user_id)
        for dialect in dialects.every():
            dialect.constrain(table, unique, user_id_type)
    # What is asked of the history is asked of its last days, and what is pruned are its first. Updates stay in place.
    Index(f"ix_{history.name}_bucket_start", history.c.bucket_start)
    access = define_access(metadata, schema, user_type)
    suppressions = define_suppressions(metadata, schema)
    tables = Tables(usage, writers, history, catalog, losses, access, suppressions, user_id_type, name_of(target))
    metadata.info.setdefault(INFO, {})[usage.fullname] = tables
    return tables


def _has_expression_indexes(*_: object, dialect: Any = None, **__: object) -> bool:
    return dialect is None or dialect.name not in {"mysql", "mariadb"}


# ---- in a database


@dataclass(frozen=True)
class Created:
    """What `create_all` did."""

    tables: Tables
    made: tuple[str, ...]
    """The tables that were not there before."""
    users: str | None
    """The column that `user_id` refers to; None when there is no foreign key."""
    why: str
    """One sentence on that choice."""


def create_all(
    bind: Engine | Connection,
    *,
    schema: str | None = None,
    users: object = "auto",
    user_id_type: UserIdType = "uuid",
) -> Created:
    """Create the tables that are missing, in the database that `bind` leads to.

    `users="auto"` looks at the database for a `users(id)` whose type fits and refers to it. For an AsyncEngine:
    `async with engine.begin() as connection: await connection.run_sync(create_all)`. A `feature_usage` that is there
    already stays as it is; `usage-instrument db upgrade` brings it to today's form. Raises ConfigurationError.
    """
    if isinstance(bind, Engine):
        return _create_beside_others(bind, schema=schema, users=users, user_id_type=user_id_type)
    if not isinstance(bind, Connection):
        raise ConfigurationError(
            f"create_all takes an Engine or a Connection, not {type(bind).__name__}; with an AsyncEngine: "
            "async with engine.begin() as connection: await connection.run_sync(create_all)"
        )
    inspector = inspect(bind)
    tables, why, _ = plan(bind, schema=schema, users=users, user_id_type=user_id_type)
    made = tuple(table.name for table in tables if not inspector.has_table(table.name, schema=table.schema))
    tables.usage.metadata.create_all(bind, tables=list(tables))
    refers = tables.users
    if tables.usage.name not in made:
        target = live_target(bind, tables.usage)
        refers = ".".join(part for part in target if part) if target is not None else None
        why = f"{tables.usage.fullname} was there: its user_id " + (
            f"refers to {refers}" if refers is not None else "has no foreign key"
        )
    logger.info("%s", why)
    return Created(tables, made, refers, why)


def _create_beside_others(engine: Engine, **options: Any) -> Created:
    """As create_all, while the other workers of an app that starts do the same."""
    failures = 0
    with engine.connect() as connection:
        while True:
            try:
                with connection.begin():
                    return create_all(connection, **options)
            except DBAPIError as error:
                # Whoever comes second to a table fails, and finds it there the next time. What is altered, though, is
                # a table of one's own.
                failures += 1
                if failures > _TABLES or (error.statement or "").startswith("ALTER"):
                    raise


class Plan(NamedTuple):
    """The tables as they would be in a database."""

    tables: Tables
    why: str
    """One sentence on what `user_id` refers to."""
    misfit: UserIdType | None = None
    """What `user_id_type` would have to be for the users that were found and passed over."""


def plan(connection: Connection, *, schema: str | None, users: object, user_id_type: UserIdType) -> Plan:
    """Look at a database for what `user_id` refers to. Raises ConfigurationError."""
    metadata = MetaData()
    found = find_users(connection, metadata, schema, users, user_id_type)
    tables = define_tables(metadata, schema=schema, users=found.target, user_id_type=user_id_type)
    return Plan(tables, found.why, found.misfit)
