"""A whole table: as a page with the SQL of its question, and as a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from usage_instrument.queries.display_names import with_display_names
from usage_instrument.queries.printed import printed
from usage_instrument.queries.questions import Question

from .. import csv
from ..drawings import DRAWN
from ..forms import form_of, lacks
from ..html import render
from ..http import Response
from ..page_request import ROWS, PageRequest
from ..results import has_period, laid_out, page_of, parameters_of, period_of, query, window_of

MAX_FILE = 100_000
"""Rows of a file: what a spreadsheet still opens."""


def table(question: Question, request: PageRequest) -> str:
    """The page; without an argument that the question needs, a form for it."""
    shown = {
        "request": request,
        "form": form_of(question, request),
        "has_period": has_period(question),
        "about": {name: request.parameters[name] for name in parameters_of(question) if request.parameters.get(name)},
        "most": DRAWN,
    }
    if lacks(question, request):
        return render("table.html", **shown, result=laid_out(question, request, ()), is_asked=False)
    result, pages, drawing = page_of(question, request)
    limit = request.number * ROWS if question.drawing is None else None
    sql = printed(query(question, request, limit), request.connection.dialect)
    return render("table.html", **shown, result=result, is_asked=True, pages=pages, drawing=drawing, sql=sql)


def file(question: Question, request: PageRequest) -> Response:
    """The file, with all columns of the answer."""
    result = request.connection.execute(query(question, request, MAX_FILE))
    period = None if window_of(question, request) == (None, None) else period_of(question, request)
    name = question.page if period is None else f"{question.page}-{period.name}"
    names, rows = with_display_names(result.keys(), result.mappings().all(), request.display_names)
    return csv_response(f"{name}.csv", names, ([*row.values()] for row in rows))


def csv_response(name: str, names: Iterable[str], rows: Iterable[Sequence[Any]]) -> Response:
    """A CSV file to download, of these rows below the names of their columns."""
    content = csv.written([*names], rows)
    return Response(200, content, csv.CONTENT_TYPE, (("Content-Disposition", f'attachment; filename="{name}"'),))
