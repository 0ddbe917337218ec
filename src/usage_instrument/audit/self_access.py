"""A look at the trail, which is an access itself: its row tells who looked, and for whom."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, or_

from usage_instrument.typing import UserId

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

LOOK = "usage_instrument.look"
"""The feature that a look is an access to. Its row always has an actor, who is the user unless somebody acts as them:
so the few such rows are found by an index."""
PERSONS = ("user", "actor")
"""What of a look's metadata is somebody's id."""


def details(asked: Mapping[str, object], rows: int) -> dict[str, object]:
    """A look's metadata: what was asked for, the ids as text, and how many rows were shown."""
    return {**{name: str(value) for name, value in asked.items()}, "rows": rows}


def names(tables: Tables, user: UserId) -> ColumnElement[bool]:
    """Whether a row is a look for this user."""
    access = tables.access
    mentioned = (
        # As metadata is written: compact, and in ASCII.
        access.c.metadata.contains(f"{json.dumps(part)}:{json.dumps(str(user))}", autoescape=True)
        for part in PERSONS
    )
    return and_(access.c.actor_id.is_not(None), access.c.feature_name == LOOK, or_(*mentioned))
