"""The list of all experiments, as a page with its SQL and as a CSV file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Select, Table

from usage_instrument.database.reflection import is_readable
from usage_instrument.experiments.report import RUNNING, is_running
from usage_instrument.queries.experiments import experiments as select_all
from usage_instrument.queries.printed import printed

from ..errors import PageError
from ..html import render
from ..http import Response
from ..page_request import PageRequest
from .table import MAX_FILE, csv_response


@dataclass(frozen=True)
class Listed:
    """An experiment in the list."""

    name: str
    is_running: bool
    variants: Sequence[tuple[str, int]]
    """The variants, each with the units that saw it alone."""
    excluded: int
    first_exposed_at: dt.datetime
    last_exposed_at: dt.datetime


def experiments(request: PageRequest) -> str:
    """The page: which experiments there are, whether they run, and who saw what."""
    check_table(request)
    query = _query(request)
    rows = request.cached(("experiments",), lambda: request.rows(query))
    found = [_listed([*of_one], request.freshness.now) for _, of_one in groupby(rows, lambda row: row["experiment"])]
    found.sort(key=lambda each: each.last_exposed_at, reverse=True)
    pages = request.pages(len(found), {})
    return render(
        "experiments.html",
        request=request,
        found=found[pages.first : pages.last],
        pages=pages,
        days=RUNNING.days,
        sql=printed(query, request.connection.dialect),
    )


def experiments_file(request: PageRequest) -> Response:
    """The file: a row for each variant."""
    check_table(request)
    result = request.connection.execute(_query(request).limit(MAX_FILE))
    return csv_response("experiments.csv", result.keys(), result)


def check_table(request: PageRequest) -> None:
    """Raises PageError if there is no table of exposures."""
    check_readable(request, request.tables.exposures, "There are no experiments here")


def check_readable(request: PageRequest, table: Table, title: str) -> None:
    """Raises PageError with this title if the table is missing, or not for this role."""
    if not is_readable(request.connection, table):
        raise PageError(
            503,
            title,
            f"There is no table {table.fullname} that this role may read: run `usage-instrument db upgrade`, or "
            "grant SELECT.",
        )


def _query(request: PageRequest) -> Select[*tuple[Any, ...]]:
    return select_all(tables=request.tables)


def _listed(rows: Sequence[Any], now: dt.datetime) -> Listed:
    last = max(row["last_exposed_at"] for row in rows)
    return Listed(
        rows[0]["experiment"],
        is_running(last, now),
        [(row["variant"], row["units"]) for row in rows],
        rows[0]["excluded"],
        min(row["first_exposed_at"] for row in rows),
        last,
    )
