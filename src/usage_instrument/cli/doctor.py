"""`usage-instrument doctor`: everything that can be wrong between an app and its numbers, and what to do about it."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

import typer
from sqlalchemy import Connection, exc, func, select

from usage_instrument.database import dialects, inspection
from usage_instrument.database.ledger import Ledger, utcnow
from usage_instrument.database.reflection import find_tables
from usage_instrument.database.tables import Tables
from usage_instrument.errors import SchemaError, UsageInstrumentError
from usage_instrument.events import Batch, Count, bucket_start, in_words
from usage_instrument.pipeline.journal import check_root, status
from usage_instrument.settings import Settings
from usage_instrument.web.route_coverage import CoveredRoute, is_configured, route_coverage

from .app_loader import load
from .database import run
from .errors import PROBLEMS, fail
from .journal import JournalRoot
from .options import Format, Output, Schema, Url, UserIdKind
from .output import show

SILENT = dt.timedelta(minutes=10)
"""After this long without a heartbeat, a writer is silent."""
_CLOCKS_APART = dt.timedelta(seconds=2)
_LOSSES = dt.timedelta(days=7)
OK, WARNING, BAD = "ok", "warning", "BAD"


class Finding(NamedTuple):
    """What one look has found."""

    check: str
    state: str
    finding: str
    what_to_do: str = ""


Check = Callable[[Connection, Tables, Settings], Iterator[Finding]]


def doctor(
    url: Url = None,
    schema: Schema = None,
    journal: JournalRoot = None,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:APP",
            help="Instead, list what this Flask, Starlette or FastAPI app will count, under which name, and what not "
            "and why; MODULE:MAKE() for a factory. Imports it, and serves no request.",
        ),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Check database, tables, privileges, clocks, writers, losses and journal; leaves with 1 if something is bad."""
    if app is not None:
        _show_plan(app, output)
        return
    findings = run(url, schema, "none", UserIdKind.UUID, _look, needs_file=True)
    if journal:
        findings += _journal(journal)
    show([finding._asdict() for finding in findings], output, empty="")
    if any(finding.state == BAD for finding in findings):
        raise typer.Exit(PROBLEMS)


def _show_plan(name: str, output: Format) -> None:
    app = load(name)
    try:
        planned = route_coverage(app)
    except UsageInstrumentError as error:
        hint = f"; for what the function returns, say '{name}()'" if inspect.isfunction(app) else ""
        raise fail(f"{error}{hint}") from None
    show([each._asdict() for each in planned], output, empty="It has no routes.", names=CoveredRoute._fields)
    if not is_configured(app):
        typer.echo("note: nothing is counted yet: the app has called no usage_instrument.configure()", err=True)


def _look(connection: Connection, said: Settings) -> list[Finding]:
    version = ".".join(map(str, connection.dialect.server_version_info or ()))
    found = [Finding("database", OK, f"{connection.dialect.name} {version}, by {connection.dialect.driver}")]
    try:
        tables = find_tables(connection, said.schema)
    except SchemaError as error:
        return [*found, Finding("tables", BAD, *_split(str(error)))]
    problems = inspection.check(connection, tables)
    if problems:
        return [
            *found,
            *(Finding("tables", BAD if each.blocks_writing else WARNING, *_split(each.message)) for each in problems),
        ]
    users = f"user ids are of type {tables.user_id_type}, " + (
        f"and refer to {tables.users}" if tables.users else "without a foreign key"
    )
    found.append(Finding("tables", OK, f"as they should be; {users}"))
    for check in (_privileges, _clock, _time_zone, _writers, _losses, _catalog):
        connection.rollback()
        found += check(connection, tables, said)
    return found


def _split(message: str) -> tuple[str, str]:
    """The problem and its fix."""
    problem, _, fix = message.rpartition(": ")
    return (problem, fix) if problem else (message, "")


def _privileges(connection: Connection, tables: Tables, said: Settings) -> Iterator[Finding]:
    """Everything that a writer does, then taken back."""
    dialect = dialects.get(connection.dialect.name)
    now = utcnow()
    history = () if said.history is None else ((bucket_start(now, said.history), 1),)
    ledger = Ledger(tables, "usage-instrument doctor")
    try:
        begun = dialect.begin(connection, said)
        ledger.register(begun)
        batch = Batch(1, (Count("usage-instrument doctor", None, 1, now, None, history),))
        dialect.flush(begun, tables, said).apply(begun, ledger, batch)
        ledger.retire(begun)
    except (exc.SQLAlchemyError, UsageInstrumentError) as error:
        said_by = getattr(error, "orig", None) or error
        yield Finding(
            "privileges",
            WARNING,
            f"this role cannot write: {str(said_by).splitlines()[0]}",
            "fine for an analyst; an app's role needs SELECT, INSERT, UPDATE and DELETE on the tables",
        )
    else:
        yield Finding("privileges", OK, "this role can write (tried, and taken back)")
    finally:
        dialect.rollback(connection)


def _clock(connection: Connection, tables: Tables, said: Settings) -> Iterator[Finding]:
    apart = abs(connection.scalars(select(dialects.get(connection.dialect.name).utc_now)).one() - utcnow())
    if apart > _CLOCKS_APART:
        yield Finding(
            "clock",
            WARNING,
            f"this machine's clock and the database's are {apart.total_seconds():.0f} s apart",
            "keep both in step (NTP): uses of an app on a wrong clock land in a wrong hour or day",
        )
    else:
        yield Finding("clock", OK, "this machine and the database agree")


def _time_zone(connection: Connection, tables: Tables, said: Settings) -> Iterator[Finding]:
    dialect = dialects.get(connection.dialect.name)
    local, utc = connection.execute(select(dialect.local_now, dialect.utc_now)).one()
    if abs(local - utc) > _CLOCKS_APART:
        yield Finding(
            "time zone",
            WARNING,
            "this session's time zone is not UTC; the tables' times are",
            "in SQL of your own, compare with UTC: CURRENT_DATE and the default of last_used are local",
        )
    else:
        yield Finding("time zone", OK, "this session is in UTC, as the tables are")


def _writers(connection: Connection, tables: Tables, said: Settings) -> Iterator[Finding]:
    writers = tables.writers
    beats = connection.execute(select(writers.c.service, writers.c.heartbeat_at)).all()
    silent = [row for row in beats if row.heartbeat_at < utcnow() - SILENT]
    living = len(beats) - len(silent)
    used = connection.scalar(select(func.max(tables.usage.c.last_used)))
    last = f"the last use is of {used:%Y-%m-%d %H:%M:%S} UTC" if used else "nothing has been used yet"
    yield Finding("writers", OK, f"{living} {'process writes' if living == 1 else 'processes write'}; {last}")
    if silent:
        services = ", ".join(sorted({repr(row.service) for row in silent}))
        latest = max(row.heartbeat_at for row in silent)
        yield Finding(
            "writers",
            WARNING,
            f"{len(silent)} fell silent without a clean end (service {services}), the latest at {latest:%F %H:%M} UTC",
            "if they had a journal, `usage-instrument journal recover` brings what they left; their rows do no harm",
        )


def _losses(connection: Connection, tables: Tables, said: Settings) -> Iterator[Finding]:
    losses = tables.losses
    since = (utcnow() - _LOSSES).date()
    lost = connection.execute(
        select(losses.c.reason, func.sum(losses.c.uses)).where(losses.c.day >= since).group_by(losses.c.reason)
    ).all()
    for reason, uses in sorted(lost):
        yield Finding("losses", WARNING, f"{int(uses):,} uses lost in 7 days: {reason}", "see docs/reliability.md")
    if not lost:
        yield Finding("losses", OK, "no use was lost in 7 days")


def _catalog(connection: Connection, tables: Tables, said: Settings) -> Iterator[Finding]:
    catalog = tables.catalog
    declared, last = connection.execute(
        select(func.count(catalog.c.feature_name.distinct()), func.max(catalog.c.last_declared_at))
    ).one()
    if declared:
        yield Finding("catalogue", OK, f"{declared} features are declared, the latest on {last:%Y-%m-%d}")
    else:
        yield Finding(
            "catalogue",
            WARNING,
            "no feature is declared, so that nobody can tell what is unused",
            "decorate with @usage.tracks, and let the app run once",
        )


def _journal(place: str) -> list[Finding]:
    try:
        check_root(place)
        found = list(status(place))
    except FileNotFoundError:
        return [Finding("journal", OK, f"no process has kept one in {place}")]
    except (OSError, UsageInstrumentError) as error:
        return [Finding("journal", BAD, str(error), "choose another directory")]
    alive = sum(each.state == "alive" for each in found)
    findings = [Finding("journal", OK, f"{alive} {'process keeps' if alive == 1 else 'processes keep'} one in {place}")]
    for each in found:
        if each.state == "dead":
            findings.append(
                Finding(
                    "journal",
                    WARNING,
                    f"{each.writer} is dead and left {in_words(each.pending + each.in_batches)}",
                    "the next process takes them over, or `usage-instrument journal recover`",
                )
            )
        elif each.state == "parked":
            findings.append(Finding("journal", BAD, f"{each.writer} is parked: {each.note}", "see docs/reliability.md"))
    return findings
