"""The page of an experiment: the verdict in words, the intervals behind it, and what they leave out."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from usage_instrument import experiments
from usage_instrument.errors import ConfigurationError, UsageInstrumentError
from usage_instrument.events import NAME_LENGTH
from usage_instrument.experiments import Analysis, Estimate, Metric, VariantResult, Verdict
from usage_instrument.experiments.report import Rows, advice_of, analysed, caveats, is_running, words_of
from usage_instrument.experiments.verdict import change_words, effect_of, estimate_words
from usage_instrument.queries.experiment import experiment as select_figures
from usage_instrument.queries.hours import check_hours
from usage_instrument.queries.months import check_experiment
from usage_instrument.queries.printed import printed
from usage_instrument.queries.windows import Moment, window_words
from usage_instrument.queries.zones import TimeZone

from ..charts import Interval, IntervalChart, intervals
from ..errors import PageError
from ..html import address, render
from ..http import Response
from ..page_request import PERIODS, PageRequest
from .experiments import check_readable, check_table
from .search import names_of
from .table import csv_response

METRICS: Mapping[Metric, str] = {
    "converted": "users who used it",
    "uses": "uses per user",
    "value": "value per user",
}
"""What can be compared, and its words."""
_REACHED: Mapping[Metric, str] = {
    "converted": "Users who used {goal}",
    "uses": "Uses of {goal} per user",
    "value": "Value of {goal} per user (mean)",
}
_OPTIONS = ("goal", "metric", "weights", "control", "guardrail", "effect")
_GUARDRAILS = 5
"""Guardrails on a page: each is a query."""
_OFFERED = 500
"""Features that the form offers."""
_NEAR = 5


@dataclass(frozen=True)
class _Asked:
    """What the address asks for, beside the experiment."""

    name: str
    goal: str
    metric: Metric
    weights: str | None
    control: str | None
    guardrails: tuple[str, ...]
    effect: float
    since: Moment
    until: Moment
    tz: TimeZone

    def query(self, request: PageRequest, feature: str) -> sa.Select[*tuple[Any, ...]]:
        """The figures of a feature. Raises PageError."""
        if self.metric == "value":
            check_readable(request, request.tables.dimensions, "There are no numbers here")
        span: Any = {"since": self.since, "until": self.until, "tz": self.tz, "tables": request.tables}
        try:
            if self.metric != "value" and request.freshness.first_day is not None:
                check_experiment(request.connection, self.name, **span)
            if (self.since, self.until) != (None, None):
                check_hours(request.connection, **span)
            return select_figures(self.name, feature, metric=self.metric, **span)
        except UsageInstrumentError as error:
            raise PageError.of(error) from None

    def rows(self, request: PageRequest, feature: str) -> Rows:
        """The figures of a feature, which may be those of a while ago."""
        key = ("experiment", self.name, feature, self.metric == "value", self.since is None)
        query = self.query(request, feature)
        return request.cached(
            key, lambda: [{str(name): value for name, value in row.items()} for row in request.rows(query)]
        )


def experiment(request: PageRequest) -> str:
    """The page. Raises PageError for an experiment that nobody saw, a feature that nothing has, and wrong options."""
    check_table(request)
    asked, seen = _asked(request), _seen(request)
    carried = _carried(request)
    shown: dict[str, Any] = {"analysis": None, "rows": (), "sql": None, "missing": None, "file": None}
    if asked.goal:
        shown.update(_shown(asked, request), file=address("experiment.csv", **carried))
    return render(
        "experiment.html",
        request=request,
        asked_for=asked,
        seen=seen,
        is_running=is_running(seen["last_exposed_at"], request.freshness.now),
        period=window_words(asked.since, asked.until),
        periods=_periods(request, carried),
        dates=request.period if _has_period(request) else None,
        fields={name: value for name, value in carried.items() if name in ("experiment", "period", "from", "to")},
        given={name: value for name, value in carried.items() if name not in ("from", "to", "period")},
        metrics=METRICS,
        features=names_of(request, limit=_OFFERED),
        **shown,
    )


def experiment_file(request: PageRequest) -> Response:
    """The figures of each variant as a file, with all columns of the answer."""
    check_table(request)
    asked = _asked(request)
    result = request.connection.execute(asked.query(request, asked.goal))
    name = f"experiment-{request.period.name}" if _has_period(request) else "experiment"
    return csv_response(f"{name}.csv", result.keys(), result)


# ---- what is asked


def _asked(request: PageRequest) -> _Asked:
    def given(name: str) -> str:
        return request.parameters.get(name, "").strip()

    name, metric, effect = request.parameters.get("experiment", ""), given("metric") or "converted", given("effect")
    if not 0 < len(name) <= NAME_LENGTH:
        raise PageError(400, "Which experiment?", "Choose one.", links=(("All experiments", "experiments"),))
    if metric not in METRICS:
        raise PageError(400, "This address is wrong", f"Metric is one of {', '.join(METRICS)}.")
    guardrails = tuple(dict.fromkeys(each.strip() for each in given("guardrail").split(",") if each.strip()))
    if len(guardrails) > _GUARDRAILS:
        raise PageError(400, "These are too many features", f"A page takes {_GUARDRAILS} that must not fall.")
    try:
        percent = float(effect or 10)
    except ValueError:
        percent = 0.0
    if not 0 < percent < 100:
        raise PageError(
            400, "This address is wrong", "The smallest effect is a number of percent between 0 and 100, such as 10."
        )
    since, until = (request.period.since, request.period.until) if _has_period(request) else (None, None)
    return _Asked(
        name,
        given("goal"),
        next(each for each in METRICS if each == metric),
        given("weights") or None,
        given("control") or None,
        guardrails,
        percent / 100,
        since,
        until,
        request.period.tz,
    )


def _has_period(request: PageRequest) -> bool:
    """Whether the address names a period. Without one, the page is about the whole experiment."""
    return any(request.parameters.get(name) for name in ("period", "from", "to"))


def _carried(request: PageRequest) -> dict[str, str]:
    names = ("experiment", *_OPTIONS, "period", "from", "to")
    return {name: request.parameters[name] for name in names if request.parameters.get(name)}


def _periods(request: PageRequest, carried: Mapping[str, str]) -> Sequence[tuple[str, str, str, bool]]:
    """The links to other periods: label, words, address, whether it is this one."""
    others = {name: value for name, value in carried.items() if name not in ("period", "from", "to")}
    name = request.period.name if _has_period(request) else None
    whole = ("all", "The whole experiment", address("experiment", **others), name is None)
    return [
        whole,
        *(
            (period.name, period.words, address("experiment", **others, period=period.name), period.name == name)
            for period in PERIODS
        ),
    ]


def _seen(request: PageRequest) -> Mapping[str, Any]:
    """Since when anybody saw the experiment, and its variants. Raises PageError for one that nobody saw."""
    exposures, name = request.tables.exposures, request.parameters["experiment"]
    rows = request.rows(
        sa.select(
            exposures.c.variant,
            sa.func.min(exposures.c.first_exposed_at).label("first"),
            sa.func.max(exposures.c.last_exposed_at).label("last"),
        )
        .where(exposures.c.experiment == name)
        .group_by(exposures.c.variant)
        .order_by(exposures.c.variant)
    )
    if not rows:
        others = request.connection.scalars(sa.select(exposures.c.experiment).distinct().limit(1_000)).all()
        raise PageError(
            404,
            f"Nobody has seen an experiment “{name}”",
            "Check its spelling, and that the app calls `usage.variant` or `usage.expose`.",
            links=_near(name, others, "experiment", request),
        )
    return {
        "variants": [row["variant"] for row in rows],
        "first_exposed_at": min(row["first"] for row in rows),
        "last_exposed_at": max(row["last"] for row in rows),
    }


def _check_features(asked: _Asked, request: PageRequest) -> None:
    usage, catalog = request.tables.usage, request.tables.catalog
    for parameter, feature in (("goal", asked.goal), *(("guardrail", each) for each in asked.guardrails)):
        is_known = sa.or_(*(sa.exists().where(table.c.feature_name == feature) for table in (usage, catalog)))
        if not request.connection.scalar(sa.select(is_known)):
            raise PageError(
                404,
                f"No feature is called “{feature[:NAME_LENGTH]}”",
                "Neither the code nor the table knows this name. Check its spelling.",
                links=_near(feature, [name for name in names_of(request) if name], parameter, request),
            )


def _near(name: str, known: Sequence[str], parameter: str, request: PageRequest) -> tuple[tuple[str, str], ...]:
    """Links to this page with a name that resembles the unknown one."""
    carried = _carried(request)
    return tuple(
        (near, address("experiment", **{**carried, parameter: near}))
        for near in difflib.get_close_matches(name[:NAME_LENGTH], known, _NEAR)
    )


# ---- what is shown


def _shown(asked: _Asked, request: PageRequest) -> dict[str, Any]:
    query = asked.query(request, asked.goal)
    _check_features(asked, request)
    rows = asked.rows(request, asked.goal)
    shown = {"rows": rows, "sql": printed(query, request.connection.dialect)}
    try:
        _ = experiments.analyse
    except ConfigurationError:
        return {**shown, "missing": 'pip install "usage-instrument[experiments]"'}
    guardrails = {feature: asked.rows(request, feature) for feature in asked.guardrails}
    try:
        analysis = analysed(
            rows,
            guardrails,
            metric=asked.metric,
            control=asked.control,
            weights=asked.weights,
            minimum_effect=asked.effect,
        )
    except UsageInstrumentError as error:
        raise PageError.of(error) from None
    return {
        **shown,
        "analysis": analysis,
        "advice": advice_of(analysis),
        "caveats": [*caveats(analysis, rows, asked.goal, "fill in the planned split above")],
        "values": _values(analysis, asked.goal),
        "effects": _effects(analysis),
        "guardrails": [
            (each, change_words(each.always_valid_lift, each.always_valid_difference, each.metric))
            for each in analysis.guardrails
        ],
        "table": [words_of(each, analysis) for each in analysis.variants],
    }


def _values(analysis: Analysis, goal: str) -> IntervalChart | None:
    """What each variant reached."""
    is_share = analysis.metric == "converted"
    factor = 100 if is_share else 1
    mark = "" if analysis.verdict is Verdict.BROKEN else "value"
    found = []
    for each in analysis.variants:
        estimate = each.conversion if is_share else each.mean
        if estimate is not None:
            found.append(_interval(each, estimate, factor, estimate_words(estimate, analysis.metric), mark))
    if not any(each.low or each.high for each in found):  # nobody has reached anything
        return None
    title = _REACHED[analysis.metric].format(goal=goal)
    about = f"The line is where the true value lies, with {100 * (1 - analysis.alpha):g} % confidence."
    return intervals(title, about, found, " %" if is_share else "", has_zero=False)


def _effects(analysis: Analysis) -> IntervalChart | None:
    """The difference between each variant and the control, by the intervals that decide."""
    compared = [(each, each.comparison) for each in analysis.variants if each.comparison]
    lifts = [(each, found.always_valid_lift) for each, found in compared if found.always_valid_lift]
    differences = [(each, found.always_valid_difference) for each, found in compared if found.always_valid_difference]
    is_percent = bool(lifts) or analysis.metric == "converted"
    found = [
        _interval(each, estimate, 100 if is_percent else 1, effect_of(each, analysis.metric), _mark(each, analysis))
        for each, estimate in lifts or differences
    ]
    if not found:
        return None
    unit = " %" if lifts else " points" if is_percent else ""
    what = (
        "" if analysis.metric == "converted" else "The lift of the mean. " if lifts else "The difference of the means. "
    )
    about = "A line that crosses 0 may be chance. The lines allow for daily looks, so they are wider than those above."
    return intervals(f"Compared with {analysis.control}", what + about, found, unit, has_zero=True)


def _interval(result: VariantResult, estimate: Estimate, factor: int, words: str, mark: str) -> Interval:
    low, value, high = (factor * each for each in (estimate.low, estimate.value, estimate.high))
    return Interval(result.name, words, low, value, high, mark)


def _mark(result: VariantResult, analysis: Analysis) -> str:
    """The verdict that colours an interval; none if no figure can be trusted."""
    if result.comparison is None or analysis.verdict is Verdict.BROKEN:
        return ""
    return result.comparison.verdict.value
