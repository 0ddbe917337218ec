"""The description of a question, which the command line, the dashboard, the MCP tools and the docs share.

Each question is described once, at the end of the file of its query; `queries/__init__.py` imports it.
"""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from sqlalchemy import Connection, Select

from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import Unit

from . import hours, months
from .arguments import STEPS, user_id
from .windows import window, written

Query: TypeAlias = "Select[*tuple[Any, ...]]"
ColumnKind = Literal[
    "feature",
    "user",
    "variant",
    "status",
    "text",
    "context",
    "count",
    "share",
    "change",
    "day",
    "weekday",
    "time",
    "running",
]
"""How a value is shown; `running` marks the row."""
_NUMBERS = frozenset({"change", "count", "share"})

# ---- arguments


@dataclass(frozen=True)
class ArgumentType:
    """How an argument is given from outside of Python: as text, or as a JSON value."""

    schema: Mapping[str, Any]
    """Its JSON Schema, from which the command line takes the type, the choices and the least value too."""
    metavar: str | None = None
    """Its name on a help page."""
    parse: Callable[[Any, Tables], Any] = lambda given, tables: given
    """Converts a value of that schema into the argument. Raises ConfigurationError, and UserIdError."""
    written: Callable[[Any], Any] = lambda argument: argument
    """Converts an argument back: shows the default."""


NAME = ArgumentType({"type": "string"})
USER = ArgumentType({"type": "string"}, parse=user_id)
LIMIT = ArgumentType({"type": "integer", "minimum": 1}, "NUMBER")
SCORE = ArgumentType({"type": "number", "exclusiveMinimum": 0}, "NUMBER")
FEATURE_NAME = ArgumentType({"type": "string"})
FEATURES = ArgumentType({"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 10})
SPAN = ArgumentType({"type": "string"}, "TIME", written=written)
ZONE = ArgumentType({"type": "string"}, "ZONE", written=str)
MOMENT = ArgumentType({"type": "string"}, "TIME", written=written)


def choice(metavar: str, *values: str) -> ArgumentType:
    """One of these values."""
    return ArgumentType({"type": "string", "enum": list(values)}, metavar)


@dataclass(frozen=True)
class Argument:
    """An argument of a question: what it is, and its default in the function's own signature."""

    name: str
    type: ArgumentType
    help: str
    default: Any = inspect.Parameter.empty
    is_of_command: bool = False
    """Whether only Python and the command line take it: it reads other columns of the host's tables."""

    @property
    def is_required(self) -> bool:
        """Whether the question cannot be asked without it."""
        return self.default is inspect.Parameter.empty

    @property
    def written_default(self) -> Any:
        """The default as it is given from outside; None for none."""
        return None if self.is_required or self.default is None else self.type.written(self.default)

    def of_text(self, text: str, tables: Tables) -> Any:
        """The argument that a text stands for. Raises ConfigurationError, and UserIdError."""
        schema = self.type.schema
        given: Any = text
        if schema["type"] == "array":
            given = [part.strip() for part in text.split(",")]
        elif schema["type"] != "string":
            try:
                given = {"integer": int, "number": float}[schema["type"]](text)
            except ValueError:
                raise ConfigurationError(f"{self.name} is a number, not {text!r}") from None
        if text not in schema.get("enum", (text,)):
            raise ConfigurationError(f"{self.name} is one of {', '.join(schema['enum'])}, not {text!r}")
        return self.type.parse(given, tables)

    @property
    def parameter(self) -> str:
        """Its name in the addresses of the dashboard."""
        return self.name.removesuffix("_id")


BY_STEP = Argument("by", choice("STEP", *STEPS), f"The length of a step: {', '.join(STEPS[:-1])} or {STEPS[-1]}.")
"""The steps of questions that follow users over time."""
_SHARED = (
    Argument("feature", FEATURE_NAME, "The feature, by its name in the code."),
    Argument("user_id", USER, "The user's id, or 'anonymous'."),
    Argument("limit", LIMIT, "The maximum number of rows."),
    Argument("since", MOMENT, "The first day: 30d, 4w, 2026-01-31, 2026-01, 2026-W14, today, last month."),
    Argument("compare", choice("WINDOW", "previous"), "previous: also the window of the same length before."),
    Argument("until", MOMENT, "The last day, in the same forms; 7d is the day before the last 7 days."),
    Argument("tz", ZONE, "The time zone of days and hours, such as Europe/Berlin: it needs hours in the history."),
)
"""The arguments of several questions."""

# ---- questions


def if_bounded(given: Mapping[str, Any]) -> bool:
    """Whether the history answers, and not the totals."""
    return given["since"] is not None or given["until"] is not None


def always(given: Mapping[str, Any]) -> bool:
    """Whatever the arguments are."""
    return True


def never(given: Mapping[str, Any]) -> bool:
    """Whatever the arguments are, not."""
    return False


def if_by_month(given: Mapping[str, Any]) -> bool:
    """Whether its steps are months."""
    return bool(given["by"] == "month")


def if_ended(given: Mapping[str, Any]) -> bool:
    """Whether the history answers, and not the times of the last uses."""
    return given["until"] is not None


@dataclass(frozen=True)
class QuestionColumn:
    """One column of an answer, by its label there."""

    name: str
    title: str
    kind: ColumnKind
    is_extra: bool = False
    """Whether only a page for the whole table shows it."""
    is_optional: bool = False
    """Whether an argument can leave it out of the answer."""

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers, which are aligned at the right."""
        return self.kind in _NUMBERS


FEATURE = QuestionColumn("feature_name", "Feature", "feature")
USES = QuestionColumn("uses", "Uses", "count")
USERS = QuestionColumn("unique_users", "Users", "count")
SHARE = QuestionColumn("share", "Share", "share")
LAST_USED = QuestionColumn("last_used", "Last used", "time")


# ---- drawings


@dataclass(frozen=True)
class Grid:
    """A cell for each row of an answer, the darker the larger its value: a cohort triangle, a heat map."""

    row: str
    """The column whose values head the rows."""
    column: str
    """The column whose values head the columns."""
    value: str
    part: str | None = None
    """The column with the number whose share of `size` the value is; then a last row has the share of all."""
    size: str | None = None
    """The column with the size of a row, which stands beside its head."""


@dataclass(frozen=True)
class Bars:
    """A bar for each row of an answer, in the order of time."""

    at: str
    """The column with the time."""
    above: tuple[str, ...]
    """The columns that are stacked on the ground line."""
    below: tuple[str, ...] = ()
    """The columns that hang below it."""


@dataclass(frozen=True)
class Steps:
    """A bar for each row of an answer, each a part of the one before."""

    name: str
    """The column with the feature of the step."""
    value: str
    unknown: str
    """The column with the part of the value whose order is unknown."""


Drawing: TypeAlias = Grid | Bars | Steps
Topic = Literal["Features", "Users", "Anomalies"]
"""A group of questions in the menu of the dashboard."""


@dataclass(frozen=True)
class Question:
    """A question: the function that builds its Select, its arguments and columns, and the words about it.

    In `about` and `empty`, `{period}` becomes for example "in the last 28 days", `{by}` the step, `{key}` the key and
    `{tz}` the time zone.
    """

    name: str
    """Its command: `usage-instrument NAME`."""
    select: Callable[..., Query]
    title: str
    summary: str
    about: str
    """What the numbers mean."""
    empty: str
    """The message when there are no rows, and what to do then."""
    example: str
    """The options of an example command."""
    columns: tuple[QuestionColumn, ...]
    own_arguments: tuple[Argument, ...] = ()
    """The arguments that no other question has."""
    topic: Topic | None = None
    """Its group in the menu of the dashboard. None for a question about a feature or a user, whose page links to it."""
    bar: str | None = None
    """The column that the dashboard draws as a bar."""
    drawing: Drawing | None = None
    """How its page draws the whole answer, above the table."""
    compared: tuple[str, ...] = ()
    """The columns beside which `compare` shows the change."""
    page_name: str | None = None
    """Its page and file in the dashboard, if that is not its name."""
    longest: dt.timedelta | None = None
    """The longest period that it accepts."""
    days_before: int = 0
    """The days before its window that it reads by day, too."""
    needs_hours: Callable[[Mapping[str, Any]], bool] = always
    """Whether, with these arguments, the history answers: a time zone needs its hours."""
    takes_months: Callable[[Mapping[str, Any]], bool] = never
    """Whether, with these arguments, whole months of the history answer as well as their days."""
    is_of_all_time: bool = False
    """Whether its page is about all time, whatever the period of the dashboard."""
    decided: Callable[[Connection, Tables, Mapping[str, Any]], Mapping[str, Any]] = lambda on, tables, given: given
    """Its arguments with those that depend on what is in the database."""
    notes: Callable[[Connection, Tables, Mapping[str, Any], Sequence[Mapping[str, Any]]], Iterable[str]] | None = None
    """What the rows of an answer cannot say; the arguments are decided."""
    arguments: tuple[Argument, ...] = field(init=False)
    """Its arguments, in the order of the function's signature."""

    def __post_init__(self) -> None:
        known = {argument.name: argument for argument in (*_SHARED, *self.own_arguments)}
        arguments = tuple(
            replace(known[name], default=parameter.default)
            for name, parameter in inspect.signature(self.select).parameters.items()
            if name != "tables"
        )
        object.__setattr__(self, "arguments", arguments)

    @property
    def open_arguments(self) -> tuple[Argument, ...]:
        """The arguments that pages and tools take too."""
        return tuple(argument for argument in self.arguments if not argument.is_of_command)

    @property
    def page(self) -> str:
        """Its page and file in the dashboard."""
        return self.page_name or self.name

    def columns_of(self, compare: object) -> tuple[QuestionColumn, ...]:
        """Its columns in an answer with this `compare`."""
        return tuple(
            each
            for column in self.columns
            for each in (column, *(_changes(column.name) if compare and column.name in self.compared else ()))
        )

    def names_of(self, kind: ColumnKind) -> set[str]:
        """The names of its columns of this kind."""
        return {column.name for column in self.columns if column.kind == kind}

    def query(self, given: Mapping[str, Any], tables: Tables) -> Query:
        """Its Select with these arguments as they are given from outside, all of them.

        Raises ConfigurationError, and UserIdError for a wrong id.
        """
        arguments = {
            argument.name: None if given[argument.name] is None else argument.type.parse(given[argument.name], tables)
            for argument in self.arguments
        }
        return self.select(**arguments, tables=tables)

    def check_history(
        self, connection: Connection, tables: Tables, given: Mapping[str, Any], *, has_months: bool = True
    ) -> None:
        """Raise ConfigurationError if the history cannot answer with these arguments: it has days instead of the hours
        that a time zone needs, or months instead of days. The latter is not looked up unless it `has_months`."""
        if not self.needs_hours(given):
            return
        # Of groups, `by` is a column, which may have the name of a step.
        has_steps = any(each.name == "by" and "month" in each.type.schema.get("enum", ()) for each in self.arguments)
        by = given.get("by") if has_steps else None
        days_before, is_compared = self.days_before, bool(given.get("compare"))
        asked = window(given.get("since"), given["until"], given.get("tz"))
        windows = [asked]
        if "since" not in given:  # its days are those before the last one
            windows, days_before = [asked.last_day()], days_before * (2 if is_compared else 1)
        elif is_compared:
            windows.append(asked.previous())
        unit: Unit = by if by in STEPS else "day"
        if asked.tz is not None:
            hours.check_window(connection, tables, windows[-1], days_before, unit)
        if has_months:
            fix = "pass a later since" if "since" in given else "ask about a later day"
            fix = f"ask by month, or {fix}" if by in STEPS or by == "hour" else fix
            fix += ", or no compare" if is_compared else ""
            by_months = self.takes_months(given)
            for each in windows:
                months.check_window(
                    connection,
                    tables,
                    each,
                    days_before,
                    unit,
                    by_months=by_months,
                    fix=fix,
                    is_previous=each is not windows[0],
                )


def _changes(name: str) -> tuple[QuestionColumn, ...]:
    return (
        QuestionColumn(f"{name}_before", "Before", "count"),
        QuestionColumn(f"{name}_change", "Difference", "count"),
        QuestionColumn(f"{name}_relative_change", "Change", "change"),
    )


QUESTIONS: list[Question] = []
"""Every question of `queries`, in the order of the help page, which is that of the imports in `queries/__init__.py`."""


def described(question: Question) -> Question:
    """Add it to the questions, and so to the commands, the SQL, the pages, the files, the tools and the docs."""
    QUESTIONS.append(question)
    return question
