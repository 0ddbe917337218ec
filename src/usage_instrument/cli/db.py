"""`usage-instrument db`: creates, checks and upgrades the tables and views of a database."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer
from sqlalchemy import Connection, select

from usage_instrument import upgrade, views
from usage_instrument.database import dialects, inspection, suppressions
from usage_instrument.database.schema import Created, ReflectedOptions, create_all, reflected_options
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.settings import Settings
from usage_instrument.typing import HistoryPartitions, IdType

from .database import read, run
from .dbt import dbt
from .errors import PROBLEMS
from .options import (
    HistoryRollups,
    Ids,
    Output,
    Partitions,
    Schema,
    Url,
    UserIds,
    Users,
    YesNo,
)
from .output import show

db = typer.Typer(help="The tables of a database: create, check, upgrade.", no_args_is_help=True)


@db.command()
def create(
    url: Url = None,
    schema: Schema = None,
    users: Users = "auto",
    user_id_type: UserIds = "uuid",
    id_type: Ids = "integer",
    history_partitions: Partitions = None,
    history_rollups: HistoryRollups = None,
    audit_role: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="Also print the SQL that lets this role only add to the audit trail."),
    ] = None,
    output: Output = "table",
) -> None:
    """Create the missing tables."""

    chosen = partial(_options, id_type=id_type, partitions=history_partitions, rollups=history_rollups)

    def work(connection: Connection, settings: Settings) -> tuple[Created, list[inspection.Problem], list[str]]:
        message = _type_problem(reflected_options(connection, **chosen(settings)))
        if message is not None:
            raise ConfigurationError(message)
        created = create_all(connection, **chosen(settings))
        _mark_key(connection, created.tables)
        connection.commit()
        dialect = dialects.get(connection.dialect.name)
        grants = [] if audit_role is None else dialect.audit_role(connection, created.tables, audit_role)
        return created, inspection.check(connection, created.tables), grants

    created, problems, grants = run(url, schema, users, user_id_type, work)
    is_json = output == "json"
    rows = [
        {"table": table.fullname, "status": "created" if table.name in created.made else "exists"}
        for table in created.tables
    ]
    show(rows, output, empty="")
    typer.echo(f"{created.why}.", err=is_json)
    if grants:
        typer.echo("\nRun as the owner of the tables; the app uses this role for everything else:\n", err=is_json)
    for statement in grants:
        typer.echo(f"{statement};", err=is_json)
    for problem in problems:
        typer.echo(problem.message, err=True)
    if problems:
        raise typer.Exit(PROBLEMS)


@db.command()
def check(
    url: Url = None,
    schema: Schema = None,
    users: Users = "auto",
    user_id_type: UserIds = "uuid",
    id_type: Ids = "integer",
    history_partitions: Partitions = None,
    history_rollups: HistoryRollups = None,
    output: Output = "table",
) -> None:
    """Compare the tables with this release's schema; exits with 1 if they differ."""

    chosen = partial(_options, id_type=id_type, partitions=history_partitions, rollups=history_rollups)

    def work(connection: Connection, settings: Settings) -> list[inspection.Problem]:
        options = reflected_options(connection, **chosen(settings))
        message = _type_problem(options)
        about_users = [inspection.Problem(message, False)] if message is not None else []
        return inspection.check(connection, options.tables) + about_users

    problems = run(url, schema, users, user_id_type, work, needs_file=True)
    rows = [{"problem": problem.message, "blocks_writing": problem.blocks_writing} for problem in problems]
    show(rows, output, empty="The tables are as they should be.")
    if rows:
        raise typer.Exit(PROBLEMS)


@db.command("upgrade")
def upgrade_(
    url: Url = None,
    schema: Schema = None,
    users: Users = "auto",
    user_id_type: UserIds = "uuid",
    id_type: Ids = "integer",
    history_partitions: Partitions = None,
    history_rollups: HistoryRollups = None,
    output: Output = "table",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
) -> None:
    """Upgrade existing tables to this release's schema: merge duplicate rows, add keys and columns."""

    chosen = partial(_options, id_type=id_type, partitions=history_partitions, rollups=history_rollups)

    def look(connection: Connection, settings: Settings) -> upgrade.Upgrade:
        return upgrade.plan_upgrade(
            connection,
            reflected_options(connection, **chosen(settings)).tables,
        )

    def change(connection: Connection, settings: Settings) -> None:
        tables = reflected_options(connection, **chosen(settings)).tables
        connection.rollback()
        if planned.steps:
            upgrade.upgrade(connection, tables)
        _mark_key(connection, tables)
        connection.commit()

    planned = run(url, schema, users, user_id_type, look, needs_file=True)
    is_program = output != "table"
    show(
        [{"step": number, "what": step} for number, step in enumerate(planned.sentences, 1)],
        output,
        empty="There is nothing to do: the tables are as they should be.",
    )
    for note in planned.notes:
        typer.echo(note, err=is_program)
    if dry_run:
        return
    if planned.steps and not yes:
        typer.confirm("Do it?", abort=True, err=is_program)
    run(url, schema, users, user_id_type, change)
    if planned.steps:
        typer.echo("Done.", err=is_program)


@db.command("views")
def views_(
    url: Url = None,
    schema: Schema = None,
    drop: Annotated[bool, typer.Option("--drop", help="Drop them instead.")] = False,
    output: Output = "table",
) -> None:
    """Create or replace the views, for readers who only have SQL."""

    def work(connection: Connection, tables: Tables) -> list[dict[str, str]]:
        connection.rollback()  # ends the reading; the views change in a transaction of their own
        names = (views.drop_views if drop else views.create_views)(connection, tables=tables)
        meanings = {view.name: view.comment for view in views.VIEWS}
        return [{"view": name, "shows": meanings[name.rpartition(".")[2]]} for name in names]

    found = read(url, schema, work)
    if drop and found and output == "table":
        typer.echo("Dropped:", err=True)
    show(found, output, empty="There are none.")


db.command()(dbt)


def _type_problem(options: ReflectedOptions) -> str | None:
    """That the ids of the users table are of another type than the setting; all their uses would be rejected."""
    if options.other_type is None:
        return None
    return f"{options.why}: say --user-id-type {options.other_type}, or --users none for ids of another kind"


def _options(
    settings: Settings, id_type: IdType, partitions: HistoryPartitions | None, rollups: YesNo | None
) -> dict[str, Any]:
    chosen: dict[str, Any] = {"user_id_type": settings.user_id_type, "id_type": id_type}
    chosen["history_rollups"] = None if rollups is None else rollups == "yes"
    chosen |= {"history_partitions": partitions} if partitions is not None else {}
    return {"schema": settings.schema, "users": settings.users, **chosen}


def _mark_key(connection: Connection, tables: Tables) -> None:
    """Mark the privacy_key of the environment as the one of the database, unless it has rows of users."""
    secret = Settings.from_environment(enabled=False).privacy_key
    if secret is not None and connection.execute(select(tables.suppressions).limit(1)).first() is None:
        suppressions.mark(connection, tables, suppressions.Key(secret))
