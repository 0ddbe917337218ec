"""What stands out in the audit trail, by day, person and feature, as a page and as a file."""

from __future__ import annotations

import datetime as dt
from typing import Any

from usage_instrument.audit import self_access
from usage_instrument.audit.anomalies import Anomaly, Search, anomalies, office_hours
from usage_instrument.errors import ConfigurationError

from ..errors import PageError
from ..html import address, render
from ..http import Response
from ..page_request import PageRequest
from .table import MAX_FILE, csv_response
from .trail import check_trail, day_of

LONGEST = 28
"""Days that are searched at most: each is compared with the 8 weeks before it."""
ROWS = 200
"""Findings on the page; the file has more."""
_DAY = dt.timedelta(days=1)


def page(request: PageRequest) -> tuple[str, dict[str, Any]]:
    """The page, and the details to record of this access to it. Raises PageError for a wrong search."""
    search, fields, details, found = _search(request)
    shown = found[:ROWS]
    request.users.want(each.user_id for each in shown if each.user_id is not None)
    text = render(
        "trail_anomalies.html",
        request=request,
        fields=fields,
        found=shown,
        has_more=len(found) > ROWS,
        zone=str(search.tz if request.period.tz else "UTC"),
        file=address("audit-anomalies.csv", **fields),
    )
    return text, self_access.details(details, len(shown))


def file(request: PageRequest) -> tuple[Response, dict[str, Any]]:
    """The file, and the details to record. Raises PageError."""
    _, _, details, found = _search(request)
    rows = found[:MAX_FILE]
    response = csv_response("audit-anomalies.csv", Anomaly._fields, rows)
    return response, self_access.details({**details, "as": "csv"}, len(rows))


def _search(request: PageRequest) -> tuple[Search, dict[str, str], dict[str, Any], list[Anomaly]]:
    """The search, as the form shows it, and as it is recorded; and what is found."""
    check_trail(request)
    zone = request.period.tz or dt.UTC
    last = day_of(request, "to") or dt.datetime.now(zone).date()
    first = day_of(request, "from") or dt.date.fromordinal(max(last.toordinal() - 6, 1))
    if not 0 <= (last - first).days < LONGEST or last == dt.date.max or first.year < 1900:
        raise PageError(400, "These days cannot be searched", f"Choose {LONGEST} days at most, the first one first.")
    hours = request.parameters.get("hours") or "7-19"
    try:
        search = Search(first, last + _DAY, zone, *office_hours(hours))
    except ConfigurationError as error:
        raise PageError.of(error) from None
    fields = {"from": str(first), "to": str(last), "hours": hours}
    return search, fields, {"view": "anomalies", **fields}, anomalies(request.connection, request.tables, search)
