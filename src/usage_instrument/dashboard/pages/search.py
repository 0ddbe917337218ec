"""The search: features by a part of their name, a user by the exact id."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ..html import render
from ..page_request import Visit, parsed

_FOUND = 100
_KNOWN = 5_000


def search(visit: Visit) -> str:
    """The page."""
    asked = visit.parameters.get("q", "").strip()
    features = [name for name in names_of(visit, asked, _FOUND + 1) if name] if asked else []
    return render(
        "search.html",
        visit=visit,
        asked=asked,
        features=features[:_FOUND],
        more=len(features) > _FOUND,
        user=_user(visit, asked),
    )


def names_of(visit: Visit, part: str = "", limit: int = _KNOWN) -> Sequence[str | None]:
    """Features that code or table knows and whose name contains that part, in whatever case."""
    tables = visit.tables
    either = sa.union(
        *(
            sa.select(column.label("name")).where(sa.func.lower(column).contains(part.lower(), autoescape=True))
            for column in (tables.usage.c.feature_name, tables.catalog.c.feature_name)
        )
    ).subquery()
    return visit.connection.scalars(sa.select(either.c.name).order_by(either.c.name).limit(limit)).all()


def _user(visit: Visit, asked: str) -> str | None:
    """The id, if somebody who used something has it."""
    user = parsed(asked, visit.tables) if asked else None
    if user is None:
        return None
    column = visit.tables.usage.c.user_id
    known = visit.connection.scalar(sa.select(sa.literal(1)).where(column == user).limit(1))
    return str(user) if known else None
