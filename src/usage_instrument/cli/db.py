"""`usage-instrument db`: the tables of a database, created, checked, upgraded."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import typer
from sqlalchemy import Connection

from usage_instrument import upgrade, views
from usage_instrument.database import dialects, inspection
from usage_instrument.database import schema as schema_
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.settings import Settings

from .database import read, run
from .errors import PROBLEMS
from .options import Format, Output, Schema, Url, UserIdKind, UserIds, Users
from .output import show

T = TypeVar("T")

db = typer.Typer(help="The tables of a database: create, check, upgrade.", no_args_is_help=True)


@db.command()
def create(
    url: Url = None,
    schema: Schema = None,
    users: Users = "auto",
    user_id_type: UserIds = UserIdKind.UUID,
    audit_role: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="Also print the SQL by which this role may only add to the audit trail."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Create the tables that are missing."""

    def work(connection: Connection, said: Settings) -> tuple[schema_.Created, list[inspection.Problem], list[str]]:
        misfit = _misfit(schema_.plan(connection, **_options(said)))
        if misfit is not None:
            raise ConfigurationError(misfit)
        created = schema_.create_all(connection, **_options(said))
        connection.commit()
        dialect = dialects.get(connection.dialect.name)
        grants = [] if audit_role is None else dialect.audit_role(connection, created.tables, audit_role)
        return created, inspection.check(connection, created.tables), grants

    created, problems, grants = run(url, schema, users, user_id_type, work)
    rows = [
        {"table": table.fullname, "status": "created" if table.name in created.made else "was there"}
        for table in created.tables
    ]
    show(rows, output, empty="")
    typer.echo(f"{created.why}.", err=output is Format.JSON)
    if grants:
        typer.echo("\nAs their owner, and with the app's own role for all else:\n", err=output is Format.JSON)
    for statement in grants:
        typer.echo(f"{statement};", err=output is Format.JSON)
    _complain(problems)


@db.command()
def check(
    url: Url = None,
    schema: Schema = None,
    users: Users = "auto",
    user_id_type: UserIds = UserIdKind.UUID,
    output: Output = Format.TABLE,
) -> None:
    """Compare the tables with what this release writes to; leaves with 1 if something is wrong."""

    def work(connection: Connection, said: Settings) -> list[inspection.Problem]:
        planned = schema_.plan(connection, **_options(said))
        misfit = _misfit(planned)
        about_users = [inspection.Problem(misfit, False)] if misfit is not None else []
        return inspection.check(connection, planned.tables) + about_users

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
    user_id_type: UserIds = UserIdKind.UUID,
    output: Output = Format.TABLE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Bring existing tables to today's form: merge duplicate rows, make the key unique, add what is missing."""

    def look(connection: Connection, said: Settings) -> upgrade.Upgrade:
        return upgrade.plan_upgrade(connection, schema_.plan(connection, **_options(said)).tables)

    def change(connection: Connection, said: Settings) -> upgrade.Upgrade:
        tables = schema_.plan(connection, **_options(said)).tables
        connection.rollback()
        return upgrade.upgrade(connection, tables)

    planned = run(url, schema, users, user_id_type, look, needs_file=True)
    people = output is Format.TABLE
    show(
        [{"step": number, "what": step} for number, step in enumerate(planned.sentences, 1)],
        output,
        empty="There is nothing to do: the tables are as they should be.",
    )
    for note in planned.notes:
        typer.echo(note, err=not people)
    if dry_run or not planned.steps:
        return
    if not yes:
        typer.confirm("Do it?", abort=True, err=not people)
    run(url, schema, users, user_id_type, change)
    typer.echo("Done.", err=not people)


@db.command("views")
def views_(
    url: Url = None,
    schema: Schema = None,
    drop: Annotated[bool, typer.Option("--drop", help="Drop them instead.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Create the views, for whoever only has SQL; those that are there are replaced."""

    def work(connection: Connection, tables: Tables) -> list[dict[str, str]]:
        change = views.drop_views if drop else views.create_views
        connection.rollback()  # what was read so far; they are changed in a transaction of their own
        names = change(connection, tables=tables)
        meanings = {view.name: view.comment for view in views.VIEWS}
        return [{"view": name, "shows": meanings[name.rpartition(".")[2]]} for name in names]

    found = read(url, schema, work)
    if drop and found and output is Format.TABLE:
        typer.echo("Dropped:", err=True)
    show(found, output, empty="There are none.")


def _misfit(planned: schema_.Plan) -> str | None:
    """That the users found are not of the type said, if so: their uses would all be rejected."""
    if planned.misfit is None:
        return None
    return f"{planned.why}: say --user-id-type {planned.misfit}, or --users none for ids of another kind"


def _options(said: Settings) -> dict[str, Any]:
    return {"schema": said.schema, "users": said.users, "user_id_type": said.user_id_type}


def _complain(problems: list[inspection.Problem]) -> None:
    for problem in problems:
        typer.echo(problem.message, err=True)
    if problems:
        raise typer.Exit(PROBLEMS)
