"""The page of a user: the features that this user used, and recommendations."""

from __future__ import annotations

import sqlalchemy as sa

from usage_instrument.queries.recommend import RECOMMEND
from usage_instrument.queries.user_features import USER_FEATURES

from ..errors import PageError
from ..html import render
from ..page_request import PageRequest
from ..results import result

_ROWS = 50


def user(request: PageRequest) -> str:
    """The page. Raises PageError for a user without uses."""
    user_id, usage = request.user, request.tables.usage
    (used,) = request.rows(
        sa.select(
            sa.func.count().label("features"),
            sa.func.sum(usage.c.usage_count).label("uses"),
            sa.func.max(usage.c.last_used).label("last_used"),
        ).where(usage.c.user_id == user_id)
    )
    if not used["features"]:
        raise PageError(
            404,
            "This user used nothing",
            f"No row of {usage.name} has the id “{user_id}”. Uses that are pending or were rejected have no row.",
        )
    request.users.want([user_id])
    return render(
        "user.html",
        request=request,
        user_id=user_id,
        url=request.users.people.url_of(user_id),
        used=used,
        features=result(USER_FEATURES, request, _ROWS),
        recommended=result(RECOMMEND, request),
    )
