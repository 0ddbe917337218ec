"""`usage-instrument doctor`: checks the way from an app to its numbers, and names the fix of each problem."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

import sqlalchemy as sa
import typer
from sqlalchemy import Connection, exc, func, select

from usage_instrument.database import dialects, inspection
from usage_instrument.database.ledger import Ledger, is_process, utcnow
from usage_instrument.database.months import first_day
from usage_instrument.database.reflection import find_tables
from usage_instrument.database.tables import Tables
from usage_instrument.errors import SchemaError, UsageInstrumentError
from usage_instrument.events import Batch, Count, bucket_start, uses_text
from usage_instrument.pipeline.journal import check_root, collector_seen, status
from usage_instrument.settings import Settings
from usage_instrument.views import SILENT
from usage_instrument.web.route_coverage import CoveredRoute, is_configured, route_coverage, user_source

from . import capacity
from .app_loader import load
from .database import run
from .errors import PROBLEMS, fail, warn
from .journal import JournalRoot
from .options import Format, Output, Schema, Url
from .output import show

_CLOCKS_APART = dt.timedelta(seconds=2)
_LOSSES = dt.timedelta(days=7)
_SILENT_COLLECTOR = dt.timedelta(seconds=30)
_LAST_INT = 2**31 - 1
_MANY_IDS = 0.5
"""The share of the numbers of an INT from which they need a look."""
OK, WARNING, BAD = "ok", "warning", "BAD"


class Finding(NamedTuple):
    """The result of one check."""

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
            help="List the routes of this Flask, Quart, Starlette, FastAPI, Django, Bottle, Pyramid or Connexion app "
            "instead: which are counted, by which name, and why others are not. MODULE:MAKE() for a factory. The app "
            "is imported and serves no request.",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Compute instead how near a fleet is to each limit, from values such as users=10M features=10 "
            "processes=2000: what ends first, and what to do. No database is needed.",
        ),
    ] = False,
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...",
            help="For --plan: users (all), features (of a user), processes, hosts, active (share of a day), "
            "uses_per_day (of an active user), peak (times the mean), flush_interval, history (day, hour, off), keep "
            "(400d), id_type, and of the database: connections, cores, disk (bytes). Numbers take k, M, G and T.",
            show_default=False,
        ),
    ] = None,
    output: Output = "table",
) -> None:
    """Check database, tables, privileges, clocks, writers, losses and journal. Exits with 1 if something is bad."""
    if plan:
        _show_plan(values or [], output)
        return
    if values:
        raise fail(f"{values[0]!r} is a value of a plan: run `usage-instrument doctor --plan {' '.join(values)}`")
    if app is not None:
        _show_routes(app, output)
        return
    findings = run(url, schema, "none", "uuid", _check_all, needs_file=True)
    if journal:
        findings += _check_journal(journal)
    show([finding._asdict() for finding in findings], output, empty="")
    if any(finding.state == BAD for finding in findings):
        raise typer.Exit(PROBLEMS)


def _show_plan(values: list[str], output: Format) -> None:
    plan, text = capacity.parsed(values)
    walls, is_for_people = capacity.walls(plan), output in ("table", "markdown")
    column = {} if is_for_people else {"plan": text}
    show([{**wall._asdict(), **column} for wall in walls], output, empty="")
    if is_for_people:
        typer.echo(f"\n{capacity.summary(walls)}\nComputed for {text}.")


def _show_routes(name: str, output: Format) -> None:
    app = load(name)
    try:
        routes = route_coverage(app)
    except UsageInstrumentError as error:
        hint = f"; for a factory, pass '{name}()'" if inspect.isfunction(app) else ""
        raise fail(f"{error}{hint}") from None
    source, is_for_people = user_source(app), output in ("table", "markdown")
    column = {} if is_for_people else {"user_source": source}
    names = (*CoveredRoute._fields, *column)
    show([{**each._asdict(), **column} for each in routes], output, empty="This app has no routes.", names=names)
    if is_for_people:
        typer.echo(f"\nThe user of a request is {source}.")
    if not is_configured(app):
        warn("nothing is counted yet: the app has not called usage_instrument.configure()")


def _check_all(connection: Connection, settings: Settings) -> list[Finding]:
    version = ".".join(map(str, connection.dialect.server_version_info or ()))
    found = [Finding("database", OK, f"{connection.dialect.name} {version}, by {connection.dialect.driver}")]
    try:
        tables = find_tables(connection, settings.schema)
    except SchemaError as error:
        return [*found, Finding("tables", BAD, *_split(str(error)))]
    problems = inspection.check(connection, tables)
    if problems:
        return [
            *found,
            *(Finding("tables", BAD if each.blocks_writing else WARNING, *_split(each.message)) for each in problems),
        ]
    setting = "" if tables.user_id_type == "uuid" else f" (user_id_type={tables.user_id_type!r} in the app)"
    users = f"user ids are of type {tables.user_id_type}{setting}, " + (
        f"and refer to {tables.users}" if tables.users else "without a foreign key"
    )
    found.append(Finding("tables", OK, f"complete; {users}"))
    for check in (
        _privileges,
        _temporary_tables,
        _clock,
        _time_zone,
        _ids,
        _partitions,
        _months,
        _writers,
        _losses,
        _catalog,
    ):
        connection.rollback()
        found += check(connection, tables, settings)
    return found


def _split(message: str) -> tuple[str, str]:
    """The problem and its fix, as an error message has them."""
    problem, _, fix = message.rpartition(": ")
    return (problem, fix) if problem else (message, "")


def _privileges(connection: Connection, tables: Tables, settings: Settings) -> Iterator[Finding]:
    """Tries every statement of a writer, and rolls back."""
    dialect = dialects.get(connection.dialect.name)
    now = utcnow()
    history = () if settings.history is None else ((bucket_start(now, settings.history), 1),)
    ledger = Ledger(tables, "usage-instrument doctor")
    try:
        begun = dialect.begin(connection, settings)
        ledger.register(begun)
        batch = Batch(1, (Count("usage-instrument doctor", None, 1, now, None, history),))
        dialect.flush(begun, tables, settings).apply(begun, ledger, batch)
        ledger.retire(begun)
    except (exc.SQLAlchemyError, UsageInstrumentError) as error:
        cause = getattr(error, "orig", None) or error
        yield Finding(
            "privileges",
            WARNING,
            f"this role cannot write: {str(cause).splitlines()[0]}",
            "fine for an analyst; an app's role needs SELECT, INSERT, UPDATE and DELETE on the tables",
        )
    else:
        yield Finding("privileges", OK, "this role can write (tried, and rolled back)")
    finally:
        dialect.rollback(connection)


def _temporary_tables(connection: Connection, tables: Tables, settings: Settings) -> Iterator[Finding]:
    """Behind a transaction pooler, one client's temporary table swallows the rows of others."""
    hidden = dialects.get(connection.dialect.name).temporary_tables(connection, tables)
    if hidden:
        yield Finding(
            "temporary tables",
            BAD,
            f"a session has temporary tables that hide {', '.join(hidden)}",
            "end the session and run REVOKE TEMPORARY ON DATABASE … FROM PUBLIC, see Deployment in the documentation",
        )


def _clock(connection: Connection, tables: Tables, settings: Settings) -> Iterator[Finding]:
    apart = abs(connection.scalars(select(dialects.get(connection.dialect.name).utc_now)).one() - utcnow())
    if apart > _CLOCKS_APART:
        yield Finding(
            "clock",
            WARNING,
            f"this machine's clock and the database's are {apart.total_seconds():.0f} s apart",
            "synchronise both (NTP): a wrong clock counts uses in a wrong hour or day",
        )
    else:
        yield Finding("clock", OK, "this machine and the database agree")


def _time_zone(connection: Connection, tables: Tables, settings: Settings) -> Iterator[Finding]:
    dialect = dialects.get(connection.dialect.name)
    local, utc = connection.execute(select(dialect.local_now, dialect.utc_now)).one()
    if abs(local - utc) > _CLOCKS_APART:
        yield Finding(
            "time zone",
            WARNING,
            "the time zone of this session is not UTC, and the times in the tables are UTC",
            "compare with UTC in your own SQL: CURRENT_DATE and the default of last_used are local",
        )
    else:
        yield Finding("time zone", OK, "this session uses UTC, as the tables do")


def _ids(connection: Connection, tables: Tables, settings: Settings) -> Iterator[Finding]:
    """Rows are numbered by an INT, unless `id_type="bigint"` was chosen."""
    usage = tables.usage
    columns = sa.inspect(connection).get_columns(usage.name, schema=usage.schema)
    type_ = next(column["type"] for column in columns if column["name"] == "id")
    if isinstance(type_, sa.BigInteger) or connection.dialect.name == "sqlite":  # whose INTEGER has 64 bits
        return
    share = int(connection.scalar(select(func.max(usage.c.id))) or 0) / _LAST_INT
    if share >= _MANY_IDS:
        yield Finding(
            "ids",
            WARNING,
            f"{share:.0%} of the numbers of feature_usage.id (INT) are used, and nothing is written after the last",
            "run `usage-instrument db upgrade --id-type bigint`, which rewrites the table, in a quiet hour",
        )


def _partitions(connection: Connection, tables: Tables, settings: Settings) -> Iterator[Finding]:
    """That this month and the next one have partitions, `check` has seen."""
    history, partitioning = tables.history, dialects.get(connection.dialect.name).partitioning
    found = partitioning.find(connection, history)
    if found is None:
        return
    outside = sum(rows for _, rows in partitioning.months_in_default(connection, found))
    if outside:
        yield Finding(
            "partitions",
            WARNING,
            f"{outside:,} rows of the history are of months without a partition of their own",
            f"run `usage-instrument prune` as the owner of {history.fullname}: daily, if the app's role is another one",
        )
    else:
        yield Finding("partitions", OK, "each month of the history has a partition")


def _months(connection: Connection, tables: Tables, settings: Settings) -> Iterator[Finding]:
    begin = first_day(connection, tables)
    if begin is not None:
        yield Finding("months", OK, f"the history has days since {begin:%Y-%m-%d}, and months before")


def _writers(connection: Connection, tables: Tables, settings: Settings) -> Iterator[Finding]:
    writers = tables.writers
    beats = connection.execute(select(writers.c.service, writers.c.heartbeat_at).where(is_process(writers))).all()
    silent = [row for row in beats if row.heartbeat_at < utcnow() - SILENT]
    living = len(beats) - len(silent)
    used = connection.scalar(select(func.max(tables.usage.c.last_used)))
    last = f"the last use was at {used:%Y-%m-%d %H:%M:%S} UTC" if used else "nothing was used so far"
    yield Finding("writers", OK, f"{living} active {'writer' if living == 1 else 'writers'}; {last}")
    if silent:
        services = ", ".join(sorted({repr(row.service) for row in silent}))
        latest = max(row.heartbeat_at for row in silent)
        yield Finding(
            "writers",
            WARNING,
            f"{len(silent)} silent without a clean exit (service {services}), the latest since {latest:%F %H:%M} UTC",
            "if they had a journal, run `usage-instrument journal recover`; their rows do no harm",
        )


def _losses(connection: Connection, tables: Tables, settings: Settings) -> Iterator[Finding]:
    losses = tables.losses
    since = (utcnow() - _LOSSES).date()
    lost = connection.execute(
        select(losses.c.reason, func.sum(losses.c.uses)).where(losses.c.day >= since).group_by(losses.c.reason)
    ).all()
    for reason, uses in sorted(lost):
        yield Finding(
            "losses",
            WARNING,
            f"{int(uses):,} uses lost in the last 7 days: {reason}",
            "see Reliability in the documentation",
        )
    if not lost:
        yield Finding("losses", OK, "no losses in the last 7 days")


def _catalog(connection: Connection, tables: Tables, settings: Settings) -> Iterator[Finding]:
    catalog = tables.catalog
    declared, last = connection.execute(
        select(func.count(catalog.c.feature_name.distinct()), func.max(catalog.c.last_declared_at))
    ).one()
    if declared:
        yield Finding("catalogue", OK, f"declared features: {declared}, the latest on {last:%Y-%m-%d}")
    else:
        yield Finding(
            "catalogue",
            WARNING,
            "no feature is declared, so no feature can be reported as unused",
            "decorate features with @usage.tracks, and run the app once",
        )


def _check_journal(place: str) -> list[Finding]:
    try:
        check_root(place)
        found = list(status(place))
    except FileNotFoundError:
        return [Finding("journal", OK, f"no process kept a journal in {place}")]
    except (OSError, UsageInstrumentError) as error:
        return [Finding("journal", BAD, str(error), "choose another directory")]
    alive = sum(each.state == "alive" for each in found)
    findings = [
        Finding("journal", OK, f"{alive} {'process keeps' if alive == 1 else 'processes keep'} a journal in {place}")
    ]
    seen = collector_seen(place)
    if seen is not None:
        at = dt.datetime.fromtimestamp(seen, dt.UTC).replace(tzinfo=None)
        is_silent = utcnow() - at > _SILENT_COLLECTOR
        findings.append(
            Finding(
                "collector",
                WARNING if is_silent else OK,
                f"no collector has been alive since {at:%F %T} UTC" if is_silent else "a collector is alive",
                f"run `usage-instrument collect --journal {place}`" if is_silent else "",
            )
        )
    for each in found:
        if each.state == "dead" and not each.note:
            findings.append(
                Finding(
                    "journal",
                    WARNING,
                    f"{each.writer} is dead and left {uses_text(each.pending + each.in_batches)}",
                    "the next process recovers them, or run `usage-instrument journal recover`",
                )
            )
        elif each.state != "alive":
            state, text = BAD if each.state == "parked" else WARNING, f"{each.writer} is {each.state}: {each.note}"
            findings.append(Finding("journal", state, text, "see Reliability in the documentation"))
    return findings
