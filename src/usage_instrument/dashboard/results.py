"""Answers ready to be laid out: a question's rows, their bars, and where to find more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .html import address
from .page_request import Visit
from .tables import NUMBERS, Column, Question

CARD = 8
"""Rows on a card."""
MOST = 1_000
"""Rows of a table that a page shows; the file has more."""


@dataclass(frozen=True)
class Row:
    """A row and the length of its bar, in percent."""

    values: Any
    bar: float | None


@dataclass(frozen=True)
class Answer:
    """What a card or a page shows of a question."""

    question: Question
    about: str
    empty: str
    columns: tuple[Column, ...]
    rows: Sequence[Row]
    more: bool
    """Whether there are more rows than these."""
    whole: str
    """The address of the whole table."""
    file: str
    """The address of the table as a file."""

    @property
    def numbers(self) -> frozenset[str]:
        """The kinds that stand at the right."""
        return NUMBERS


def answer(question: Question, visit: Visit, limit: int = CARD) -> Answer:
    """Ask it for a card, or for a whole page."""
    return laid_out(question, visit, rows_of(question, visit, limit + 1), limit)


def rows_of(question: Question, visit: Visit, limit: int) -> Sequence[Any]:
    """The first rows of its answer, as mappings."""
    key = (question.name, limit, *_carried(question, visit).items())
    return visit.remembered(key, lambda: visit.rows(question.ask(visit, limit)))


def laid_out(question: Question, visit: Visit, rows: Sequence[Any], limit: int = CARD) -> Answer:
    """The first of these rows as an answer."""
    shown = rows[:limit]
    columns = tuple(column for column in question.columns if limit > CARD or not column.is_extra)
    carried = _carried(question, visit) | (visit.kept if question.has_period else {})
    return Answer(
        question,
        visit.filled(question.about),
        visit.filled(question.empty),
        columns,
        [Row(row, bar) for row, bar in zip(shown, _bars(question, shown), strict=True)],
        len(rows) > limit,
        address(question.name, **carried),
        address(f"{question.name}.csv", **carried),
    )


def _carried(question: Question, visit: Visit) -> dict[str, str]:
    """The parameters that the question depends on."""
    names = (*question.needs, *question.takes)
    return {name: visit.parameters[name] for name in names if visit.parameters.get(name)}


def _bars(question: Question, rows: Sequence[Any]) -> list[float | None]:
    """Shares of one show themselves, other numbers how they compare with the largest."""
    if question.bar is None:
        return [None] * len(rows)
    kind = next(column.kind for column in question.columns if column.name == question.bar)
    values = [float(row[question.bar] or 0) for row in rows]
    top = 1.0 if kind == "share" else max(values, default=0) or 1
    return [round(min(100 * value / top, 100), 2) for value in values]
