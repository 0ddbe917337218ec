"""Upgrades the tables of a database to this release's schema, or prints the plan."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Index, Table, exc
from sqlalchemy import types as sqltypes
from sqlalchemy.schema import CreateIndex
from sqlalchemy.types import TypeEngine

from .database import dialects
from .database.deduplication import count_duplicates, key_names, merge_dimensions, merge_duplicates, merge_history
from .database.driver_errors import Fault
from .database.foreign_keys import foreign_key_change
from .database.inspection import check, lacks_primary_key, missing_indexes, unknown_column_problem, user_id_type_problem
from .database.live_tables import LiveTables
from .database.tables import UNIQUE_USAGE, Tables
from .database.users_column import live_users_column
from .errors import ConfigurationError, SchemaError
from .views import VIEWS, create_views, drop_views, existing_views

__all__ = ["Step", "Upgrade", "merge_duplicates", "plan_upgrade", "upgrade"]

_PATIENCE = 300.0
"""Seconds until an upgrade of partitions gives up waiting for the transactions of others."""
WARNING = (
    "From then on a second plain INSERT of the same user and feature fails: "
    "let usage-instrument count, or use ON CONFLICT (ON DUPLICATE KEY on MariaDB)."
)


@dataclass(frozen=True)
class Step:
    """One change."""

    sentence: str
    run: Callable[[Connection], object]
    is_online: bool = False
    """Whether it runs after the others, in transactions of its own, while others write."""


@dataclass(frozen=True)
class Upgrade:
    """The changes to a database."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    """Consequences, and changes that cannot be made."""

    @property
    def sentences(self) -> list[str]:
        """The steps in words."""
        return [step.sentence for step in self.steps]


def upgrade(connection: Connection, tables: Tables) -> Upgrade:
    """Run the steps of `plan_upgrade` and return them.

    One transaction on PostgreSQL and SQLite, but for partitions, which come after it in short ones. On MariaDB every
    DDL statement commits. After a failure, run it again.
    Raises SchemaError if the tables cannot be upgraded, ConfigurationError if the connection is in a transaction.
    """
    if connection.in_transaction():
        raise ConfigurationError("upgrade() takes a connection without a transaction, and begins its own")
    dialect = dialects.get(connection.dialect.name)
    with dialect.schema_change(connection, tables.of_users) as connection_:
        plan = plan_upgrade(connection_, tables)
        for step in plan.steps:
            if not step.is_online:
                step.run(connection_)
        blocking = [problem.message for problem in check(connection_, tables) if problem.blocks_writing]
        if blocking:
            raise SchemaError(f"after the upgrade: {blocking[0]}")
    for step in plan.steps:
        if step.is_online:
            step.run(connection)
    return plan


def plan_upgrade(connection: Connection, tables: Tables) -> Upgrade:
    """The steps that bring the live tables to this release's schema. Raises SchemaError if they cannot be upgraded."""
    live = LiveTables(connection, tables)
    missing = [table for table in tables if not live.has_table(table.name, schema=table.schema)]
    altering: list[Step] = []
    notes: list[str] = []
    for table in tables:
        if table not in missing:
            problem = (
                user_id_type_problem(connection, live, table, tables)
                or _renamed_column_problem(connection, live, table)
                or unknown_column_problem(live, table)
            )
            if problem is not None:
                raise SchemaError(problem)
            altering += _column_steps(connection, live, table)
    altering += _join_steps(connection, tables, missing)
    steps = [*altering]
    for table, unique in tables.uniques:
        if table not in missing:
            steps += _unique_steps(connection, live, tables, table, unique)
    for table in tables.of_users:
        if table not in missing:
            foreign_key = foreign_key_change(connection, tables, table, live)
            if foreign_key.sentence:
                step = Step(foreign_key.sentence, foreign_key.make)
                altering.append(step)
                steps.append(step)
            notes += [foreign_key.note] if foreign_key.note else []
            steps += _index_steps(live, table)
    if missing:
        names = ", ".join(table.fullname for table in missing)
        steps.append(
            Step(
                f"Create {'the table' if len(missing) == 1 else 'the tables'} {names}.",
                lambda connection: tables.usage.metadata.create_all(connection, tables=missing),
            )
        )
    views = existing_views(connection, tables)
    if altering and views and dialects.get(connection.dialect.name).views_hold_columns:
        notes.append("Grants on the views, and views built on them, have to be made again.")
        steps.insert(0, Step(f"Drop the views {', '.join(views)}.", partial(drop_views, tables=tables)))
        steps.append(Step("Create the views again.", partial(create_views, tables=tables)))
    steps += _rollup_steps(connection, tables, missing)
    steps += _partition_steps(connection, tables, missing, notes)
    if any(UNIQUE_USAGE in step.sentence for step in steps):
        notes.insert(0, WARNING)
    return Upgrade(tuple(steps), tuple(notes))


def _join_steps(connection: Connection, tables: Tables, missing: list[Table]) -> list[Step]:
    """From partitions back to one table."""
    history, partitioning = tables.history, dialects.get(connection.dialect.name).partitioning
    if tables.history_partitions != "none" or history in missing or partitioning.find(connection, history) is None:
        return []
    _refuse_foreign_views(connection, tables)
    join = partial(_keeping_rollups, tables=tables, change=partitioning.unpartition)
    return [Step(f"Copy the partitions of {history.fullname} into one table, while uses wait in the processes.", join)]


def _partition_steps(connection: Connection, tables: Tables, missing: list[Table], notes: list[str]) -> list[Step]:
    history, partitioning = tables.history, dialects.get(connection.dialect.name).partitioning
    if history in missing:
        return []
    found = partitioning.find(connection, history)
    if found is not None and found.default is None and tables.history_partitions != "none":
        add = partitioning.new(connection, history) or [""]
        sentence = f"Add a partition to {history.fullname} for the rows of months without one."
        return [Step(sentence, lambda connection: connection.exec_driver_sql(add[0]))]
    if tables.history_partitions != "month" or found is not None:
        return []
    _refuse_foreign_views(connection, tables)
    if existing_views(connection, tables):
        notes.append("The views are made again, and grants on them have to be.")
    sentence = (
        f"Partition {history.fullname} by month: the table becomes the partition of the past and of the next two "
        "months. Its rows stay where they are, and processes go on."
    )
    return [Step(sentence, partial(_partition, tables=tables), is_online=True)]


def _rollup_steps(connection: Connection, tables: Tables, missing: list[Table]) -> list[Step]:
    history, rollups = tables.history, dialects.get(connection.dialect.name).rollups
    if history in missing or tables.history_rollups is None:
        return []
    if not tables.history_rollups:
        if not rollups.exist(connection, history):
            return []
        return [Step(f"Drop the rollups of {history.fullname}.", partial(rollups.drop, history=history))]
    if rollups.find(connection, history):
        return []
    sentence = (
        f"Make tables for rollups of {history.fullname}, and triggers that keep them. "
        "Maintenance fills them within a day, `usage-instrument prune` at once."
    )
    return [Step(sentence, partial(_make_rollups, history=history))]


def _make_rollups(connection: Connection, history: Table) -> None:
    users = live_users_column(connection, history)
    dialects.get(connection.dialect.name).rollups.create(connection, history, users)


def _keeping_rollups(connection: Connection, tables: Tables, change: Callable[..., None]) -> None:
    """Put another table in the place of the history, with rollups that begin anew if this one has some."""
    history, rollups = tables.history, dialects.get(connection.dialect.name).rollups
    has_rollups = rollups.exist(connection, history)
    if has_rollups:
        rollups.drop(connection, history)
    change(connection, history, live_users_column(connection, history))
    if has_rollups:
        _make_rollups(connection, history)


def _refuse_foreign_views(connection: Connection, tables: Tables) -> None:
    history, partitioning = tables.history, dialects.get(connection.dialect.name).partitioning
    others = partitioning.foreign_views(connection, history, [view.name for view in VIEWS])
    if others:
        raise SchemaError(
            f"{', '.join(others)} would go on reading the old table of {history.fullname}: "
            "drop each such view first, and create it again after the upgrade"
        )


def _partition(connection: Connection, tables: Tables) -> None:
    history, partitioning = tables.history, dialects.get(connection.dialect.name).partitioning
    try:
        for prepare, in_transaction in partitioning.preparations(history):
            if in_transaction:
                _in_turn(connection, prepare)
            else:
                _autocommit(connection, prepare)
        _in_turn(connection, partial(_swap, tables=tables))
    except BaseException:
        with contextlib.suppress(exc.SQLAlchemyError, SchemaError):
            _in_turn(connection, partial(partitioning.abandon, table=history))
        raise


def _swap(connection: Connection, tables: Tables) -> None:
    views = existing_views(connection, tables)
    if views:
        drop_views(connection, tables=tables)
    partitioning = dialects.get(connection.dialect.name).partitioning
    _keeping_rollups(connection, tables, partitioning.partition)
    if views:
        create_views(connection, tables=tables)


def _autocommit(connection: Connection, change: Callable[[Connection], object]) -> None:
    """Run a statement that must be in no transaction."""
    level = connection.get_isolation_level()
    connection.rollback()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        change(connection)
    finally:
        connection.rollback()
        connection.execution_options(isolation_level=level)


def _in_turn(connection: Connection, change: Callable[[Connection], object]) -> None:
    """Run a change in a transaction. Others queue behind a wait for locks: it is short, and comes again."""
    dialect = dialects.get(connection.dialect.name)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with connection.begin():
                change(connection)
        except exc.DBAPIError as error:
            if dialect.classify(error) is not Fault.LOCKED:
                raise
            if time.monotonic() > deadline:
                raise SchemaError(
                    "long transactions keep a table locked: end them (SELECT * FROM pg_stat_activity), and try again"
                ) from error
            time.sleep(0.05 + random.random() * 0.2)
        else:
            return


def _column_steps(connection: Connection, live: LiveTables, table: Table) -> list[Step]:
    there = {column["name"] for column in live.get_columns(table.name, schema=table.schema)}
    dialect = dialects.get(connection.dialect.name)
    steps = []
    if lacks_primary_key(live, table) and (table.autoincrement_column is not None or _has_key(table, there)):
        add_key = partial(dialect.add_primary_key, table=table)
        steps.append(
            Step(f"Add the primary key {', '.join(table.primary_key.columns.keys())} to {table.fullname}.", add_key)
        )
    for column in table.c:
        if column.name in there or column is table.autoincrement_column:
            continue
        if column.primary_key:
            raise SchemaError(
                f"table {table.fullname} has no column {column.name}, which is its key: "
                "rename the table, and run `usage-instrument db create`"
            )
        add = partial(dialect.add_column, table=table, column=column)
        steps.append(Step(f"Add the column {column.name} to {table.fullname}.", add))
    changes = dialect.column_changes(connection, live, table)
    return steps + [Step(f"Change a column: {change.what}.", change.make) for change in changes]


def _renamed_column_problem(connection: Connection, live: LiveTables, table: Table) -> str | None:
    """The unknown column that may hold the values of a missing one, if there is one."""
    columns = live.get_columns(table.name, schema=table.schema)
    there = {column["name"] for column in columns}
    hidden = dialects.get(connection.dialect.name).hidden_columns
    for column in table.c:
        if column.name in there or column is table.autoincrement_column:
            continue
        for each in columns:
            name = each["name"]
            if name not in table.c and name not in hidden and _may_hold(each["type"], column.type):
                return (
                    f"table {table.fullname} has no column {column.name}, but an unknown column {name} of its type, "
                    f"which may hold its values: ALTER TABLE {table.fullname} RENAME COLUMN {name} TO {column.name}, "
                    f"or add the column {column.name} yourself"
                )
    return None


def _may_hold(live: TypeEngine[Any], wanted: TypeEngine[Any]) -> bool:
    """Whether an unknown column may be one of this type that was renamed."""
    kinds = {wanted._type_affinity}
    if kinds & {sqltypes.JSON, sqltypes.Uuid}:  # where the database has no such type
        kinds |= {sqltypes.String, sqltypes.NullType}
    return live._type_affinity in kinds


def _has_key(table: Table, live: set[str]) -> bool:
    return set(table.primary_key.columns.keys()) <= live


def _unique_steps(connection: Connection, live: LiveTables, tables: Tables, table: Table, name: str) -> list[Step]:
    dialect = dialects.get(connection.dialect.name)
    has_unique = dialect.has_unique(connection, live, table, name)
    difference = dialect.unique_difference(connection, table, tables.user_id_type) if has_unique else None
    if has_unique and difference is None:
        return []
    steps = []
    there = {column["name"] for column in live.get_columns(table.name, schema=table.schema)}
    has_key = there.issuperset(key_names(table))
    duplicates = count_duplicates(connection, table, tables.user_id_type) if has_key else 0
    if duplicates:
        what, how, run = {
            tables.usage: (
                "the user and the feature",
                (
                    "counts are added up (a NULL adds nothing), the newest last_used and the lowest id stay, "
                    "and newer metadata keys win"
                ),
                merge_duplicates,
            ),
            tables.history: ("the user, the feature and the bucket", "counts are added up", merge_history),
            tables.dimensions: (
                "the user, the feature, the dimension, its value and the day",
                "uses and numbers are added up, and the least and the greatest number stay",
                merge_dimensions,
            ),
        }[table]
        rows = "1 row" if duplicates == 1 else f"{duplicates:,} rows"
        merge = partial(run, tables=tables)
        steps.append(Step(f"Merge {rows} of {table.fullname} into others with the same key, {what}: {how}.", merge))
    add = partial(dialect.add_unique, table=table, name=name, user_id_type=tables.user_id_type)
    make = f"Add the unique index {name} to {table.fullname}, NULLs included."
    if difference is not None:
        make = f"Make the unique index {name} of {table.fullname} anew: it {difference}."
    steps.append(Step(make, add))
    return steps


def _index_steps(live: LiveTables, table: Table) -> list[Step]:
    return [
        Step(f"Add the index {index.name} to {table.fullname}.", partial(_create_index, index))
        for index in missing_indexes(live, table)
    ]


def _create_index(index: Index, connection: Connection) -> None:
    # An earlier step may have created it along with its table.
    if_not_exists = connection.dialect.name in {"sqlite", "postgresql"}
    connection.execute(CreateIndex(index, if_not_exists=if_not_exists))
