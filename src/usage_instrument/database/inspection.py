"""Compares the live tables with their definitions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BigInteger, Connection, Index, Table, exc, literal, select
from sqlalchemy import types as sqltypes

from . import dialects
from .definitions import OPTIONAL
from .dialects.base import KEY_COLUMNS, as_uuid
from .foreign_keys import CASCADES, key_actions
from .live_tables import LiveTables
from .reflection import elsewhere, has_table
from .tables import Tables
from .users_column import UsersColumn, live_users_column
from .users_table import fits, in_sql, kind_of

CREATE = "run `usage-instrument db create`"
UPGRADE = "run `usage-instrument db upgrade`"
UPGRADE_IDS = "run `usage-instrument db upgrade --id-type bigint`"
UPGRADE_ROLLUPS = "run `usage-instrument db upgrade --history-rollups yes`"
UPGRADE_PARTITIONS = "run `usage-instrument db upgrade --history-partitions month`"


@dataclass(frozen=True)
class Problem:
    """A difference between a live table and its definition, in one line that ends with the fix."""

    message: str
    blocks_writing: bool


def check(
    connection: Connection, tables: Tables, live: LiveTables | None = None, *, only_blocking: bool = False
) -> list[Problem]:
    """The differences of the live tables; those that block writing come first. `live` keeps what it has read.

    With `only_blocking`, the database is asked for nothing else, so that another fix may be named for a missing table.
    """
    live = live or LiveTables(connection, tables)
    problems: list[Problem] = []
    missing: list[Table] = []
    for table in tables:
        if only_blocking and table in _without_counts(tables) and table not in tables.of_users:
            continue
        if has_table(live, table):
            problems += _check_table(connection, live, table, tables, only_blocking=only_blocking)
        else:
            missing.append(table)
    if tables.history not in missing and not only_blocking:
        problems += _check_partitions(connection, tables)
        problems += _check_rollups(connection, tables)
    fix = UPGRADE if any(UPGRADE in problem.message for problem in problems) else CREATE
    if tables.usage in missing:
        fix = elsewhere(connection) or fix
    problems += [
        Problem(f"table {table.fullname} does not exist: {fix}", table not in _without_counts(tables))
        for table in missing
    ]
    if only_blocking:
        return [problem for problem in problems if problem.blocks_writing]
    return sorted(problems, key=lambda problem: not problem.blocks_writing)


def _check_table(
    connection: Connection, live: LiveTables, table: Table, tables: Tables, *, only_blocking: bool
) -> Iterator[Problem]:
    is_needed = table not in _without_counts(tables)
    if is_needed or not only_blocking:
        found = _check_columns(connection, live, table, tables)
        if not only_blocking and lacks_primary_key(live, table):
            message = "has no primary key, which logical replication and some managed services require"
            found.append(Problem(f"table {table.fullname} {message}: {UPGRADE}", False))
        if table in dict(tables.uniques):
            found += _check_unique(connection, live, table, tables, only_blocking=only_blocking)
        yield from found if is_needed else [replace(each, blocks_writing=False) for each in found]
    if table in (*tables.of_users, tables.access) and not only_blocking:
        yield from (_missing_index(table, index) for index in missing_indexes(live, table))
    if table in tables.of_users:
        if tables.user_id_type == "string" and (problem := _equality_problem(connection, live, table)):
            yield problem
        if not only_blocking:
            yield from _check_foreign_key(live, table, tables, live_users_column(connection, table, live))


def _without_counts(tables: Tables) -> tuple[Table, ...]:
    """The tables without which counts are written all the same."""
    return tables.access, tables.trail, tables.exposures, tables.dimensions, tables.outbox, tables.alerts


def exposure_problem(connection: Connection, tables: Tables, live: LiveTables | None = None) -> str | None:
    """The reason why exposures cannot be written; None if they can.

    A key that the database compares otherwise is one: writers add up equal keys before they send them.
    """
    table = tables.exposures
    key = tuple(f"{table.fullname}.{column.name} " for column in table.primary_key.columns)
    return _problem(connection, live or LiveTables(connection, [table]), tables, table, key)


def dimension_problem(connection: Connection, tables: Tables, live: LiveTables | None = None) -> str | None:
    """The reason why dimensions cannot be written; None if they can."""
    table = tables.dimensions
    live = live or LiveTables(connection, [table])
    key = tuple(f"{table.fullname}.{name} " for name in KEY_COLUMNS)
    problem = _problem(connection, live, tables, table, key)
    if problem is not None:
        return problem
    return next((each.message for each in _check_unique(connection, live, table, tables, only_blocking=True)), None)


def audit_problem(connection: Connection, tables: Tables, live: LiveTables | None = None) -> str | None:
    """The reason why the audit trail cannot be written; None if it can."""
    needed = (tables.access, tables.suppressions)
    live = live or LiveTables(connection, needed)
    return next(filter(None, (_problem(connection, live, tables, table) for table in needed)), None)


def _problem(
    connection: Connection, live: LiveTables, tables: Tables, table: Table, about: tuple[str, ...] = ()
) -> str | None:
    """The first difference that blocks writing to a table, or begins as `about`; None if there is none."""
    if not has_table(live, table):
        return f"table {table.fullname} does not exist: {CREATE}"
    found = _check_columns(connection, live, table, tables)
    return next((each.message for each in found if each.blocks_writing or each.message.startswith(about)), None)


# ---- columns


def _check_columns(connection: Connection, live: LiveTables, table: Table, tables: Tables) -> list[Problem]:
    there = {column["name"] for column in live.get_columns(table.name, schema=table.schema)}
    problems = [
        Problem(f"table {table.fullname} has no column {column.name}: {UPGRADE}", OPTIONAL not in column.info)
        for column in table.c
        if column.name not in there and column is not table.autoincrement_column
    ]
    lasting = (user_id_type_problem(connection, live, table, tables), unknown_column_problem(live, table))
    changes = dialects.get(connection.dialect.name).column_changes(connection, live, table)
    problems += [Problem(message, True) for message in lasting if message is not None]
    for change in changes:
        is_id = change.what.startswith(f"{tables.usage.fullname}.id ") and isinstance(table.c.id.type, BigInteger)
        problems.append(Problem(f"{change.what}: {UPGRADE_IDS if is_id else UPGRADE}", change.blocks_writing))
    return problems


def lacks_primary_key(live: LiveTables, table: Table) -> bool:
    """Whether a live table has no primary key, its own or the owner's."""
    return not live.get_pk_constraint(table.name, schema=table.schema)["constrained_columns"]


def unknown_column_problem(live: LiveTables, table: Table) -> str | None:
    """The unknown column of a live table that makes every INSERT fail, if there is one."""
    for column in live.get_columns(table.name, schema=table.schema):
        generated = column.get("computed") or column.get("identity") or column.get("autoincrement") is True
        if column["name"] not in table.c and not column["nullable"] and not (column["default"] or generated):
            return (
                f"{table.fullname}.{column['name']} is NOT NULL without a default, and usage-instrument does not know "
                "its value: give it a default, or let it be NULL"
            )
    return None


def user_id_type_problem(connection: Connection, live: LiveTables, table: Table, tables: Tables) -> str | None:
    """The difference between the type of a live `user_id` and the setting, if there is one."""
    if "user_id" not in table.c:
        return None
    for column in live.get_columns(table.name, schema=table.schema):
        type_ = as_uuid(column["type"])
        if column["name"] == "user_id" and not _may_hold(connection, type_, tables):
            its = kind_of(type_)
            fixes = [f"set user_id_type to {its!r} (--user-id-type {its})"] if its is not None else []
            if connection.execute(select(literal(1)).select_from(table).limit(1)).first() is None:
                fixes.append("drop the table, which is empty, and create it anew")
            return (
                f"{table.fullname}.user_id is {in_sql(connection, column['type'])}, and user_id_type is "
                f"{tables.user_id_type!r}: {', or '.join(fixes) or 'neither can be changed here'}"
            )
    return None


def _may_hold(connection: Connection, type_: Any, tables: Tables) -> bool:
    if fits(type_, tables.user_id_type) or connection.dialect.name == "postgresql" or tables.user_id_type != "uuid":
        return fits(type_, tables.user_id_type)
    if isinstance(type_, sqltypes.String):  # SQLite and MySQL store UUIDs as text
        return type_.length in {None, 32, 36}
    # SQLite reflects an unknown type as NULL or NUMERIC.
    return isinstance(type_, sqltypes.NullType | sqltypes.Numeric)


# ---- partitions


def _check_partitions(connection: Connection, tables: Tables) -> Iterator[Problem]:
    history, partitioning = tables.history, dialects.get(connection.dialect.name).partitioning
    found = partitioning.find(connection, history)
    if partitioning.is_prepared(connection, history):
        message = f"the upgrade of {history.fullname} to partitions was interrupted: {UPGRADE_PARTITIONS}"
        yield Problem(message, False)
    elif tables.history_partitions == "month" and found is None:
        yield Problem(f"table {history.fullname} is not partitioned by month: {UPGRADE_PARTITIONS}", False)
    if found is None:
        return
    if tables.history_partitions == "none":
        fix = "run `usage-instrument db upgrade --history-partitions none`"
        yield Problem(f"table {history.fullname} is partitioned by month: {fix}", False)
    if found.default is None:
        yield Problem(f"table {history.fullname} has no partition for the rows of other months: {UPGRADE}", False)
    missing = found.missing(ahead=1)
    if missing:
        months = " and ".join(f"{month:%Y-%m}" for month in missing)
        yield Problem(f"table {history.fullname} has no partition for {months}: run `usage-instrument prune`", False)


def _check_rollups(connection: Connection, tables: Tables) -> Iterator[Problem]:
    history, wanted = tables.history, tables.history_rollups
    rollups = dialects.get(connection.dialect.name).rollups
    if wanted and not rollups.find(connection, history):
        yield Problem(f"table {history.fullname} has no rollups, or not their triggers: {UPGRADE_ROLLUPS}", False)
    elif wanted is False and rollups.exist(connection, history):
        fix = "run `usage-instrument db upgrade --history-rollups no`"
        yield Problem(f"table {history.fullname} has rollups: {fix}", False)


# ---- keys


def missing_indexes(live: LiveTables, table: Table) -> list[Index]:
    """The plain indexes that a live table lacks. Without them, deleting a user or reading a day scans the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", exc.SAWarning)  # SQLite's expression indexes cannot be reflected
        found = [index["column_names"] for index in live.get_indexes(table.name, schema=table.schema)]
    plain = [index for index in sorted(table.indexes, key=lambda index: str(index.name)) if not index.unique]
    return [index for index in plain if not any(names[: len(index.columns)] == index.columns.keys() for names in found)]


def _missing_index(table: Table, index: Index) -> Problem:
    return Problem(f"table {table.fullname} has no index {index.name}: {UPGRADE}", False)


def _equality_problem(connection: Connection, live: LiveTables, table: Table) -> Problem | None:
    users = live_users_column(connection, table, live)
    obstacle = users and dialects.get(connection.dialect.name).equality_obstacle(connection, users)
    if not obstacle:
        return None
    return Problem(
        f"{table.fullname}.user_id refers to {users}, which {obstacle}: drop the foreign key and set users='none', or "
        "give the users table ids that are compared byte by byte",
        True,
    )


def _check_unique(
    connection: Connection, live: LiveTables, table: Table, tables: Tables, *, only_blocking: bool
) -> list[Problem]:
    name, dialect = dict(tables.uniques)[table], dialects.get(connection.dialect.name)
    if not dialect.has_unique(connection, live, table, name):
        return [Problem(f"table {table.fullname} has no unique index {name}: {UPGRADE}", True)]
    difference = None if only_blocking else dialect.unique_difference(connection, table, tables.user_id_type)
    if difference is None:
        return []
    return [Problem(f"the unique index {name} of {table.fullname} {difference}: {UPGRADE}", False)]


def _check_foreign_key(live: LiveTables, table: Table, tables: Tables, users: UsersColumn | None) -> Iterator[Problem]:
    if tables.users is not None and users is None:
        yield Problem(
            f"{table.fullname}.user_id has no foreign key to {tables.users}: {UPGRADE}, or set users='none'", False
        )
    for foreign in live.get_foreign_keys(table.name, schema=table.schema):
        actions = key_actions(foreign)
        if foreign["constrained_columns"] == ["user_id"] and actions != CASCADES:
            yield Problem(
                f"the foreign key of {table.fullname}.user_id is {actions}; with anything but CASCADE, deleting a "
                f"user or changing an id fails, or makes their counts anonymous: {UPGRADE}",
                False,
            )
