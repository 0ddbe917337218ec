"""Draws the whole answer of a question, as its description says: as bars, as a grid or as steps."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from usage_instrument.queries.questions import Bars, Grid, Question, QuestionColumn, Steps

from . import formatting
from .charts import Chart, Point, chart

DRAWN = 5_000
"""Rows of an answer that are drawn at most: a triangle of 99 cohorts."""
LEVELS = 9
"""Shades of a grid."""

Row: TypeAlias = Mapping[Any, Any]


@dataclass(frozen=True)
class DrawnBars:
    """Bars over time."""

    kind: ClassVar[str] = "bars"
    chart: Chart

    @property
    def is_empty(self) -> bool:
        """Whether all values are 0."""
        return not any(bar.segments for bar in self.chart.bars)


@dataclass(frozen=True)
class Cell:
    """A cell of a grid."""

    text: str
    title: str
    level: int
    """Its shade, from 0."""
    is_running: bool


@dataclass(frozen=True)
class GridRow:
    """A row of a grid."""

    head: str
    size: str | None
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class DrawnGrid:
    """A grid, which is a table: its cells are read as they are seen."""

    kind: ClassVar[str] = "grid"
    is_empty: ClassVar[bool] = False
    head: str
    size: str | None
    across: str
    """What the heads of the columns are."""
    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]


@dataclass(frozen=True)
class Step:
    """A step of a funnel; the widths are percents of the first one."""

    feature: str
    users: int
    width: float
    before: float | None
    """The width of the step before."""
    share: float | None
    """Of the users of the first step."""
    left: int | None
    """How many users of the step before did not take this one."""
    unknown: int
    unknown_width: float


@dataclass(frozen=True)
class DrawnSteps:
    """Steps, each a part of the one before."""

    kind: ClassVar[str] = "steps"
    steps: tuple[Step, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nobody took the first step."""
        return not any(step.users for step in self.steps)

    @property
    def unknown(self) -> int:
        """Users who took two steps in an order that the history does not know."""
        return max((step.unknown for step in self.steps), default=0)


Drawn: TypeAlias = DrawnBars | DrawnGrid | DrawnSteps


def drawn(question: Question, rows: Sequence[Row], by: str) -> Drawn | None:
    """The drawing of these rows; `by` is the length of a step of time. None for a question without, and for too many
    rows."""
    if not rows or len(rows) > DRAWN:
        return None
    match question.drawing:
        case Bars():
            return _bars(question, question.drawing, rows, by)
        case Grid():
            return _grid(question, question.drawing, rows, by)
        case Steps():
            return _steps(question.drawing, rows)
    return None


def day_of(start: dt.datetime | dt.date) -> dt.date:
    """The day of a bucket."""
    return start.date() if isinstance(start, dt.datetime) else start


def _bars(question: Question, it: Bars, rows: Sequence[Row], by: str) -> DrawnBars:
    points = [
        Point(
            day_of(row[it.at]),
            tuple(row[name] for name in it.above),
            tuple(row[name] for name in it.below),
            bool(row.get("is_running")),
        )
        for row in rows
    ]
    series = [_column(question, name).title.lower() for name in (*it.above, *it.below)]
    return DrawnBars(chart(question.name, f"{question.title} by {by}", "users", points, series=series, adds_up=False))


# ---- grids


def _grid(question: Question, it: Grid, rows: Sequence[Row], by: str) -> DrawnGrid:
    heads, names = (list(dict.fromkeys(row[name] for row in rows)) for name in (it.row, it.column))
    names = sorted(names)
    found = {(row[it.row], row[it.column]): row for row in rows}
    column = _column(question, it.value)
    # A cohort is whole in its first step, which would leave the others pale.
    shaded = [row for row in rows if it.part is None or row[it.column] != names[0]] or rows
    top = max(float(row[it.value] or 0) for row in shaded) or 1.0
    sizes = {} if it.size is None else {row[it.row]: row[it.size] for row in rows}
    drawn_rows = []
    for head in heads:
        row_cells = (found.get((head, name)) for name in names)
        cells = tuple(None if row is None else _cell(question, it, column, row, top) for row in row_cells)
        size = formatting.count(sizes[head]) if head in sizes else None
        drawn_rows.append(GridRow(_head(_column(question, it.row), head), size, cells))
    if it.part is not None and it.size is not None:
        drawn_rows.append(_all(it.part, it.size, it.column, rows, names, sum(sizes.values()), top))
    has_steps = any(argument.name == "by" for argument in question.arguments)
    across = _column(question, it.column).title
    return DrawnGrid(
        _column(question, it.row).title,
        None if it.size is None else _column(question, it.size).title,
        f"{across}, by {by}" if has_steps else across,
        tuple(_head(_column(question, it.column), name) for name in names),
        tuple(drawn_rows),
    )


def _cell(question: Question, it: Grid, column: QuestionColumn, row: Row, top: float) -> Cell:
    value, is_running = row[it.value], bool(row.get("is_running"))
    text = formatting.share(value) if column.kind == "share" else formatting.short(value)
    where = f"{_head(_column(question, it.row), row[it.row])}, {_head(_column(question, it.column), row[it.column])}"
    if it.part is not None and it.size is not None:
        what = f"{row[it.part]:,} of {row[it.size]:,}"
    else:
        what = f"{formatting.count(value)} {column.title.lower()}"
    return Cell(text, f"{where}: {what}{', so far' if is_running else ''}", _level(value, top), is_running)


def _all(
    part: str, size: str, column: str, rows: Sequence[Row], names: Sequence[Any], users: int, top: float
) -> GridRow:
    """The share of all rows together, by column, of the cells whose time is over."""
    cells: list[Cell | None] = []
    for name in names:
        ended = [row for row in rows if row[column] == name and not row.get("is_running")]
        parts, sizes = sum(row[part] for row in ended), sum(row[size] for row in ended)
        share = parts / sizes if sizes else None
        title = f"{parts:,} of {sizes:,}, without what is not over"
        cells.append(None if share is None else Cell(formatting.share(share), title, _level(share, top), False))
    return GridRow("All", formatting.count(users), tuple(cells))


def _level(value: float | None, top: float) -> int:
    return 0 if not value else max(1, min(LEVELS, round(LEVELS * float(value) / top)))


def _head(column: QuestionColumn, value: Any) -> str:
    if column.kind == "day":
        return formatting.day(day_of(value))
    return formatting.weekday(value) if column.kind == "weekday" else str(value)


# ---- steps


def _steps(it: Steps, rows: Sequence[Row]) -> DrawnSteps:
    first = rows[0][it.value] or 0
    steps: list[Step] = []
    for row in rows:
        users, unknown = row[it.value], row[it.unknown]
        before = steps[-1] if steps else None
        share = users / first if first else None
        steps.append(
            Step(
                row[it.name],
                users,
                _percent(users, first),
                None if before is None else before.width,
                share,
                None if before is None else before.users - users,
                unknown,
                _percent(unknown, first),
            )
        )
    return DrawnSteps(tuple(steps))


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def _column(question: Question, name: str) -> QuestionColumn:
    return next(column for column in question.columns if column.name == name)
