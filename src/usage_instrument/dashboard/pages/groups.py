"""The groups of users by a column of the users table, and the features of one group; as pages and as files."""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping, select

from usage_instrument.errors import UsageInstrumentError
from usage_instrument.queries.adoption import ADOPTION, adoption
from usage_instrument.queries.display_names import with_display_names
from usage_instrument.queries.groups import GROUPS
from usage_instrument.queries.numbers import by_name
from usage_instrument.queries.printed import printed
from usage_instrument.queries.questions import Query
from usage_instrument.queries.sources import host_column
from usage_instrument.queries.windows import window_words

from ..errors import PageError
from ..html import address, render
from ..http import Response
from ..page_request import ROWS, PageRequest
from ..results import ResultRow
from .table import MAX_FILE, csv_response, file, table

_MOST = 10_000
"""Groups among which one is looked for."""


def groups(request: PageRequest) -> str:
    """The page of all groups; without groups, of all users. Raises PageError."""
    if not request.users.people.groups:
        return table(GROUPS, request)
    by, query = _query(request)
    limit = request.number * ROWS
    found = request.cached(("groups", by, limit), lambda: request.rows(query.limit(limit + 1)))
    pages = request.pages(len(found), {"by": by, **request.kept})
    return render(
        "groups.html",
        request=request,
        question=GROUPS,
        by=by,
        rows=[(row, _address(request, by, row["value"])) for row in found[pages.first : pages.last]],
        pages=pages,
        period=_period(request),
        file=address("groups.csv", by=by, **request.kept),
        sql=printed(query.limit(limit), request.connection.dialect),
    )


def groups_file(request: PageRequest) -> Response:
    """All groups as a file. Raises PageError."""
    if not request.users.people.groups:
        return file(GROUPS, request)
    by, query = _query(request)
    result = request.connection.execute(query.limit(MAX_FILE))
    names = [by if name == "value" else name for name in result.keys()]  # noqa: SIM118 - its columns, no mapping
    return csv_response(f"groups-{by}-{request.period.name}.csv", names, result)


def group(request: PageRequest) -> str:
    """The page of one group. Raises PageError."""
    by, row = _chosen(request)
    query = _features(request, by, row["value"])
    limit = request.number * ROWS
    key = ("group", by, str(row["value"]), limit)
    found = request.cached(key, lambda: request.rows(query.limit(limit + 1)))
    pages = request.pages(len(found), {"by": by, "group": _text(row["value"]), **request.kept})
    return render(
        "group.html",
        request=request,
        columns=ADOPTION.columns,
        by=by,
        group=row,
        rows=[ResultRow(each, round(100 * each["share"], 2)) for each in found[pages.first : pages.last]],
        pages=pages,
        period=_period(request),
        file=_address(request, by, row["value"], "group.csv"),
        sql=printed(query.limit(limit), request.connection.dialect),
    )


def group_file(request: PageRequest) -> Response:
    """The features of one group as a file. Raises PageError."""
    by, row = _chosen(request)
    result = request.connection.execute(_features(request, by, row["value"]).limit(MAX_FILE))
    names, rows = with_display_names(result.keys(), result.mappings().all(), request.display_names)
    return csv_response(f"group-{by}-{request.period.name}.csv", names, ([*each.values()] for each in rows))


def _period(request: PageRequest) -> str:
    return window_words(request.period.since, request.period.until)


def _address(request: PageRequest, by: str, value: object, page: str = "group") -> str:
    """The address of a group."""
    return address(page, by=by, group=_text(value), **request.kept)


def _text(value: object) -> str | None:
    """A group in an address. The users without a value have none; the empty text is a value."""
    return None if value is None else str(value)


def _features(request: PageRequest, by: str, value: Any) -> Query:
    """The adoption of features by the group with this value."""
    column, period = request.users.people.groups[by], request.period
    name = host_column(column, request.tables, "user_groups", "plan").name
    of_all = adoption(by=column, since=period.since, until=period.until, tz=period.tz, tables=request.tables)
    found = of_all.subquery("adopted").c
    is_its = found[name].is_(None) if value is None else found[name] == value
    order = (found.unique_users.desc(), found.uses.desc(), *by_name(found.feature_name))
    return select(*(found[each.name] for each in ADOPTION.columns)).where(is_its).order_by(*order)


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
    given = {"since": period.since, "until": period.until, "tz": period.tz}
    try:
        GROUPS.check_history(request.connection, request.tables, given, has_months=request.has_months)
    except UsageInstrumentError as error:
        raise PageError.of(error) from None
    try:
        return by, GROUPS.select(request.users.people.groups[by], **given, tables=request.tables)
    except UsageInstrumentError as error:
        raise PageError.of(error, 500, "These groups are misconfigured") from None


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
