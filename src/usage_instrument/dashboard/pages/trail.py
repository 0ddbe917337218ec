"""The audit trail: accesses by user, actor, feature, outcome and days, as a page and as a file."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Any, get_args

import sqlalchemy as sa

from usage_instrument.audit import self_access
from usage_instrument.audit.query import accesses, metadata_of, person
from usage_instrument.database.inspection import audit_problem
from usage_instrument.database.spellings import Spellings
from usage_instrument.events import NAME_LENGTH
from usage_instrument.typing import Outcome, UserId

from ..errors import PageError, sentence
from ..html import address, render
from ..http import Response
from ..page_request import ROWS, PageRequest
from .table import MAX_FILE, csv_response

ANONYMOUS = "anonymous"
"""The user id of accesses without a known user."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_FIELDS = ("user", "actor", "feature", "outcome", "from", "to")
_FILE_COLUMNS = (
    "occurred_at", "user_id", "actor_id", "feature_name", "outcome", "request_id", "service", "metadata", "access_id",
    "chain_id", "number",
)  # fmt: skip


def page(request: PageRequest) -> tuple[str, dict[str, Any]]:
    """The page, and the details to record of this access to it. Raises PageError for a wrong search."""
    details, found = _search(request, request.number * ROWS + 1)
    fields = {name: request.parameters[name] for name in _FIELDS if request.parameters.get(name)}
    pages = request.pages(len(found), fields)
    shown = found[pages.first : pages.last]
    rows = [_shown(row) for row in shown]
    people = (row[name] for row in rows for name in ("user_id", "actor_id"))
    request.users.want(person for person in people if not str(person).startswith("forgotten:"))
    if pages.first:
        details["page"] = request.number
    text = render(
        "trail.html",
        request=request,
        fields=fields,
        outcomes=OUTCOMES,
        rows=rows,
        pages=pages,
        file=address("audit.csv", **fields),
    )
    return text, self_access.details(details, len(shown))


def file(request: PageRequest) -> tuple[Response, dict[str, Any]]:
    """The file, and the details to record. Raises PageError."""
    details, found = _search(request, MAX_FILE)
    rows = [[_shown(row)[name] for name in _FILE_COLUMNS] for row in found]
    response = csv_response("audit.csv", _FILE_COLUMNS, rows)
    return response, self_access.details({**details, "as": "csv"}, len(rows))


def _search(request: PageRequest, limit: int) -> tuple[dict[str, Any], list[sa.RowMapping]]:
    check_trail(request)
    details, filters = _filters(request)
    return details, request.rows(accesses(request.tables, limit=limit, **filters))


def check_trail(request: PageRequest) -> None:
    """Raise PageError if there is no trail."""
    problem = audit_problem(request.connection, request.tables)
    if problem is not None:
        raise PageError(503, "There is no audit trail here", sentence(problem))


def _filters(request: PageRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """The search as it is recorded, and as the query takes it."""
    details: dict[str, Any] = {}
    filters: dict[str, Any] = {}
    for name in ("user", "actor"):
        text = request.parameters.get(name, "").strip()
        if text:
            filters[name] = None if text.lower() == ANONYMOUS else _spelled(request, request.user_id(text))
            details[name] = ANONYMOUS if filters[name] is None else filters[name]
    feature = request.parameters.get("feature", "").strip()
    if feature:
        if len(feature) > NAME_LENGTH:
            raise PageError(400, "There is no such feature", f"A feature's name has at most {NAME_LENGTH} characters.")
        details["feature"] = filters["feature"] = feature
    outcome = request.parameters.get("outcome", "")
    if outcome:
        if outcome not in OUTCOMES:
            raise PageError(400, "There is no such outcome", f"An outcome is one of {', '.join(OUTCOMES)}.")
        details["outcome"] = filters["outcome"] = outcome
    first, last = (day_of(request, name) for name in ("from", "to"))
    if first is not None:
        details["from"], filters["since"] = first, dt.datetime.combine(first, dt.time())
    if last is not None:
        details["to"] = last
        if last < dt.date.max:
            filters["until"] = dt.datetime.combine(last + dt.timedelta(days=1), dt.time())
    return details, filters


def _spelled(request: PageRequest, user: UserId) -> UserId:
    """The user as the users table spells them: erasing them finds the searches for them by their id."""
    spellings = Spellings(request.tables)
    with contextlib.suppress(sa.exc.DBAPIError):  # this role may not read the users
        spellings.look_up(request.connection, [user])
    return spellings.of(user)


def day_of(request: PageRequest, name: str) -> dt.date | None:
    """The day in the address; None for none. Raises PageError."""
    text = request.parameters.get(name, "").strip()
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError:
        raise PageError(400, "This is no day", "Write a day as in 2026-01-31.") from None


def _shown(found: sa.RowMapping) -> dict[str, Any]:
    """A row for people: pseudonyms for erased users, metadata as values, or as text if it is no JSON."""
    row = {str(name): value for name, value in found.items()}
    return {**row, "user_id": person(row, "user"), "actor_id": person(row, "actor"), "metadata": metadata_of(row)}
