"""The command itself: database, server, traffic, proof, answers."""

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

from usage_instrument.database.schema import define_tables

from . import past, report, server, traffic
from .database import create_database, users

APPLICATION_ID = 0x75736167
"""Marks a SQLite file as the demo's own (`PRAGMA application_id`): only such a file is ever replaced."""


def demo(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; replace the file of an earlier demo.")] = False,
    database: Annotated[Path, typer.Option(metavar="FILE", help="The SQLite file to make.", dir_okay=False)] = Path(
        "usage-demo.db"
    ),
    users: Annotated[int, typer.Option(min=1, max=10_000, help="How many people use the app.")] = 100,
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many requests they send.")] = 2_000,
    rows: Annotated[
        int | None,
        typer.Option(min=1, max=100_000_000, help="Make a past of so many rows instead of running the app."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Other numbers make other people and other habits.")] = 7,
) -> None:
    """See it happen: a small app, real HTTP traffic, the table that fills, three questions answered."""
    console = Console(highlight=False)
    dice = random.Random(seed)
    people = traffic.people(users, dice)
    steps = traffic.plan(people, requests, dice)
    _make_room(database, yes=yes)
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(database)))
    try:
        if rows is not None:
            _remember(console, engine, rows, seed)
            report.next_steps(console, database)
            return
        _create(engine, people)
        outcome = _use(console, engine, database, steps)
        _prove(console, engine, outcome)
        report.rows(console, engine)
        report.answers(console, engine, _most_active(outcome, people))
        report.next_steps(console, database)
    except (server.ServerError, OSError, http.client.HTTPException, sa.exc.SQLAlchemyError) as error:
        raise _failure(str(error)) from error
    finally:
        engine.dispose()


def _failure(reason: str) -> typer.Exit:
    typer.echo(f"usage-instrument: {reason}", err=True)
    return typer.Exit(1)


def _make_room(database: Path, *, yes: bool) -> None:
    """Remove what an earlier demo left, if that is all right; nothing else is ever touched."""
    if not database.parent.is_dir():
        raise _failure(f"there is no directory {database.parent}")
    if not database.exists():
        return
    if not _is_demo(database):
        raise _failure(f"{database} is no file of an earlier demo, so it stays as it is; choose another --database")
    if not yes:
        typer.confirm(f"{database} is there from an earlier demo. Replace it?", abort=True)
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
    create_database(engine, [{"id": p.id, "name": p.name, "plan": p.plan} for p in people])


def _remember(console: Console, engine: sa.Engine, rows: int, seed: int) -> None:
    """A past instead of the app, and what is to be found in it."""
    _create(engine, [])
    tables = define_tables(sa.MetaData(), users=None)
    with _progress(console, "rows") as progress:
        task = progress.add_task("A past is made", total=rows)
        truths = past.fill(engine, tables, rows, seed, users, lambda made: progress.update(task, completed=made))
    report.truths(console, rows, truths)


def _progress(console: Console, unit: str) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(complete_style="cyan"),
        MofNCompleteColumn(),
        TextColumn(unit),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _use(
    console: Console, engine: sa.Engine, database: Path, steps: dict[traffic.Person | None, list[traffic.Step]]
) -> traffic.Outcome:
    """Run the app and its traffic; when this returns, the app has ended and has written everything."""
    planned = sum(map(len, steps.values()))
    signed_in = len(steps) - (None in steps)
    with tempfile.TemporaryDirectory() as scratch:
        url = engine.url.render_as_string(hide_password=False)
        with server.running(url, Path(scratch) / "server.log") as port:
            console.print(f"A calendar app answers at http://127.0.0.1:{port} and keeps its data in {database}.")
            with _progress(console, "requests") as progress:
                task = progress.add_task(f"{signed_in} people use it", total=planned)
                outcome = traffic.drive(port, steps, lambda: progress.advance(task))
    refused = sum(count for status, count in outcome.statuses.items() if status >= 400)
    detail = ", ".join(f"{count} x {status}" for status, count in sorted(outcome.statuses.items()) if status >= 400)
    console.print(
        f"{planned:,} requests by {signed_in} users and anonymous visitors: {outcome.uses.total():,} were uses of a "
        f"feature, {refused:,} were refused{f' ({detail})' if detail else ''}. Then the app was ended by SIGTERM."
    )
    return outcome


def _prove(console: Console, engine: sa.Engine, outcome: traffic.Outcome) -> None:
    """Compare the table with what the clients saw, for every user and feature."""
    usage = define_tables(sa.MetaData(), users=None).usage
    columns = sa.select(usage.c.user_id, usage.c.feature_name, usage.c.usage_count)
    with engine.connect() as connection:
        found: Counter[tuple[UUID | None, str]] = Counter()
        for user, feature, count in connection.execute(columns):
            found[user, feature] += count
    if found != outcome.uses:
        wrong = sum(found[key] != outcome.uses[key] for key in found.keys() | outcome.uses.keys())
        raise _failure(
            f"feature_usage holds {found.total():,} uses, the clients saw {outcome.uses.total():,}, and {wrong:,} rows "
            "differ. That is a bug of ours; please report it."
        )
    console.print(
        f"feature_usage holds {found.total():,} uses in {len(found):,} rows: exactly what the clients saw, "
        "for every user and feature. No failure counted, no use lost, none counted twice.",
        style="green",
    )


def _most_active(outcome: traffic.Outcome, people: list[traffic.Person]) -> traffic.Person:
    uses: Counter[UUID | None] = Counter()
    for (user, _), count in outcome.uses.items():
        uses[user] += count
    return max(people, key=lambda person: uses[person.id])
