"""Reading the trail is an access itself. Its row holds who read, and the search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, or_

from usage_instrument.typing import UserId

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

SELF_ACCESS = "usage_instrument.look"
"""The feature of such a row. It always has an actor, so that an index finds these few rows."""
_PERSONS = ("user", "actor")


def details(search: Mapping[str, object], rows: int) -> dict[str, object]:
    """The metadata of such a row: the search as text, and the number of rows shown."""
    return {**{name: str(value) for name, value in search.items()}, "rows": rows}


def searched_for(tables: Tables, user: UserId) -> ColumnElement[bool]:
    """Whether a row is a self-access that searched for this user."""
    access = tables.access
    mentioned = (
        # Metadata is written compact and in ASCII.
        access.c.metadata.contains(f"{json.dumps(part)}:{json.dumps(str(user))}", autoescape=True)
        for part in _PERSONS
    )
    return and_(access.c.actor_id.is_not(None), access.c.feature_name == SELF_ACCESS, or_(*mentioned))
