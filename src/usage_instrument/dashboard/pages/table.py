"""A whole table: as a page, which also shows the question in SQL, and as a file."""

from __future__ import annotations

from usage_instrument.queries.printed import printed

from .. import csv
from ..html import render
from ..http import Response
from ..page_request import Visit
from ..results import MOST, answer
from ..tables import Question

MOST_IN_FILE = 100_000
"""Rows of a file: what a spreadsheet still opens."""


def table(question: Question, visit: Visit) -> str:
    """The page."""
    return render(
        "table.html",
        visit=visit,
        answer=answer(question, visit, MOST),
        most=MOST,
        about={name: visit.parameters[name] for name in question.needs + question.takes if visit.parameters.get(name)},
        sql=printed(question.ask(visit, MOST), visit.connection.dialect),
    )


def file(question: Question, visit: Visit) -> Response:
    """The file: all columns of the answer, by their labels there."""
    result = visit.connection.execute(question.ask(visit, MOST_IN_FILE))
    about = f"-{visit.period.name}" if question.has_period else ""
    return Response(
        200,
        csv.written(list(result.keys()), result),
        csv.CONTENT_TYPE,
        (("Content-Disposition", f'attachment; filename="{question.name}{about}.csv"'),),
    )
