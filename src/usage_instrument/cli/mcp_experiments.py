"""The tools of `usage-instrument mcp` about experiments: the verdict on one, and the list of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection

from usage_instrument import experiments as statistics
from usage_instrument.database.tables import Tables
from usage_instrument.experiments.report import advice_of, analysed, caveats

from .experiments import every, figures

_SINCE = "The first day of exposures: 30d, 4w, 2026-01-31, last month."
_UNTIL = "The last day, in the same forms."
_ZONE = "The time zone of these days, such as Europe/Berlin. Default: UTC."
_WEIGHTS = "The planned split, which is checked: red=1,blue=3 or equal. Its first variant is the control."


@dataclass(frozen=True)
class ExperimentTool:
    """A tool: what it is, and the function that answers."""

    title: str
    description: str
    properties: Mapping[str, Mapping[str, Any]]
    required: tuple[str, ...]
    answer: Callable[[Connection, Tables, Mapping[str, Any], int], dict[str, Any]]
    """From a connection, the tables, the arguments and the most rows."""

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its arguments."""
        return {
            "type": "object",
            "properties": dict(self.properties),
            "required": list(self.required),
            "additionalProperties": False,
        }


def _verdict(connection: Connection, tables: Tables, given: Mapping[str, Any], limit: int) -> dict[str, Any]:
    _ = statistics.analyse  # before the query: without SciPy, it raises
    goal = given["goal"]
    features = [goal, *given.get("guardrails", ())]
    metric = given.get("metric", "converted")
    window = (given.get("since"), given.get("until"), given.get("tz"))
    rows, guardrails = figures(connection, tables, given["name"], features, *window, metric)
    analysis = analysed(
        rows,
        guardrails,
        metric=metric,
        control=given.get("control"),
        weights=given.get("weights"),
        minimum_effect=given.get("minimum_effect", 0.1),
    )
    return {
        "experiment": given["name"],
        "goal": goal,
        **asdict(analysis),
        "advice": advice_of(analysis),
        "figures": rows[:limit],
        "caveats": [*caveats(analysis, rows, goal, "pass weights")],
    }


def _all(connection: Connection, tables: Tables, given: Mapping[str, Any], limit: int) -> dict[str, Any]:
    _names, rows = every(connection, tables, given.get("since"), given.get("until"), given.get("tz"))
    return {"rows": [*islice(rows, limit)], "has_more": len(rows) > limit, "caveats": []}


def _text(help_: str) -> dict[str, Any]:
    return {"type": "string", "description": help_}


EXPERIMENT_TOOLS: dict[str, ExperimentTool] = {
    "experiment": ExperimentTool(
        "Experiment",
        "The verdict on an A/B test: which variant leads more units to a goal. `words` has it for people and `advice` "
        "what to do; shares and lifts are fractions. A unit is a user or a visitor. It may be asked every day: decide "
        "by the `always_valid_` fields, not by `p_value`.",
        {
            "name": _text("The experiment, as the code names it."),
            "goal": _text("The feature that the variants shall lead to."),
            "metric": {
                "type": "string",
                "enum": ["converted", "uses", "value"],
                "default": "converted",
                "description": "converted: units that used the goal. uses: how often, as a mean. value: the mean "
                "of the numbers beside its uses, 0 for a unit without any.",
            },
            "control": _text("The variant to compare with. Default: the first of the weights, else the first by name."),
            "weights": _text(_WEIGHTS),
            "guardrails": {
                "type": "array",
                "items": {"type": "string"},
                "maxItems": 5,
                "description": "Features that must not fall.",
            },
            "minimum_effect": {
                "type": "number",
                "exclusiveMinimum": 0,
                "exclusiveMaximum": 1,
                "default": 0.1,
                "description": "The smallest lift that matters: 0.1 is 10 %.",
            },
            "since": _text(_SINCE),
            "until": _text(_UNTIL),
            "tz": _text(_ZONE),
        },
        ("name", "goal"),
        _verdict,
    ),
    "experiments": ExperimentTool(
        "Experiments",
        "All A/B tests: the units that saw each variant alone, those that saw several, first and last exposure, and "
        "the state: an experiment that exposed nobody for 7 days is idle.",
        {"since": _text(_SINCE), "until": _text(_UNTIL), "tz": _text(_ZONE)},
        (),
        _all,
    ),
}
"""By the names of the functions in `queries`."""
