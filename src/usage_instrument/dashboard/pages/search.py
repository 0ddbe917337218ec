"""The search: features by a part of their name, a user by the exact id."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ..html import render
from ..page_request import PageRequest, parsed

_FOUND = 100
_KNOWN = 5_000


def search(request: PageRequest) -> str:
    """The page."""
    asked = request.parameters.get("q", "").strip()
    features = [name for name in names_of(request, asked, _FOUND + 1) if name] if asked else []
    return render(
        "search.html",
        request=request,
        asked=asked,
        features=features[:_FOUND],
        has_more=len(features) > _FOUND,
        user=_user(request, asked),
    )


def names_of(request: PageRequest, part: str = "", limit: int = _KNOWN) -> Sequence[str | None]:
    """Features that code or table knows and whose name contains this part, in any case."""
    tables = request.tables
    either = sa.union(
        *(
            sa.select(column.label("name")).where(sa.func.lower(column).contains(part.lower(), autoescape=True))
            for column in (tables.usage.c.feature_name, tables.catalog.c.feature_name)
        )
    ).subquery()
    found = request.connection.scalars(sa.select(either.c.name).order_by(either.c.name).limit(limit)).all()
    displayed = [name for name, text in request.display_names.items() if part and part.lower() in text.lower()]
    return [*displayed, *(name for name in found if name not in displayed)][:limit]


def _user(request: PageRequest, asked: str) -> str | None:
    """The text as a user id, if that user used something."""
    user = parsed(asked, request.tables) if asked else None
    if user is None:
        return None
    column = request.tables.usage.c.user_id
    known = request.connection.scalar(sa.select(sa.literal(1)).where(column == user).limit(1))
    return str(user) if known else None
