"""`usage-instrument experiment` and `experiments`: the verdict on an A/B test, and all tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from sqlalchemy import Connection, Table, inspect, select

from usage_instrument import experiments as statistics
from usage_instrument import queries
from usage_instrument.database import dialects
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, SchemaError
from usage_instrument.experiments.figures import Metric
from usage_instrument.experiments.report import RUNNING, Rows, analysed, caveats, numbers_of, words_of
from usage_instrument.queries.months import check_experiment

from .database import ask
from .errors import printable, warn
from .options import LastDay, Output, ReadUrl, Schema
from .output import as_json, show
from .questions import known_features, meant, unknown_feature

_Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="The first day of exposures: 30d, 4w, 2026-01-31, last month."),
]
_Zone = Annotated[
    str | None, typer.Option("--tz", metavar="ZONE", help="The time zone of these days, such as Europe/Berlin.")
]


_NOBODY = (
    "No experiment has exposed anybody: call `usage.variant` or `usage.expose` for a user. An app writes its exposures "
    "every five seconds; `usage-instrument doctor` checks whether it is configured with this database."
)


def experiment(
    name: Annotated[str, typer.Argument(help="The experiment, as the code names it.")],
    goal: Annotated[str, typer.Option(metavar="FEATURE", help="The feature that the variants shall lead to.")],
    metric: Annotated[
        Metric,
        typer.Option(metavar="METRIC", help="converted: units that used the goal. uses: how often. value: how much."),
    ] = "converted",
    control: Annotated[
        str | None, typer.Option(metavar="VARIANT", help="Compare with this one. Default: the first of --weights.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="WEIGHTS", help="The planned split, which is checked: red=1,blue=3 or equal."),
    ] = None,
    guardrail: Annotated[
        list[str] | None, typer.Option(metavar="FEATURE", help="A feature that must not fall. Repeatable.")
    ] = None,
    minimum_effect: Annotated[
        float, typer.Option(metavar="SHARE", help="The smallest lift that matters: 0.1 is 10 %.")
    ] = 0.1,
    since: _Since = None,
    until: LastDay = None,
    tz: _Zone = None,
    url: ReadUrl = None,
    schema: Schema = None,
    output: Output = "table",
) -> None:
    """The verdict on an A/B test: which variant leads more units to a goal.

    A unit is a user or a visitor. Uses count from the day (hour) of the first exposure on. You may look every day. It
    calculates with SciPy: pip install "usage-instrument[experiments]".
    """
    _ = statistics.analyse  # before the query: without SciPy, it raises
    features = [goal, *(guardrail or [])]
    rows, guardrails = ask(
        url, schema, lambda on, tables: figures(on, tables, name, features, since, until, tz, metric)
    )
    analysis = analysed(
        rows, guardrails, metric=metric, control=control, weights=weights, minimum_effect=minimum_effect
    )
    for caveat in caveats(analysis, rows, goal, "pass --weights"):
        warn(caveat)
    if output == "json":
        typer.echo(as_json({"experiment": name, "goal": goal, **asdict(analysis), "figures": rows}))
    elif output == "csv":
        show([numbers_of(each, analysis) for each in analysis.variants], output, empty="")
    else:
        words = printable(analysis.words)
        typer.echo(f"**{words}**\n" if output == "markdown" else f"{words}\n")
        show([words_of(each, analysis) for each in analysis.variants], output, empty="")


def experiments(
    since: _Since = None,
    until: LastDay = None,
    tz: _Zone = None,
    url: ReadUrl = None,
    schema: Schema = None,
    output: Output = "table",
) -> None:
    """All experiments: how many units saw each variant, since when, and which experiments still run.

    Units that saw several variants of an experiment are excluded, and counted. One that exposed nobody for 7 days is
    idle.
    """
    names, rows = ask(url, schema, lambda on, tables: every(on, tables, since, until, tz))
    show(rows, output, empty=_NOBODY, names=names)


# ---- the figures


def figures(
    connection: Connection,
    tables: Tables,
    name: str,
    features: Sequence[str],
    since: str | None,
    until: str | None,
    tz: str | None,
    metric: Metric = "converted",
) -> tuple[Rows, dict[str, Rows]]:
    """The rows of the goal, and those of each guardrail. Raises ConfigurationError for names that nothing has, and
    for days of a time zone that the history cannot divide."""
    _check_table(connection, tables.exposures)
    if metric == "value":
        _check_table(connection, tables.dimensions)
    else:
        check_experiment(connection, name, since=since, until=until, tz=tz, tables=tables)
    if since is not None or until is not None:
        queries.check_hours(connection, tz, since=since, until=until, tables=tables)

    def rows_of(feature: str) -> Rows:
        query = queries.experiment(name, feature, metric=metric, since=since, until=until, tz=tz, tables=tables)
        return [dict(row) for row in connection.execute(query).mappings()]

    goal, *guardrails = features
    rows, guarded = rows_of(goal), {feature: rows_of(feature) for feature in guardrails}
    known = known_features(connection, tables)
    for feature in features:
        if feature not in known:
            raise unknown_feature(feature, known)
    if not rows:
        others = list(connection.scalars(select(tables.exposures.c.experiment).distinct()))
        when = " in the period" if name in others else meant(name, others)
        raise ConfigurationError(f"nobody was exposed to an experiment {name!r}{when}")
    return rows, guarded


def every(
    connection: Connection, tables: Tables, since: str | None, until: str | None, tz: str | None
) -> tuple[list[str], Rows]:
    """The columns and rows of all experiments. The state is the same in each row of an experiment."""
    _check_table(connection, tables.exposures)
    result = connection.execute(queries.experiments(since=since, until=until, tz=tz, tables=tables))
    names, rows = [*result.keys(), "state"], [dict(row) for row in result.mappings()]
    now, exposures = connection.scalars(select(dialects.get(connection.dialect.name).utc_now)).one(), tables.exposures
    # Of all exposures: the window has those of units that were exposed first in it.
    recent = select(exposures.c.experiment).where(exposures.c.last_exposed_at > now - RUNNING).distinct()
    running = set(connection.scalars(recent))
    for row in rows:
        row["state"] = "running" if row["experiment"] in running else "idle"
    return names, rows


def _check_table(connection: Connection, table: Table) -> None:
    if not inspect(connection).has_table(table.name, schema=table.schema):
        raise SchemaError(f"there is no table {table.fullname}: run `usage-instrument db upgrade`")
