"""Bringing the tables of a database to this release's form: first the steps in words, then the steps themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, Index, Table, inspect
from sqlalchemy.schema import CreateIndex

from .database import dialects
from .database.deduplication import count_duplicates, merge_duplicates, merge_history
from .database.foreign_keys import Reference, find_reference
from .database.inspection import check, missing_indexes, stranger_problem, user_type_problem
from .database.schema import UNIQUE_HISTORY, UNIQUE_USAGE
from .database.tables import Tables
from .errors import ConfigurationError, SchemaError
from .views import create_views, drop_views, existing_views

__all__ = ["Step", "Upgrade", "merge_duplicates", "plan_upgrade", "upgrade"]

WARNING = (
    "From then on a second plain INSERT of the same user and feature fails: "
    "let usage-instrument count, or use ON CONFLICT (ON DUPLICATE KEY on MariaDB)."
)


@dataclass(frozen=True)
class Step:
    """One thing to do, and how."""

    sentence: str
    run: Callable[[Connection], object]


@dataclass(frozen=True)
class Upgrade:
    """What is to be done to a database."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    """What whoever runs it should know."""

    @property
    def sentences(self) -> list[str]:
        """The steps in words."""
        return [step.sentence for step in self.steps]


def upgrade(connection: Connection, tables: Tables) -> Upgrade:
    """Do what `plan_upgrade` says, and return it; a database that is up to date stays as it is.

    One transaction on PostgreSQL and SQLite. On MariaDB every statement that changes a table commits by itself: after
    a failure, run it again. The connection has no transaction of its own yet. Raises SchemaError when the tables cannot
    be brought to this form, ConfigurationError when the connection is in a transaction.
    """
    if connection.in_transaction():
        raise ConfigurationError("upgrade() takes a connection without a transaction, and begins its own")
    dialect = dialects.get(connection.dialect.name)
    with dialect.schema_change(connection, [tables.usage, tables.history]) as connection_:
        plan = plan_upgrade(connection_, tables)
        for step in plan.steps:
            step.run(connection_)
        wrong = [problem.message for problem in check(connection_, tables) if problem.blocks_writing]
        if wrong:
            raise SchemaError(f"after the upgrade: {wrong[0]}")
    return plan


def plan_upgrade(connection: Connection, tables: Tables) -> Upgrade:
    """What it takes to bring the live tables to this release's form. Raises SchemaError when that cannot be."""
    inspector = inspect(connection)
    missing = [table for table in tables if not inspector.has_table(table.name, schema=table.schema)]
    altered: list[Step] = []
    notes: list[str] = []
    for table in tables:
        if table not in missing:
            problem = user_type_problem(connection, table, tables) or stranger_problem(connection, table)
            if problem is not None:
                raise SchemaError(problem)
            altered += _missing_columns(connection, table)
            altered += _changes(connection, table)
    steps = [*altered]
    for table, unique in ((tables.usage, UNIQUE_USAGE), (tables.history, UNIQUE_HISTORY)):
        if table not in missing:
            steps += _unique(connection, tables, table, unique)
            reference = find_reference(connection, tables, table)
            altered += _reference(table, reference)
            steps += _reference(table, reference)
            notes += [reference.note] if reference.note else []
            steps += _plain_indexes(connection, table)
    if missing:
        names = ", ".join(table.fullname for table in missing)
        steps.append(
            Step(
                f"Create {'the table' if len(missing) == 1 else 'the tables'} {names}.",
                lambda connection: tables.usage.metadata.create_all(connection, tables=missing),
            )
        )
    if altered and dialects.get(connection.dialect.name).views_hold_columns:
        steps = _without_views(connection, tables, steps, notes)
    if any(UNIQUE_USAGE in step.sentence for step in steps):
        notes.insert(0, WARNING)
    return Upgrade(tuple(steps), tuple(notes))


def _without_views(connection: Connection, tables: Tables, steps: list[Step], notes: list[str]) -> list[Step]:
    """The steps, with the views out of their way."""
    views = existing_views(connection, tables)
    if not views:
        return steps
    notes.append("What is granted on the views, and built on them, has to be granted and built anew.")
    dropping = Step(f"Drop the views {', '.join(views)}.", partial(drop_views, tables=tables))
    return [dropping, *steps, Step("Make the views again.", partial(create_views, tables=tables))]


def _missing_columns(connection: Connection, table: Table) -> list[Step]:
    live = {column["name"] for column in inspect(connection).get_columns(table.name, schema=table.schema)}
    dialect = dialects.get(connection.dialect.name)
    steps = []
    for column in table.c:
        if column.name in live:
            continue
        if column.primary_key:
            raise SchemaError(
                f"table {table.fullname} has no column {column.name}, which is its key: "
                "rename the table, and run `usage-instrument db create`"
            )
        steps.append(
            Step(
                f"Add the column {column.name} to {table.fullname}.",
                partial(dialect.add_column, table=table, column=column),
            )
        )
    return steps


def _changes(connection: Connection, table: Table) -> list[Step]:
    changes = dialects.get(connection.dialect.name).column_changes(connection, table)
    return [Step(f"Change a column: {change.what}.", change.make) for change in changes]


def _unique(connection: Connection, tables: Tables, table: Table, name: str) -> list[Step]:
    dialect = dialects.get(connection.dialect.name)
    if dialect.has_unique(connection, table, name):
        return []
    steps = []
    live = {column["name"] for column in inspect(connection).get_columns(table.name, schema=table.schema)}
    known = {"user_id", "feature_name"} <= live
    duplicates = count_duplicates(connection, table, tables.user_id_type) if known else 0
    is_usage = table is tables.usage
    if duplicates:
        what = "the user and the feature" if is_usage else "the user, the feature and the bucket"
        how = (
            "counts are added up (a NULL adds nothing), the newest last_used and the lowest id stay, "
            "and newer metadata is laid over older, key by key"
            if is_usage
            else "counts are added up"
        )
        rows = "1 row" if duplicates == 1 else f"{duplicates:,} rows"
        steps.append(
            Step(
                f"Merge {rows} of {table.fullname} into others that have {what} in common: {how}.",
                lambda connection: (merge_duplicates if is_usage else merge_history)(connection, tables),
            )
        )
    steps.append(
        Step(
            f"Add the unique index {name} to {table.fullname}, NULLs included.",
            lambda connection: dialect.add_unique(connection, table, name, tables.user_id_type),
        )
    )
    return steps


def _reference(table: Table, reference: Reference) -> list[Step]:
    return [Step(reference.sentence, reference.make)] if reference.sentence else []


def _plain_indexes(connection: Connection, table: Table) -> list[Step]:
    return [
        Step(f"Add the index {index.name} to {table.fullname}.", partial(_create_index, index))
        for index in missing_indexes(connection, table)
    ]


def _create_index(index: Index, connection: Connection) -> None:
    connection.execute(CreateIndex(index, if_not_exists=_knows_if(connection)))


def _knows_if(connection: Connection) -> bool:
    return connection.dialect.name in {"sqlite", "postgresql"}
