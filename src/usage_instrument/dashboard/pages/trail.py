"""The audit trail: who accessed what, searched by user, actor, feature, outcome and days; as a page and as a file."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, get_args

import sqlalchemy as sa

from usage_instrument.audit import self_access
from usage_instrument.audit.query import accesses, person
from usage_instrument.database.inspection import audit_problem
from usage_instrument.events import NAME_LENGTH
from usage_instrument.typing import Outcome

from .. import csv
from ..errors import Problem
from ..html import address, render
from ..http import Response
from ..page_request import Visit
from ..results import MOST
from .table import MOST_IN_FILE

ANONYMOUS = "anonymous"
"""Instead of an id: nobody known."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_FIELDS = ("user", "actor", "feature", "outcome", "from", "to")
_IN_FILE = (
    "occurred_at", "user_id", "actor_id", "feature_name", "outcome", "request_id", "service", "metadata", "access_id",
    "chain_id", "number",
)  # fmt: skip


def page(visit: Visit) -> tuple[str, dict[str, Any]]:
    """The page, and what is to be recorded of this look at it. Raises Problem for what cannot be asked."""
    asked, found = _found(visit, MOST + 1)
    shown = found[:MOST]
    said = {name: visit.parameters[name] for name in _FIELDS if visit.parameters.get(name)}
    text = render(
        "trail.html",
        visit=visit,
        said=said,
        outcomes=OUTCOMES,
        rows=[_told(row) for row in shown],
        is_more=len(found) > MOST,
        most=MOST,
        file=address("audit.csv", **said),
    )
    return text, self_access.details(asked, len(shown))


def file(visit: Visit) -> tuple[Response, dict[str, Any]]:
    """The file, and what is to be recorded. Raises Problem."""
    asked, found = _found(visit, MOST_IN_FILE)
    rows = [[_told(row)[name] for name in _IN_FILE] for row in found]
    response = Response(
        200,
        csv.written(_IN_FILE, rows),
        csv.CONTENT_TYPE,
        (("Content-Disposition", 'attachment; filename="audit.csv"'),),
    )
    return response, self_access.details({**asked, "as": "csv"}, len(rows))


def _found(visit: Visit, limit: int) -> tuple[dict[str, Any], list[sa.RowMapping]]:
    problem = audit_problem(visit.connection, visit.tables)
    if problem is not None:
        raise Problem(503, "There is no audit trail here", f"{problem[:1].upper()}{problem[1:]}.")
    asked, filters = _asked(visit)
    return asked, visit.rows(accesses(visit.tables, limit=limit, **filters))


def _asked(visit: Visit) -> tuple[dict[str, Any], dict[str, Any]]:
    """The search as it is recorded, and as the question takes it."""
    asked: dict[str, Any] = {}
    filters: dict[str, Any] = {}
    for name in ("user", "actor"):
        said = visit.parameters.get(name, "").strip()
        if said:
            filters[name] = None if said.lower() == ANONYMOUS else visit.person(said)
            asked[name] = ANONYMOUS if filters[name] is None else filters[name]
    feature = visit.parameters.get("feature", "").strip()
    if feature:
        if len(feature) > NAME_LENGTH:
            raise Problem(400, "There is no such feature", f"A feature's name has at most {NAME_LENGTH} characters.")
        asked["feature"] = filters["feature"] = feature
    outcome = visit.parameters.get("outcome", "")
    if outcome:
        if outcome not in OUTCOMES:
            raise Problem(400, "There is no such outcome", f"An outcome is one of {', '.join(OUTCOMES)}.")
        asked["outcome"] = filters["outcome"] = outcome
    first, last = (_day(visit, name) for name in ("from", "to"))
    if first is not None:
        asked["from"], filters["since"] = first, dt.datetime.combine(first, dt.time())
    if last is not None:
        asked["to"] = last
        if last < dt.date.max:
            filters["until"] = dt.datetime.combine(last + dt.timedelta(days=1), dt.time())
    return asked, filters


def _day(visit: Visit, name: str) -> dt.date | None:
    said = visit.parameters.get(name, "").strip()
    try:
        return dt.date.fromisoformat(said) if said else None
    except ValueError:
        raise Problem(400, "This is no day", "A day is written as in 2026-01-31.") from None


def _told(found: sa.RowMapping) -> dict[str, Any]:
    """A row as it is shown: pseudonyms for who was forgotten, the metadata as values."""
    row = {str(name): value for name, value in found.items()}
    metadata = row["metadata"]
    return {
        **row,
        "user_id": person(row, "user"),
        "actor_id": person(row, "actor"),
        "metadata": None if metadata is None else json.loads(metadata),
    }
