"""How many people use each feature?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, Select, Table, distinct, func, select

from usage_instrument.errors import ConfigurationError
from usage_instrument.schema import Tables

from .defaults import default_tables, total


def adoption(*, by: Any = None, tables: Tables | None = None) -> Select[Any]:
    """Users and uses by feature, the most widely used first: `feature_name`, `unique_users`, `uses`.

    The anonymous user is no user here, but the uses count. `by=User.plan`, any column of the host's users table or
    model, splits each feature by its value, in a column of its name after `feature_name`; anonymous uses have None
    there. Raises ConfigurationError for a `by` that is no such column.
    """
    usage = (tables or default_tables()).usage
    users = func.count(distinct(usage.c.user_id)).label("unique_users")
    uses = total(usage.c.usage_count).label("uses")
    groups: list[ColumnElement[Any]] = [usage.c.feature_name]
    source: FromClause = usage
    if by is not None:
        column = _column(by)
        id_ = _id(usage, column.table)
        source = usage.outerjoin(column.table, id_ == usage.c.user_id)
        groups.append(column.label(column.name))
    columns = [*groups, users, uses]
    return select(*columns).select_from(source).group_by(*groups).order_by(users.desc(), uses.desc(), *groups)


def _column(by: Any) -> Any:
    clause = getattr(by, "__clause_element__", None)
    column = by if clause is None else clause()
    if not isinstance(column, ColumnElement) or not isinstance(getattr(column, "table", None), FromClause):
        raise ConfigurationError(f"by is a column of the users table or an attribute of its model, not {by!r}")
    return column


def _id(usage: Table, users: Any) -> Any:
    """What `user_id` is compared with: what it refers to, if that is this table, else the primary key."""
    for key in usage.c.user_id.foreign_keys:
        place, _, name = key.target_fullname.rpartition(".")
        if place == getattr(users, "fullname", None):
            return users.c[name]
    keys = [column for column in users.c if isinstance(column, Column) and column.primary_key]
    if len(keys) != 1:
        raise ConfigurationError(f"{users} has no primary key of one column, so it is not known whose row a row is")
    return keys[0]
