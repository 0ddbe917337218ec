"""The rows that queries select from: uses of a period, users, features with their status."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    MetaData,
    ScalarSelect,
    Subquery,
    Table,
    case,
    func,
    literal_column,
    null,
    select,
    union_all,
)
from sqlalchemy.exc import NoReferencedTableError

from usage_instrument.database.expressions import Ago, Later
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError

from .arguments import rows_of
from .numbers import ONE, ZERO, total
from .windows import Window, counted_in, pairs_in

DORMANT = dt.timedelta(days=90)
"""A feature without use for so long is dormant."""
RETIRED = 30
"""Days. A feature is retired if each service that declared it has run for longer without declaring it."""


def counts_in(tables: Tables, window: Window, feature: str | None = None, name: str = "counts") -> FromClause:
    """`user_id`, `feature_name`, `usage_count` of a window, one row per user and feature. Raises ConfigurationError."""
    source, period = counted_in(tables, window)
    rows = [*rows_of(source.c.feature_name, feature), *period]
    if source is tables.usage and not rows:
        return source
    key = (source.c.user_id, source.c.feature_name)
    if source is tables.usage:
        return select(*key, source.c.usage_count).where(*rows).cte(name)
    uses = func.sum(source.c.usage_count).label("usage_count")
    return select(*key, uses).where(*rows).group_by(*key).cte(name)


def users_and_features(tables: Tables, window: Window) -> FromClause:
    """`user_id`, `feature_name` of a window, one row per user and feature. Raises ConfigurationError."""
    source, rows = pairs_in(tables, window)
    if source is not tables.usage:
        return counts_in(tables, window)
    if not rows:
        return source
    used = select(source.c.user_id, source.c.feature_name).where(*rows).cte("used")
    return used.prefix_with("NOT MATERIALIZED", dialect="postgresql")  # workers share the scan of a table, not of a CTE


# ---- users


def population(tables: Tables) -> ScalarSelect[int]:
    """The number of users: rows of the users table, or without one all users that ever used anything."""
    users = users_column(tables)
    return seen(tables.usage) if users is None else select(func.count()).select_from(users.table).scalar_subquery()


def of_population(tables: Tables, counts: FromClause) -> tuple[FromClause, ColumnElement[Any]]:
    """The rows to select from, and a column that is NULL where their user is anonymous, or no longer in the users
    table: without a foreign key that the database enforces, the rows of a deleted user stay."""
    users = users_column(tables)
    if users is None:
        return counts, counts.c.user_id
    return counts.outerjoin(users.table, users == counts.c.user_id), users


def seen(counts: FromClause) -> ScalarSelect[int]:
    """The number of users in these counts."""
    user = counts.c.user_id
    users = select(user).where(user.is_not(None)).distinct().subquery("seen")
    return select(func.count()).select_from(users).scalar_subquery()


def once(column: ColumnElement[Any], name: str) -> Any:
    """The column of a subquery with the distinct values of a column that has no others.

    PostgreSQL knows nothing about the values of a CTE, and expects many rows for each row of a join with it: it sorts
    all rows of the other side. Where it knows that each value is there once, it hashes the few rows of this side.
    """
    return select(column).group_by(column).subquery(name).c[str(column.key)]


def began_before(
    tables: Tables, asked: Window, start: ColumnElement[Any], user: ColumnElement[Any], feature: str | None
) -> ColumnElement[bool]:
    """Whether a user has used the feature, or anything, before `start`, a local time.

    The index of the users finds one earlier row: to find the first use of each user is to read the whole history.
    """
    earlier = asked.history(tables, None).alias("earlier")
    rows = rows_of(earlier.c.feature_name, feature)
    return select(ONE).where(earlier.c.user_id == user, earlier.c.bucket_start < start, *rows).exists()


def users_column(tables: Tables) -> Column[Any] | None:
    """The column that `user_id` refers to, only by name if the MetaData does not have it."""
    for key in tables.usage.c.user_id.foreign_keys:
        try:
            return key.column
        except NoReferencedTableError:
            *schema, name, id_ = key.target_fullname.split(".")
            return Table(name, MetaData(), Column(id_), schema=".".join(schema) or None).c[id_]
    return None


# ---- columns of the host


def host_column(given: Any, tables: Tables, argument: str, example: str) -> Any:
    """A column of the host's users table: itself, an attribute of its model, or its name. Raises ConfigurationError."""
    if isinstance(given, str):
        return _named(given, tables, argument, example)
    clause = getattr(given, "__clause_element__", None)
    column = given if clause is None else clause()
    if not isinstance(column, ColumnElement) or not isinstance(getattr(column, "table", None), FromClause):
        raise ConfigurationError(
            f"{argument} is a column of the users table or an attribute of its model, not {given!r}"
        )
    return column


def _named(given: str, tables: Tables, argument: str, example: str) -> Column[Any]:
    """The column of the users table that is named so, with its table or without."""
    known = users_column(tables)
    if known is None:
        raise ConfigurationError(
            f"{argument}={given!r} is a column of the users table, and these tables refer to none: "
            f"pass a column such as User.{example}, or create them with users="
        )
    users: Any = known.table
    place, _, name = given.rpartition(".")
    if not name or place not in ("", users.name, users.fullname):
        raise ConfigurationError(
            f"{argument} is a column of {users.fullname}, such as '{users.name}.{example}', not {given!r}"
        )
    if name in users.c:
        found: Column[Any] = users.c[name]
        return found
    # A table that is known by the foreign key alone has one column.
    return Table(users.name, MetaData(), Column(known.name), Column(name), schema=users.schema).c[name]


def host_key(usage: Table, users: Any) -> Any:
    """The column to join with `user_id`: the one it refers to, if in this table, else the primary key."""
    for key in usage.c.user_id.foreign_keys:
        place, _, name = key.target_fullname.rpartition(".")
        if place == getattr(users, "fullname", None):
            return users.c[name]
    keys = [column for column in users.c if isinstance(column, Column) and column.primary_key]
    if len(keys) != 1:
        raise ConfigurationError(f"{users} has no primary key of one column to join with user_id")
    return keys[0]


# ---- features


def known_features(tables: Tables) -> Subquery:
    """A row per declared or used feature.

    `feature_name`, `users`, `uses`, `last_used` (None without use), `declared_at` (None without declaration),
    `description`, `retired` (1 or 0).
    """
    usage, catalog = tables.usage, tables.catalog
    source, user = of_population(tables, usage)
    used = select(
        usage.c.feature_name,
        func.count(user).label("users"),
        func.sum(usage.c.usage_count).label("uses"),
        func.max(usage.c.last_used).label("last_used"),
        null().label("declared_at"),
        null().label("description"),
        null().label("retired"),
    )
    used = used.select_from(source).group_by(usage.c.feature_name)
    services = (
        select(catalog.c.service, func.max(catalog.c.last_declared_at).label("until"))
        .group_by(catalog.c.service)
        .subquery("services")
    )
    retired = services.c.until > Later("day", catalog.c.last_declared_at, literal_column(str(RETIRED)))
    declared = (
        select(
            catalog.c.feature_name,
            null(),
            null(),
            null(),
            func.min(catalog.c.declared_at),
            func.max(catalog.c.description),
            func.min(case((retired, ONE), else_=ZERO)),
        )
        .join(services, services.c.service == catalog.c.service)
        .group_by(catalog.c.feature_name)
    )
    both = union_all(used, declared).subquery("both_sides")
    times = {name: func.max(both.c[name], type_=tables.usage.c.last_used.type) for name in ("last_used", "declared_at")}
    return (
        select(
            both.c.feature_name,
            total(both.c.users).label("users"),
            total(both.c.uses).label("uses"),
            times["last_used"].label("last_used"),
            times["declared_at"].label("declared_at"),
            func.max(both.c.description, type_=catalog.c.description.type).label("description"),
            total(both.c.retired).label("retired"),
        )
        .group_by(both.c.feature_name)
        .subquery("features")
    )


def status(features: Any, *others: tuple[ColumnElement[bool], str], otherwise: str = "used") -> ColumnElement[str]:
    """`retired` or `never` from the catalogue, else the first of `others` whose condition holds, else `otherwise`.

    The default: `dormant` after 90 days without use, else `used`.
    """
    known = [(features.c.retired == ONE, "retired"), (features.c.last_used.is_(None), "never")]
    others = others or ((features.c.last_used < Ago(DORMANT), "dormant"),)
    return case(*((condition, _text(name)) for condition, name in (*known, *others)), else_=_text(otherwise))


def _text(name: str) -> ColumnElement[str]:
    return literal_column(f"'{name}'")
