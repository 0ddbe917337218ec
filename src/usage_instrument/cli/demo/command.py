"""The command: database, server, traffic, comparison, answers."""

from __future__ import annotations

import contextlib
import http.client
import random
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated
from uuid import UUID

import sqlalchemy as sa
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from usage_instrument.cli.errors import fail
from usage_instrument.database.schema import default_tables

from . import past, report, server, traffic
from .database import create_database, users

APPLICATION_ID = 0x75736167
"""Marks a SQLite file as the demo's own (`PRAGMA application_id`). No other file is ever replaced."""


def demo(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace the file of an earlier demo, unasked.")] = False,
    database: Annotated[Path, typer.Option(metavar="FILE", help="The SQLite file to create.", dir_okay=False)] = Path(
        "usage-demo.db"
    ),
    users: Annotated[int, typer.Option(min=1, max=10_000, metavar="NUMBER", help="The number of users.")] = 100,
    requests: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="NUMBER", help="The number of requests.")
    ] = 2_000,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000_000,
            metavar="NUMBER",
            help="Generate a past of this many rows instead of running the app.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another number generates other users and habits.")] = 7,
) -> None:
    """Run a small app with real HTTP traffic, show the table that fills, and answer three questions."""
    console = Console(highlight=False)
    dice = random.Random(seed)
    people = traffic.people(users, dice)
    steps = traffic.plan(people, requests, dice)
    _make_room(database, yes=yes)
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(database)))
    try:
        if rows is not None:
            _generate(console, engine, rows, seed)
        else:
            _create(engine, people)
            outcome = _run(console, engine, database, steps)
            _compare(console, engine, outcome)
            report.rows(console, engine)
            report.answers(console, engine, outcome.most_active(people))
        report.next_steps(console, database)
    except (server.ServerError, OSError, http.client.HTTPException, sa.exc.SQLAlchemyError) as error:
        raise fail(str(error)) from error
    finally:
        engine.dispose()


def _make_room(database: Path, *, yes: bool) -> None:
    """Remove the file of an earlier demo, if the user agrees. Any other file ends the command."""
    if not database.parent.is_dir():
        raise fail(f"there is no directory {database.parent}")
    if not database.exists():
        return
    if not _is_demo(database):
        raise fail(f"{database} is not the file of an earlier demo and stays as it is: choose another --database")
    if not yes:
        typer.confirm(f"{database} exists from an earlier demo. Replace it?", abort=True)
    for suffix in ("", "-journal", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _is_demo(database: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            return bool(connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,))
    except sqlite3.Error:
        return False


def _create(engine: sa.Engine, people: list[traffic.Person]) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    create_database(engine, [person.row for person in people])


def _generate(console: Console, engine: sa.Engine, rows: int, seed: int) -> None:
    _create(engine, [])
    tables = default_tables()
    with _progress(console, "rows") as progress:
        task = progress.add_task("Generating a past", total=rows)
        truths = past.fill(engine, tables, rows, seed, users, lambda made: progress.update(task, completed=made))
    report.truths(console, rows, truths)


def _progress(console: Console, unit: str) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(complete_style="cyan"), MofNCompleteColumn())
    return Progress(*columns, TextColumn(unit), console=console, disable=not console.is_terminal)


def _run(
    console: Console, engine: sa.Engine, database: Path, steps: dict[traffic.Person | None, list[traffic.Step]]
) -> traffic.Outcome:
    """Run the app and its traffic. The app has ended and written everything when this returns."""
    planned = sum(map(len, steps.values()))
    signed_in = len(steps) - (None in steps)
    with tempfile.TemporaryDirectory() as scratch:
        url = engine.url.render_as_string(hide_password=False)
        with server.running(url, Path(scratch) / "server.log") as port, traffic.interrupt_at_end() as interrupt:
            console.print(f"A calendar app answers at http://127.0.0.1:{port} and keeps its data in {database}.")
            with _progress(console, "requests") as progress:
                task = progress.add_task(f"{signed_in} users", total=planned)
                outcome = traffic.drive(port, steps, interrupt, lambda: progress.advance(task))
    refused = {status: count for status, count in sorted(outcome.statuses.items()) if status >= 400}
    detail = ", ".join(f"{count} x {status}" for status, count in refused.items())
    console.print(
        f"{planned:,} requests by {signed_in} users and anonymous visitors: {outcome.uses.total():,} were uses of a "
        f"feature, {sum(refused.values()):,} were refused{f' ({detail})' if detail else ''}. Then SIGTERM ended the "
        "app."
    )
    return outcome


def _compare(console: Console, engine: sa.Engine, outcome: traffic.Outcome) -> None:
    """Compare the table with the responses that the clients got, for every user and feature."""
    usage = default_tables().usage
    columns = sa.select(usage.c.user_id, usage.c.feature_name, usage.c.usage_count)
    with engine.connect() as connection:
        found: Counter[tuple[UUID | None, str]] = Counter()
        for user, feature, count in connection.execute(columns):
            found[user, feature] += count
    if found != outcome.uses:
        wrong = sum(found[key] != outcome.uses[key] for key in found.keys() | outcome.uses.keys())
        raise fail(
            f"feature_usage holds {found.total():,} uses, the clients saw {outcome.uses.total():,}, and {wrong:,} rows "
            "differ: this is a bug of ours, please report it"
        )
    console.print(
        f"feature_usage holds {found.total():,} uses in {len(found):,} rows: exactly what the clients saw, for every "
        "user and feature.",
        style="green",
    )
