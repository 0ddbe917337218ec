"""How many users there are: what a share is a share of."""

from __future__ import annotations

from sqlalchemy import FromClause, ScalarSelect, func, select, table
from sqlalchemy.exc import NoReferencedTableError

from usage_instrument.database.tables import Tables


def population(tables: Tables) -> ScalarSelect[int]:
    """The rows of the host's users table where the tables know it, else all users that ever used anything."""
    users = users_table(tables)
    return seen(tables) if users is None else select(func.count()).select_from(users).scalar_subquery()


def seen(tables: Tables) -> ScalarSelect[int]:
    """All users that ever used anything."""
    user = tables.usage.c.user_id
    users = select(user).where(user.is_not(None)).distinct().subquery("seen")
    return select(func.count()).select_from(users).scalar_subquery()


def users_table(tables: Tables) -> FromClause | None:
    """What `user_id` refers to; by its name alone, where the MetaData does not have it."""
    for key in tables.usage.c.user_id.foreign_keys:
        try:
            return key.column.table
        except NoReferencedTableError:
            *schema, name, _ = key.target_fullname.split(".")
            return table(name, schema=".".join(schema) or None)
    return None
