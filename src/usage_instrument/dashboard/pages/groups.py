"""The groups of users by a column of the users table, and the features of one group; as pages and as files."""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping

from usage_instrument.errors import UsageInstrumentError
from usage_instrument.queries.display_names import with_display_names
from usage_instrument.queries.hours import check_hours
from usage_instrument.queries.printed import printed
from usage_instrument.queries.questions import Query
from usage_instrument.queries.windows import window_words

from .. import csv
from ..errors import PageError
from ..groups import Grouping
from ..html import address, render
from ..http import Response
from ..page_request import ROWS, PageRequest
from .table import MAX_FILE, csv_response

_MOST = 10_000
"""Groups among which one is looked for."""


def groups(request: PageRequest) -> str:
    """The page of all groups. Raises PageError."""
    by, query = _query(request)
    limit = request.number * ROWS
    found = request.cached(("groups", by, limit), lambda: request.rows(query.limit(limit + 1)))
    pages = request.pages(len(found), {"by": by, **request.kept})
    return render(
        "groups.html",
        request=request,
        by=by,
        rows=[(row, _address(request, by, row["value"])) for row in found[pages.first : pages.last]],
        most=max((row["users"] for row in found), default=0) or 1,
        pages=pages,
        period=_period(request),
        file=address("groups.csv", by=by, **request.kept),
        sql=printed(query.limit(limit), request.connection.dialect),
    )


def groups_file(request: PageRequest) -> Response:
    """All groups as a file. Raises PageError."""
    by, query = _query(request)
    result = request.connection.execute(query.limit(MAX_FILE))
    names = [by if name == "value" else name for name in result.keys()]  # noqa: SIM118 - its columns, no mapping
    return csv_response(f"groups-{by}-{request.period.name}.csv", csv.written(names, result.all()))


def group(request: PageRequest) -> str:
    """The page of one group. Raises PageError."""
    by, row = _chosen(request)
    query = _grouping(request, by).features(row["value"])
    limit = request.number * ROWS
    key = ("group", by, str(row["value"]), limit)
    found = request.cached(key, lambda: request.rows(query.limit(limit + 1)))
    pages = request.pages(len(found), {"by": by, "group": _text(row["value"]), **request.kept})
    return render(
        "group.html",
        request=request,
        by=by,
        group=row,
        rows=found[pages.first : pages.last],
        pages=pages,
        period=_period(request),
        file=_address(request, by, row["value"], "group.csv"),
        sql=printed(query.limit(limit), request.connection.dialect),
    )


def group_file(request: PageRequest) -> Response:
    """The features of one group as a file. Raises PageError."""
    by, row = _chosen(request)
    result = request.connection.execute(_grouping(request, by).features(row["value"]).limit(MAX_FILE))
    names, rows = with_display_names(result.keys(), result.mappings().all(), request.display_names)
    name = f"group-{by}-{request.period.name}.csv"
    return csv_response(name, csv.written(names, ([*each.values()] for each in rows)))


def _period(request: PageRequest) -> str:
    return window_words(request.period.since, request.period.until)


def _address(request: PageRequest, by: str, value: object, page: str = "group") -> str:
    """The address of a group."""
    return address(page, by=by, group=_text(value), **request.kept)


def _text(value: object) -> str | None:
    """A group in an address. The users without a value have none; the empty text is a value."""
    return None if value is None else str(value)


def _grouping(request: PageRequest, by: str) -> Grouping:
    column = request.users.people.groups[by]
    period = request.period
    return Grouping(request.tables, column, period.since, period.until, period.tz)


def _query(request: PageRequest) -> tuple[str, Query]:
    known = list(request.users.people.groups)
    if not known:
        raise PageError(
            404, "There are no groups of users", 'Name columns of the users table: Dashboard(…, user_groups=["plan"]).'
        )
    by = request.parameters.get("by") or known[0]
    if by not in known:
        raise PageError(404, f"There are no groups by “{by[:60]}”", f"Choose one of {', '.join(known)}.")
    period = request.period
    try:
        check_hours(request.connection, period.tz, since=period.since, until=period.until, tables=request.tables)
    except UsageInstrumentError as error:
        message = str(error)
        raise PageError(400, "This address is wrong", f"{message[:1].upper()}{message[1:]}.") from None
    try:
        return by, _grouping(request, by).groups()
    except UsageInstrumentError as error:
        message = str(error)
        raise PageError(500, "These groups are misconfigured", f"{message[:1].upper()}{message[1:]}.") from None


def _chosen(request: PageRequest) -> tuple[str, RowMapping | Any]:
    """The column and the row of the group. The database compares its value in its own type: of a text, it could not."""
    by, query = _query(request)
    found = request.cached(("groups", by, _MOST), lambda: request.rows(query.limit(_MOST)))
    text = request.parameters.get("group")
    for row in found:
        value = row["value"]
        if (text is None) if value is None else str(value) == text:
            return by, row
    back = ("All groups", address("groups", by=by, **request.kept))
    raise PageError(404, "There is no such group", f"No user has this {by}.", links=(back,))
