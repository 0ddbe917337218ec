"""The search: features by a part of their name, users by the exact id, and by their names if the host finds them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from usage_instrument.typing import UserId

from ..html import render
from ..page_request import PageRequest, parsed

_FOUND = 100
_KNOWN = 5_000


def search(request: PageRequest) -> str:
    """The page."""
    asked = request.parameters.get("q", "").strip()
    features = [name for name in names_of(request, asked, _FOUND + 1) if name] if asked else []
    users = _users(request, asked) if asked else []
    request.users.want(users)
    return render(
        "search.html",
        request=request,
        asked=asked,
        features=features[:_FOUND],
        has_more=len(features) > _FOUND,
        users=users,
        by_name=request.users.people.has_search,
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


def _users(request: PageRequest, asked: str) -> list[UserId]:
    """The user with this id, and those that the host finds by this text, if they used something."""
    texts = [asked, *map(str, request.users.people.found(asked))]
    users = list(dict.fromkeys(user for text in texts if (user := parsed(text, request.tables)) is not None))
    column = request.tables.usage.c.user_id
    known = set(request.connection.scalars(sa.select(column).where(column.in_(users)).distinct())) if users else set()
    return [user for user in users if user in known]
