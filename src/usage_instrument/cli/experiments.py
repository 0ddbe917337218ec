"""`usage-instrument experiment` and `experiments`: the verdict on an A/B test, and all tests."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, NamedTuple

import typer
from sqlalchemy import Connection, Select, inspect, select

from usage_instrument import experiments as statistics
from usage_instrument import queries
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, ExperimentError, SchemaError
from usage_instrument.experiments import Analysis, GuardrailFigures, VariantResult, figures_of
from usage_instrument.experiments.verdict import effect_of, estimate_words

from .database import read
from .errors import printable, warn
from .options import Format, Output, Schema, Url
from .output import as_json, show
from .questions import known_features, meant, unknown_feature

_Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="The first day of exposures (UTC): 30d, 4w, 2026-01-31, last month."),
]
_Until = Annotated[str | None, typer.Option(metavar="TIME", help="The last day, in the same forms.")]


class _Metric(str, enum.Enum):
    """What is compared, as far as the history has it."""

    CONVERTED = "converted"
    USES = "uses"


class _Figures(NamedTuple):
    """What the database has on an experiment."""

    rows: Sequence[Mapping[str, Any]]
    guardrails: Mapping[str, Sequence[Mapping[str, Any]]]


def experiment(
    name: Annotated[str, typer.Argument(help="The experiment, as the code names it.")],
    goal: Annotated[str, typer.Option(metavar="FEATURE", help="The feature that the variants shall lead to.")],
    metric: Annotated[
        _Metric, typer.Option(metavar="METRIC", help="converted: units that used the goal. uses: how often.")
    ] = _Metric.CONVERTED,
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
    until: _Until = None,
    url: Url = None,
    schema: Schema = None,
    output: Output = Format.TABLE,
) -> None:
    """The verdict on an A/B test: which variant leads more units to a goal.

    A unit is a user or a visitor. Uses count from the day (hour) of the first exposure on. You may look every day. It
    calculates with SciPy: pip install "usage-instrument[experiments]".
    """
    analyse = statistics.analyse  # before the query: without SciPy, it raises
    features = [goal, *(guardrail or [])]
    found = read(url, schema, lambda on, tables: _figures(on, tables, name, features, since, until))
    planned = _weights(weights, [row["variant"] for row in found.rows])
    guarded = [
        GuardrailFigures(feature, figures_of(rows, planned), metric.value) for feature, rows in found.guardrails.items()
    ]
    analysis = analyse(
        figures_of(found.rows, planned),
        metric=metric.value,
        control=control,
        excluded=max(row["excluded"] for row in found.rows),
        guardrails=guarded,
        minimum_effect=minimum_effect,
    )
    for caveat in _caveats(analysis, found.rows, goal):
        warn(caveat)
    if output is Format.JSON:
        figures = [dict(row) for row in found.rows]
        typer.echo(as_json({"experiment": name, "goal": goal, **asdict(analysis), "figures": figures}))
    elif output is Format.CSV:
        show([_numbers(each, analysis) for each in analysis.variants], output, empty="")
    else:
        words = printable(analysis.words)
        typer.echo(f"**{words}**\n" if output is Format.MARKDOWN else f"{words}\n")
        show([_words(each, analysis) for each in analysis.variants], output, empty="")


def experiments(
    since: _Since = None, until: _Until = None, url: Url = None, schema: Schema = None, output: Output = Format.TABLE
) -> None:
    """All experiments: how many units saw each variant, and since when.

    Units that saw several variants of an experiment are excluded, and counted.
    """
    names, rows = read(url, schema, lambda on, tables: _all(on, tables, since, until))
    show(rows, output, empty="No experiment has exposed anybody: call `usage.variant` or `usage.expose`.", names=names)


# ---- the figures


def _figures(
    connection: Connection, tables: Tables, name: str, features: Sequence[str], since: str | None, until: str | None
) -> _Figures:
    _check_table(connection, tables)

    def figures(feature: str) -> Sequence[Mapping[str, Any]]:
        query: Select[*tuple[Any, ...]] = queries.experiment(name, feature, since=since, until=until, tables=tables)
        return [dict(row) for row in connection.execute(query).mappings()]

    goal, *guardrails = features
    found = _Figures(figures(goal), {feature: figures(feature) for feature in guardrails})
    known = known_features(connection, tables)
    for feature in features:
        if feature not in known:
            raise unknown_feature(feature, known)
    if not found.rows:
        others = list(connection.scalars(select(tables.exposures.c.experiment).distinct()))
        when = " in the period" if name in others else meant(name, others)
        raise ConfigurationError(f"nobody was exposed to an experiment {name!r}{when}")
    return found


def _all(
    connection: Connection, tables: Tables, since: str | None, until: str | None
) -> tuple[list[str], Sequence[Mapping[str, Any]]]:
    _check_table(connection, tables)
    result = connection.execute(queries.experiments(since=since, until=until, tables=tables))
    return list(result.keys()), [dict(row) for row in result.mappings()]


def _check_table(connection: Connection, tables: Tables) -> None:
    exposures = tables.exposures
    if not inspect(connection).has_table(exposures.name, schema=exposures.schema):
        raise SchemaError(f"there is no table {exposures.fullname}: run `usage-instrument db upgrade`")


def _weights(text: str | None, variants: Sequence[str]) -> dict[str, float] | None:
    """The planned weights by variant. Raises ExperimentError."""
    if text is None:
        return None
    if text == "equal":
        return dict.fromkeys(variants, 1.0)
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.rpartition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            name = ""
        if not name.strip():
            raise ExperimentError(f"weights are given as red=1,blue=3, or as equal, not {text!r}")
    return weights


def _caveats(analysis: Analysis, rows: Sequence[Mapping[str, Any]], goal: str) -> Iterator[str]:
    unknown, converted = (sum(row[name] for row in rows) for name in ("order_unknown", "converted"))
    if unknown:
        yield (
            f"{unknown} of {converted} units used {goal} only in the day (hour) of their first exposure, perhaps "
            "before it: the true effect may be larger"
        )
    if visitors := sum(row["without_user"] for row in rows):
        yield f"{visitors} units are visitors without a user, whose uses nobody knows: they count as not converted"
    if analysis.excluded:
        yield f"{analysis.excluded} units saw several variants and are in no figure"
    if analysis.sample_ratio.planned is None:
        yield "the split between the variants is not checked: pass --weights"


# ---- the rows


def _words(result: VariantResult, analysis: Analysis) -> dict[str, Any]:
    """A variant for people."""
    estimate = result.conversion if analysis.metric == "converted" else result.mean
    return {
        "variant": result.name,
        "units": result.units,
        "converted": result.converted,
        "conversion" if analysis.metric == "converted" else "uses per unit": (
            "" if estimate is None else estimate_words(estimate, analysis.metric)
        ),
        "effect": effect_of(result, analysis.metric) if result.comparison else "control",
        "best": "" if result.probability_best is None else f"{100 * result.probability_best:.0f} %",
    }


def _numbers(result: VariantResult, analysis: Analysis) -> dict[str, Any]:
    """A variant for programs: shares and lifts as fractions, None for what is not known."""
    compared = result.comparison
    estimates = {
        "conversion": result.conversion,
        "mean": result.mean,
        "lift": compared and compared.always_valid_lift,
        "difference": compared and compared.always_valid_difference,
    }
    return {
        "variant": result.name,
        "units": result.units,
        "converted": result.converted,
        **{
            f"{name}{suffix}": None if estimate is None else getattr(estimate, field)
            for name, estimate in estimates.items()
            for suffix, field in (("", "value"), ("_low", "low"), ("_high", "high"))
        },
        "always_valid_p": compared and compared.always_valid_p,
        "p_value": compared and compared.p_value,
        "probability_best": result.probability_best,
        "expected_loss": result.expected_loss,
        "verdict": compared and compared.verdict.value,
        "experiment_verdict": analysis.verdict.value,
    }
