"""Asks the questions for a page, and lays out their answers as tables and charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from usage_instrument.errors import UsageInstrumentError
from usage_instrument.queries.questions import (
    BY_STEP,
    QUESTIONS,
    Argument,
    Query,
    Question,
    QuestionColumn,
)
from usage_instrument.queries.trend import TREND
from usage_instrument.queries.windows import Moment, window_words

from .charts import Chart, Point, chart
from .drawings import DRAWN, Drawn, day_of, drawn
from .errors import PageError
from .figures import Totals, totals
from .html import address
from .page_request import ROWS, PageRequest, Pages, Period

T = TypeVar("T")

CARD = 8
"""Rows on a card."""
STEPS = 1_000
"""More steps than the trend of any period has."""
CACHED = 1_000
"""Rows of a table up to the last page that is cached: each page is another answer from the first row on."""
_SMALL_CHART = 48

BY_PAGE = {question.page: question for question in QUESTIONS}
"""All questions by the names of their pages."""


@dataclass(frozen=True)
class ResultRow:
    """A row, and the length of its bar in percent."""

    values: Any
    bar: float | None

    @property
    def is_running(self) -> bool:
        """Whether it is of a time that is not over."""
        return bool(self.values.get("is_running"))


@dataclass(frozen=True)
class Result:
    """The rows of a question, laid out for a card or a page."""

    question: Question
    about: str
    empty: str
    notes: Sequence[str]
    """What the rows cannot say."""
    columns: tuple[QuestionColumn, ...]
    rows: Sequence[ResultRow]
    has_more: bool
    page: str
    """The address of the whole table."""
    file: str
    """The address of the table as a file."""
    comparison: tuple[str, str] | None = None
    """A link to the table beside the window before, or back: its words and its address."""


@dataclass(frozen=True)
class Trend:
    """The charts of a period, and their numbers."""

    uses: Chart
    users: Chart
    result: Result


def has_period(question: Question) -> bool:
    """Whether its page has a choice of periods."""
    return not question.is_of_all_time and any(argument.name == "since" for argument in question.arguments)


def parameters_of(question: Question) -> dict[str, bool]:
    """The parameters of its address that are arguments of the question, and whether each is required."""
    return {each.parameter: each.is_required for each in question.open_arguments if each.name not in _of_page(question)}


def query(question: Question, request: PageRequest, limit: int | None) -> Query:
    """The question for this page, for so many rows. Raises PageError for a missing or a wrong parameter."""
    given = _given(question, request)
    if "limit" in given:
        return _valid(lambda: question.select(**{**given, "limit": limit}, tables=request.tables))
    return _valid(lambda: question.select(**given, tables=request.tables)).limit(limit)


def _given(question: Question, request: PageRequest) -> Mapping[str, Any]:
    """Its arguments on this page, with those that depend on what is in the database. Raises PageError."""
    since, until = window_of(question, request)
    of_page = {
        "limit": None,
        "since": since,
        "until": until,
        "compare": compare_of(question, request),
        "tz": request.period.tz,
        "by": request.period.by,
    }
    by_page = _of_page(question)

    def asked() -> Mapping[str, Any]:
        given = {
            each.name: of_page[each.name] if each.name in by_page else _argument(each, request)
            for each in question.open_arguments
        }
        decided = question.decided(request.connection, request.tables, given)
        question.check_history(request.connection, request.tables, decided, has_months=request.has_months)
        return decided

    key = (question.name, since, until, *_carried(question, request).items())
    if key not in request.arguments:
        request.arguments[key] = _valid(asked)
    return request.arguments[key]


def _valid(ask: Callable[[], T]) -> T:
    """What it returns. Raises PageError for a mistake in the address."""
    try:
        return ask()
    except UsageInstrumentError as error:
        raise PageError.of(error) from None


def _notes(question: Question, request: PageRequest, rows: Sequence[Any]) -> Sequence[str]:
    """What these rows cannot say."""
    if question.notes is None:
        return ()
    notes, key = question.notes, (question.name, "notes", *_carried(question, request).items())
    return request.cached(key, lambda: [*notes(request.connection, request.tables, _given(question, request), rows)])


def _argument(argument: Argument, request: PageRequest) -> Any:
    """The argument in the address, or its default: steps are as long as the period asks for."""
    if is_step(argument) and not request.parameters.get(argument.parameter):
        return step_of(request)
    return request.argument(argument)


def is_step(argument: Argument) -> bool:
    """Whether it is the length of the steps in which a question follows users."""
    return argument.type is BY_STEP.type


def step_of(request: PageRequest) -> str:
    """The length of these steps when the address names none."""
    return request.period.step


def _of_page(question: Question) -> frozenset[str]:
    """The arguments that the page decides; the others come from its address."""
    return frozenset({"limit", "since", "until", "compare", "tz", *(["by"] if question is TREND else [])})


def window_of(question: Question, request: PageRequest) -> tuple[Moment, Moment]:
    """`since` and `until` of the question on this page; None for all time."""
    period = period_of(question, request)
    return (None, None) if period is None else (period.since if has_period(question) else None, period.until)


def period_of(question: Question, request: PageRequest) -> Period | None:
    """The period of the question on this page; None for all time. A question without a start takes the last day."""
    if question.is_of_all_time or not any(argument.name == "until" for argument in question.arguments):
        return None
    return request.period if question.longest is None else request.period.last(question.longest.days)


def result(question: Question, request: PageRequest, limit: int = CARD) -> Result:
    """Ask it for a card, or for a whole page."""
    return laid_out(question, request, rows_of(question, request, limit + 1), limit)


def rows_of(question: Question, request: PageRequest, limit: int) -> Sequence[Any]:
    """The first rows of its answer, as mappings."""
    key = (question.name, limit, *_carried(question, request).items())
    return request.cached(key, lambda: _uncached(question, request, limit))


def _uncached(question: Question, request: PageRequest, limit: int) -> Sequence[Any]:
    return request.rows(query(question, request, limit))


def page_of(question: Question, request: PageRequest) -> tuple[Result, Pages, Drawn | None]:
    """One page of its whole answer, and the drawing of all. Raises PageError."""
    last = request.number * ROWS
    wanted = last if question.drawing is None else max(last, DRAWN)
    rows = (rows_of if last <= CACHED else _uncached)(question, request, wanted + 1)
    pages = request.pages(len(rows), links_of(question, request))
    return (
        laid_out(question, request, rows, ROWS, pages.first),
        pages,
        drawn(question, rows, _step(question, request)),
    )


def laid_out(
    question: Question, request: PageRequest, rows: Sequence[Any], limit: int = CARD, first: int = 0
) -> Result:
    """Some of these rows, which are those from the answer's start, as a table."""
    shown = slice(first, first + limit)
    carried = links_of(question, request)
    words = {
        "period": window_words(*window_of(question, request)),
        "by": _step(question, request),
        "key": request.parameters.get("key", ""),
        "tz": str(request.period.tz or "UTC"),
    }
    for name in question.names_of("user"):
        request.users.want(row[name] for row in rows[shown] if name in row)
    columns = [
        column
        for column in question.columns_of(compare_of(question, request))
        if not column.is_optional or not rows or column.name in rows[0]
    ]
    return Result(
        question,
        question.about.format(**words),
        question.empty.format(**words),
        _notes(question, request, rows),
        tuple(one for one in columns if one.kind != "running" and (limit > CARD or not one.is_extra)),
        [ResultRow(row, bar) for row, bar in zip(rows[shown], _bars(question, rows)[shown], strict=True)],
        len(rows) > limit,
        address(question.page, **carried),
        address(f"{question.page}.csv", **carried),
        _comparison(question, carried),
    )


def _step(question: Question, request: PageRequest) -> str:
    """The length of a step on this page, for the words about it."""
    if question is TREND:
        return request.period.by
    return request.parameters.get("by") or step_of(request)


def _comparison(question: Question, carried: dict[str, str]) -> tuple[str, str] | None:
    """A link to the table beside the window before, or back."""
    if not _can_compare(question):
        return None
    if carried.get("compare"):
        return "Without the days before", address(question.page, **{**carried, "compare": None})
    return "Beside the days before", address(question.page, **carried, compare="previous")


def links_of(question: Question, request: PageRequest) -> dict[str, str]:
    """The parameters of the addresses of this table."""
    depends = has_period(question) or window_of(question, request)[1] is not None
    return _carried(question, request) | (request.kept if depends else {})


def _carried(question: Question, request: PageRequest) -> dict[str, str]:
    """The parameters of this request that the question depends on."""
    names = [*parameters_of(question), *(["compare"] if compare_of(question, request) else [])]
    return {name: request.parameters[name] for name in names if request.parameters.get(name)}


def compare_of(question: Question, request: PageRequest) -> str | None:
    """The argument `compare`, which only the page of the whole table takes."""
    is_its_page = request.page.removesuffix(".csv") == question.page
    return request.parameters.get("compare") or None if _can_compare(question) and is_its_page else None


def _can_compare(question: Question) -> bool:
    """Whether its page is about a period, which has one before it."""
    return bool(question.compared) and not question.is_of_all_time


def _bars(question: Question, rows: Sequence[Any]) -> list[float | None]:
    """A share is a share of the width; another number is compared with the largest."""
    if question.bar is None:
        return [None] * len(rows)
    kind = next(column.kind for column in question.columns if column.name == question.bar)
    values = [float(row[question.bar] or 0) for row in rows]
    top = 1.0 if kind == "share" else max(values, default=0) or 1
    return [round(min(100 * value / top, 100), 2) for value in values]


def totals_of(request: PageRequest, feature: str | None, uses: int | None = None) -> Totals:
    """The totals of the page's period, of a feature or of all; `uses` as in `totals`. Raises PageError."""

    def added_up() -> Totals:
        connection, asked, has_months = request.connection, request.window, request.has_months
        return totals(connection, request.tables, asked, feature, uses, has_months=has_months)

    return _valid(lambda: request.cached(("totals", feature), added_up))


def trend(request: PageRequest) -> Trend:
    """The trend of the page's feature, or of all features: two charts with one time axis, and their numbers."""
    found = result(TREND, request, STEPS)
    rows = [row.values for row in found.rows]
    times = [(day_of(row["bucket_start"]), bool(row["is_running"])) for row in rows]
    uses = [
        Point(start, (row["uses"] - row["anonymous_uses"], row["anonymous_uses"]), is_running=is_running)
        for (start, is_running), row in zip(times, rows, strict=True)
    ]
    users = [
        Point(start, (row["unique_users"],), is_running=is_running)
        for (start, is_running), row in zip(times, rows, strict=True)
    ]
    by = request.period.by
    return Trend(
        chart("uses", f"Uses per {by}", "uses", uses, series=("signed in", "anonymous"), has_axis=False),
        chart("users", f"Users per {by}", "users", users, adds_up=False, height=_SMALL_CHART),
        found,
    )
