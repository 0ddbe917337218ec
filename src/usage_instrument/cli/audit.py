"""`usage-instrument audit`: show, export, verify and truncate the audit trail, find anomalies, and make checkpoints."""

from __future__ import annotations

import csv
import datetime as dt
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import typer
from sqlalchemy import Connection, exc, select

from usage_instrument.audit.anomalies import Search, office_hours
from usage_instrument.audit.anomalies import anomalies as find_anomalies
from usage_instrument.audit.checkpoint import Checkpoint, make_checkpoint
from usage_instrument.audit.query import accesses, metadata_of, person
from usage_instrument.audit.truncation import count_old, truncate
from usage_instrument.audit.verify import verify as verify_
from usage_instrument.dashboard.csv import cell
from usage_instrument.database import dialects
from usage_instrument.database.expressions import Ago
from usage_instrument.database.inspection import audit_problem
from usage_instrument.database.tables import Tables
from usage_instrument.errors import AuditError, ConfigurationError
from usage_instrument.queries.arguments import user_id
from usage_instrument.queries.robust import checked_threshold
from usage_instrument.queries.windows import edge_of, point, window
from usage_instrument.settings import ENVIRONMENT_PREFIX, Settings
from usage_instrument.typing import UNSET, Outcome

from .database import ask, read
from .errors import PROBLEMS, fail, printable, warn
from .options import LastDay, Output, Schema, Url, span
from .output import show

T = TypeVar("T")
_METADATA_WIDTH = 80

audit = typer.Typer(help="The audit trail: show, export, anomalies, verify, checkpoint, cut.", no_args_is_help=True)


ExportFormat: TypeAlias = Literal["jsonl", "csv"]
"""The format of an exported trail."""

User: TypeAlias = Annotated[str | None, typer.Option(help="Only of this user, or 'anonymous'.")]
Actor: TypeAlias = Annotated[str | None, typer.Option(help="Only by this actor, who acted as another user.")]
Feature: TypeAlias = Annotated[str | None, typer.Option(help="Only of this feature.")]
OutcomeOption: TypeAlias = Annotated[
    Outcome | None,
    typer.Option(metavar="OUTCOME", help="Only with this outcome: attempted, success, denied or failed."),
]
Since: TypeAlias = Annotated[
    str | None, typer.Option(metavar="PERIOD", help="12h, 30d, 4w, or a date such as 2026-01-31 (UTC).")
]
Until: TypeAlias = Annotated[str | None, typer.Option(metavar="DATE", help="Before this date or time (UTC).")]
OutputFile: TypeAlias = Annotated[
    Path | None, typer.Option("--output", "-o", dir_okay=False, help="A file to write to, instead of the terminal.")
]


@audit.command("show")
def show_(
    user: User = None,
    actor: Actor = None,
    feature: Feature = None,
    outcome: OutcomeOption = None,
    since: Since = None,
    until: Until = None,
    unresolved: Annotated[
        bool, typer.Option("--unresolved", help="Only attempts without an outcome: cut short, or still running.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="The maximum number of rows.")] = 100,
    url: Url = None,
    schema: Schema = None,
    output: Output = "table",
) -> None:
    """Show who accessed what, the newest first."""

    def work(connection: Connection, tables: Tables) -> list[dict[str, Any]]:
        _warn_of_standby(connection)
        filters = _filters(tables, user, actor, feature, outcome, since, until)
        query = accesses(tables, limit=limit, unresolved=unresolved, **filters)
        rows = connection.execute(query).mappings()
        hidden = {"seal"} if output == "json" else {"seal", "access_id", "chain_id", "number"}
        shown = [{name: _value(name, row) for name in row if name not in hidden} for row in rows]
        if output in {"table", "markdown"}:
            for row in shown:
                row["metadata"] = _shortened(row["metadata"])
        return shown

    show(_asked(url, schema, work), output, empty="No access matches.")


@audit.command()
def export(
    output: OutputFile = None,
    format_: Annotated[
        ExportFormat, typer.Option("--format", metavar="FORMAT", help="jsonl, a JSON object a line, or csv.")
    ] = "jsonl",
    user: User = None,
    feature: Feature = None,
    since: Since = None,
    until: Until = None,
    url: Url = None,
    schema: Schema = None,
) -> None:
    """Write the trail with all its columns, chain by chain."""

    has_begun = False

    def work(connection: Connection, tables: Tables) -> int:
        nonlocal has_begun
        if has_begun and output is None:
            raise fail("a standby ended the query, and what is printed is a part: run this again with --output FILE")
        has_begun, access = True, tables.access
        where = accesses(tables, limit=None, **_filters(tables, user, None, feature, None, since, until)).whereclause
        query = select(access).order_by(access.c.chain_id, access.c.number)
        query = query if where is None else query.where(where)
        rows = connection.execute(query, execution_options={"yield_per": 2000}).mappings()
        with output.open("w", encoding="utf-8", newline="") if output is not None else nullcontext(sys.stdout) as file:
            return _write(file, format_, access.c.keys(), rows)

    number = _asked(url, schema, work)
    typer.echo(f"usage-instrument: {'1 row' if number == 1 else f'{number:,} rows'} written", err=True)


@audit.command()
def anomalies(
    since: Annotated[str, typer.Option(metavar="TIME", help="The first day: 7d, 2026-01-31, last month.")] = "7d",
    until: LastDay = None,
    tz: Annotated[
        str | None, typer.Option(metavar="ZONE", help="The time zone of days and hours, such as Europe/Berlin.")
    ] = None,
    hours: Annotated[
        str, typer.Option(metavar="HOURS", help="The office hours, Monday to Friday; others are out of hours.")
    ] = "7-19",
    threshold: Annotated[float, typer.Option(metavar="NUMBER", help="The score from which denials are a burst.")] = 5.0,
    url: Url = None,
    schema: Schema = None,
    output: Output = "table",
) -> None:
    """Show what stands out: bursts of denials, first accesses, accesses out of hours, attempts without an outcome."""
    try:
        first, last = office_hours(hours)
    except ConfigurationError as error:
        raise fail(f"--{error}") from None

    def work(connection: Connection, tables: Tables) -> list[dict[str, Any]]:
        _warn_of_standby(connection)
        days = window(since, until, tz)
        begin, after = days.bounds()
        search = Search(begin or dt.date.min, after, days.tz or dt.UTC, first, last, checked_threshold(threshold))
        return [found._asdict() for found in find_anomalies(connection, tables, search)]

    show(_asked(url, schema, work), output, empty="Nothing stands out in these days.")


@audit.command()
def verify(
    checkpoint: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A checkpoint: its rows must still be there."),
    ] = None,
    url: Url = None,
    schema: Schema = None,
    output: Output = "table",
) -> None:
    """Check every link, and show the first changed, removed, inserted or reordered row of each chain.

    Exits with 1 if there is one. Reads the secret from USAGE_INSTRUMENT_AUDIT_KEY.
    """
    key = Settings.from_environment(enabled=False).audit_key
    known = None if checkpoint is None else _checkpoint(checkpoint)

    def work(connection: Connection, tables: Tables) -> Any:
        _warn_of_standby(connection)
        return verify_(connection, tables, key, known)

    found = _asked(url, schema, work)
    rows = [
        {"what": each.kind, "chain_id": str(each.chain_id), "number": each.number, "detail": each.detail}
        for each in found.findings
    ]
    chains = "1 chain" if found.chains == 1 else f"{found.chains:,} chains"
    number = "1 row" if found.rows == 1 else f"{found.rows:,} rows"
    show(rows, output, empty=f"The trail is consistent: {number} in {chains}.")
    if rows:
        # With another key, no chain has a first row that fits. A later one shows that the key is right.
        are_all_changed = len(rows) == found.chains and all(row["what"] == "changed" for row in rows)
        if are_all_changed and any(row["number"] == 1 for row in rows):
            typer.echo(
                f"usage-instrument: no chain is consistent; is {ENVIRONMENT_PREFIX}AUDIT_KEY the key that they were "
                "written with?",
                err=True,
            )
        raise typer.Exit(PROBLEMS)


@audit.command()
def checkpoint(output: OutputFile = None, url: Url = None, schema: Schema = None) -> None:
    """Print the last rows of all chains. Store this out of reach of the database's administrators."""
    key = Settings.from_environment(enabled=False).audit_key

    def work(connection: Connection, tables: Tables) -> Checkpoint:
        made = make_checkpoint(connection, tables, key)
        connection.commit()
        return made

    made = _with_trail(url, schema, work)
    if output is not None:
        output.write_text(made.to_json() + "\n", encoding="utf-8")
    else:
        typer.echo(made.to_json())


@audit.command()
def cut(
    older_than: Annotated[str, typer.Option(metavar="PERIOD", help="The age of the rows to delete, such as 400d.")],
    url: Url = None,
    schema: Schema = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    output: Output = "table",
) -> None:
    """Delete the oldest rows of each chain, and record the cut, so that the rest still verifies."""
    age = span(older_than, "--older-than")
    key = Settings.from_environment(enabled=False).audit_key

    def work(connection: Connection, tables: Tables) -> tuple[dt.datetime, int]:
        before: Any = connection.scalar(select(Ago(age)))
        if isinstance(before, str):  # SQLite keeps times as text
            before = dt.datetime.fromisoformat(before)
        if dry_run:
            return before, count_old(connection, tables, before)
        return before, sum(truncate(connection, tables, before, key))

    before, rows = _with_trail(url, schema, work)
    status = "would be deleted" if dry_run else "deleted"
    show([{"what": f"accesses from before {before:%Y-%m-%d %H:%M}", "rows": rows, "status": status}], output, empty="")


def _asked(url: str | None, schema: str | None, work: Callable[[Connection, Tables], T]) -> T:
    """As _with_trail, for what only reads, however long the trail; again if a standby ends the query."""
    return ask(url, schema, _guarded(work), 86_400)


def _warn_of_standby(connection: Connection) -> None:
    behind = dialects.get(connection.dialect.name).behind(connection)
    if behind and behind >= 1:
        warn(f"this standby is {int(behind)} s behind its primary: newer accesses are missing")


def _with_trail(url: str | None, schema: str | None, work: Callable[[Connection, Tables], T]) -> T:
    """What `work` returns. Ends the command if there is no trail."""
    return read(url, schema, _guarded(work))


def _guarded(work: Callable[[Connection, Tables], T]) -> Callable[[Connection, Tables], T]:
    def guarded(connection: Connection, tables: Tables) -> T:
        problem = audit_problem(connection, tables)
        if problem is not None:
            raise fail(problem)
        try:
            return work(connection, tables)
        except AuditError as error:
            raise fail(str(error)) from None
        except exc.IntegrityError:
            raise fail("another process has changed the trail meanwhile: run this again") from None

    return guarded


def _filters(
    tables: Tables,
    user: str | None,
    actor: str | None,
    feature: str | None,
    outcome: Outcome | None,
    since: str | None,
    until: str | None,
) -> dict[str, Any]:
    last = None if until is None else point(edge_of(until, "since"))
    if isinstance(last, dt.timedelta):
        raise fail(f"--until is a date or time such as 2026-01-31 (UTC), not {until!r}")
    return {
        "user": UNSET if user is None else user_id(user, tables),
        "actor": UNSET if actor is None else user_id(actor, tables),
        "feature": feature,
        "outcome": outcome,
        "since": None if since is None else point(edge_of(since, "since")),
        "until": last,
    }


def _checkpoint(path: Path) -> Checkpoint:
    try:
        return Checkpoint.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise fail(f"{path}: {error}") from None


def _value(name: str, row: Any) -> Any:
    if name in {"user_id", "actor_id"}:
        return person(row, "user" if name == "user_id" else "actor")
    return metadata_of(row) if name == "metadata" else row[name]


def _shortened(metadata: Any) -> Any:
    """Metadata in a column for people. The record of an erasure may list thousands of rows."""
    text = "" if metadata is None else metadata if isinstance(metadata, str) else json.dumps(metadata)
    return metadata if len(text) <= _METADATA_WIDTH else f"{text[:_METADATA_WIDTH]}… (--format json shows all)"


def _write(file: Any, format_: ExportFormat, names: list[str], rows: Any) -> int:
    number = 0
    is_terminal = file.isatty()
    table = csv.writer(file, lineterminator="\n")
    if format_ == "csv":
        table.writerow(names)
    for number, row in enumerate(rows, 1):  # noqa: B007 - it is returned
        values = {name: row[name] for name in names}
        values["occurred_at"] = row["occurred_at"].isoformat()
        if format_ == "csv":
            cells = map(cell, values.values())
            table.writerow(map(printable, map(str, cells)) if is_terminal else cells)
        else:
            line = json.dumps(values, ensure_ascii=False, default=str)
            file.write((printable(line) if is_terminal else line) + "\n")
    return number
