"""Views over the tables, for readers who only have SQL. Times are UTC."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine, Select, case, func, inspect, literal_column, select, union_all

from .database import dialects
from .database.expressions import Ago, Day, StartOf
from .database.ledger import is_process
from .database.reflection import find_tables, missing_tables
from .database.tables import Tables
from .errors import ConfigurationError, SchemaError
from .queries import active_users
from .queries.numbers import ONE, ZERO, share, total, whole
from .queries.printed import defined
from .queries.sources import known_features, population, status
from .queries.windows import MONTH, WEEK, calendar, window

__all__ = ["create_views", "drop_views"]

SILENT = dt.timedelta(minutes=10)
"""A writer without a heartbeat for so long is silent."""


class View(NamedTuple):
    """A view with the comments of its columns."""

    name: str
    comment: str
    make: Callable[[Tables], Select[*tuple[Any, ...]]]
    columns: dict[str, str]
    """The comment of each column, in order."""


def create_views(bind: Engine | Connection, *, tables: Tables | None = None) -> list[str]:
    """Create the views in the schema of the tables (default: those of the database) and return their names.

    Existing views are replaced and keep their grants. On PostgreSQL and SQLite it happens in one transaction, the
    caller's if the Connection is in one. For an AsyncEngine: `async with engine.begin() as connection: await
    connection.run_sync(create_views)`. Raises SchemaError if there are no tables, ConfigurationError for another
    `bind`.
    """
    return _within(bind, tables, _create)


def drop_views(bind: Engine | Connection, *, tables: Tables | None = None) -> list[str]:
    """Drop the existing views and return their names. Raises as create_views does."""
    return _within(bind, tables, _drop)


def existing_views(connection: Connection, tables: Tables) -> list[str]:
    """The names, without a schema, of the views that exist beside the tables."""
    names = inspect(connection).get_view_names(schema=tables.usage.schema)
    return [view.name for view in VIEWS if view.name in names]


def _within(
    bind: Engine | Connection, tables: Tables | None, work: Callable[[Connection, Tables], list[str]]
) -> list[str]:
    if isinstance(bind, Engine):
        with bind.connect() as connection:
            return _within(connection, tables, work)
    if not isinstance(bind, Connection):
        raise ConfigurationError(
            f"views are created on an Engine or a Connection, not {type(bind).__name__}; with an AsyncEngine: "
            "async with engine.begin() as connection: await connection.run_sync(create_views)"
        )
    if bind.in_transaction():
        return work(bind, tables or find_tables(bind))
    with dialects.get(bind.dialect.name).schema_change(bind, ()) as connection:
        return work(connection, tables or find_tables(connection))


def _create(connection: Connection, tables: Tables) -> list[str]:
    missing = missing_tables(connection, tables)
    if missing:
        raise SchemaError(f"there is no table {missing[0]}: run `usage-instrument db create`")
    there = existing_views(connection, tables)
    made = []
    for view in VIEWS:
        name = _name(connection, tables, view)
        definition = f"{name} ({', '.join(view.columns)}) AS\n{defined(view.make(tables), connection.dialect)}"
        if connection.dialect.name == "sqlite":
            if view.name in there:
                connection.exec_driver_sql(f"DROP VIEW {name}")
            _run(connection, f"CREATE VIEW {definition}")
        else:
            _run(connection, f"CREATE OR REPLACE VIEW {definition}")
        if connection.dialect.supports_comments and connection.dialect.name == "postgresql":
            _run(connection, f"COMMENT ON VIEW {name} IS {_quoted(view.comment)}")
            for column, meaning in view.columns.items():
                _run(connection, f"COMMENT ON COLUMN {name}.{column} IS {_quoted(meaning)}")
        made.append(name)
    return made


def _drop(connection: Connection, tables: Tables) -> list[str]:
    there = existing_views(connection, tables)
    dropped = [_name(connection, tables, view) for view in VIEWS if view.name in there]
    for name in dropped:
        connection.exec_driver_sql(f"DROP VIEW {name}")
    return dropped


def _name(connection: Connection, tables: Tables, view: View) -> str:
    schema = tables.usage.schema
    quoted = f"{connection.dialect.identifier_preparer.quote_schema(schema)}." if schema else ""
    return f"{quoted}{view.name}"


def _run(connection: Connection, statement: str) -> None:
    # Some drivers parse percent signs even without parameters.
    doubled = connection.dialect.paramstyle in {"format", "pyformat"}
    connection.exec_driver_sql(statement.replace("%", "%%") if doubled else statement)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# ---- the statements


def _overview(tables: Tables) -> Select[*tuple[Any, ...]]:
    features, history = known_features(tables), tables.history
    recent = (
        select(history.c.feature_name, func.sum(history.c.usage_count).label("uses"))
        .where(*window(MONTH).contains(history.c.bucket_start))
        .group_by(history.c.feature_name)
        .subquery("recent")
    )
    users = features.c.users
    return (
        select(
            features.c.feature_name,
            status(features).label("status"),
            users,
            features.c.uses,
            whole(recent.c.uses).label("uses_28d"),
            features.c.last_used,
            share(users, population(tables)).label("share"),
            features.c.declared_at,
            features.c.description,
        )
        .outerjoin(recent, recent.c.feature_name == features.c.feature_name)
        .where(features.c.feature_name.is_not(None))
    )


def _daily(tables: Tables) -> Select[*tuple[Any, ...]]:
    history = tables.history
    day = StartOf("day", history.c.bucket_start).label("bucket_start")
    named = history.c.feature_name.is_not(None)
    uses = func.sum(history.c.usage_count).label("uses")
    by_user = (
        select(day, history.c.feature_name, history.c.user_id, uses)
        .where(named)
        .group_by(day, history.c.feature_name, history.c.user_id)
        .subquery("by_user")
    )
    anonymous = case((by_user.c.user_id.is_(None), by_user.c.uses))
    used = (
        select(
            by_user.c.bucket_start,
            by_user.c.feature_name,
            func.sum(by_user.c.uses).label("uses"),
            func.count(by_user.c.user_id).label("users"),
            func.sum(anonymous).label("anonymous_uses"),
        )
        .group_by(by_user.c.bucket_start, by_user.c.feature_name)
        .subquery("used")
    )
    first = StartOf("day", func.min(history.c.bucket_start))
    firsts = (
        select(history.c.feature_name, first.label("first_day"))
        .where(named)
        .group_by(history.c.feature_name)
        .subquery("firsts")
    )
    days = calendar("day", select(first).where(named).scalar_subquery())
    same = (used.c.bucket_start == days.c.bucket_start) & (used.c.feature_name == firsts.c.feature_name)
    return select(
        Day(days.c.bucket_start).label("day"),
        firsts.c.feature_name,
        whole(used.c.uses).label("uses"),
        whole(used.c.users).label("users"),
        whole(used.c.anonymous_uses).label("anonymous_uses"),
    ).select_from(firsts.join(days, days.c.bucket_start >= firsts.c.first_day).outerjoin(used, same))


def _users(tables: Tables) -> Select[*tuple[Any, ...]]:
    usage, history = tables.usage, tables.history
    nothing: ColumnElement[Any] = literal_column("NULL")
    counted = select(
        usage.c.user_id,
        usage.c.feature_name,
        usage.c.usage_count.label("uses"),
        ZERO.label("active_days"),
        usage.c.last_used.label("first_used"),
        usage.c.last_used.label("last_used"),
    )
    days = select(
        history.c.user_id,
        history.c.feature_name,
        nothing,
        func.count(StartOf("day", history.c.bucket_start).distinct()),
        func.min(history.c.bucket_start),
        nothing,
    ).group_by(history.c.user_id, history.c.feature_name)
    both = union_all(counted, days).subquery("both_sides")
    return select(
        both.c.user_id,
        both.c.feature_name,
        total(both.c.uses).label("uses"),
        total(both.c.active_days).label("active_days"),
        func.min(both.c.first_used).label("first_used"),
        func.max(both.c.last_used).label("last_used"),
    ).group_by(both.c.user_id, both.c.feature_name)


def _quality(tables: Tables) -> Select[*tuple[Any, ...]]:
    usage, writers, losses = tables.usage, tables.writers, tables.losses
    silent = writers.c.heartbeat_at < Ago(SILENT)
    # A writer that exits cleanly deletes its row, so its last sign is in `last_used`.
    beat = select(func.max(writers.c.heartbeat_at).label("sign")).where(is_process(writers))
    signs = union_all(beat, select(func.max(usage.c.last_used)))
    return select(
        select(func.max(signs.subquery("signs").c.sign)).scalar_subquery().label("as_of"),
        select(total(losses.c.uses)).where(losses.c.day > Day(Ago(WEEK))).scalar_subquery().label("losses_7d"),
        select(total(case((silent, ZERO), else_=ONE))).where(is_process(writers)).scalar_subquery().label("writers"),
        select(total(case((silent, ONE), else_=ZERO)))
        .where(is_process(writers))
        .scalar_subquery()
        .label("silent_writers"),
    )


def _active(tables: Tables) -> Select[*tuple[Any, ...]]:
    return active_users(tables=tables)


_FEATURE = "The feature, as the code names it"
VIEWS = (
    View(
        "feature_usage_overview",
        "Every feature that is declared or was used, with its status",
        _overview,
        {
            "feature_name": _FEATURE,
            "status": "used; dormant: no use in 90 days; never: declared and never used; retired: no longer declared",
            "users": "Users of all time, without those who are gone",
            "uses": "Uses of all time, anonymous ones included",
            "uses_28d": "Uses of 28 days, today included",
            "last_used": "The most recent use, UTC",
            "share": "Users as a share of all users, 0 to 1",
            "declared_at": "When code first declared it, UTC",
            "description": "Its description, by its author",
        },
    ),
    View(
        "feature_usage_daily",
        "Uses by day and feature, from its first use to today, days without uses included",
        _daily,
        {
            "day": "The day, UTC",
            "feature_name": _FEATURE,
            "uses": "Uses, anonymous ones included",
            "users": "Users",
            "anonymous_uses": "Anonymous uses",
        },
    ),
    View(
        "feature_usage_active",
        "Active users as of today",
        _active,
        {
            "day": "Today, UTC",
            "dau": "Users of today",
            "wau": "Users of 7 days, today included",
            "mau": "Users of 28 days, today included",
            "stickiness": "The mean of the 28 daily numbers of users over mau, 0 to 1",
        },
    ),
    View(
        "feature_usage_users",
        "Uses, active days, first and last use by user and feature; made to be joined",
        _users,
        {
            "user_id": "The user; NULL is anonymous",
            "feature_name": _FEATURE,
            "uses": "Uses of all time",
            "active_days": "Days with uses, in the history",
            "first_used": "The first use in the history, to its hour or day, UTC",
            "last_used": "The most recent use, UTC",
        },
    ),
    View(
        "feature_usage_quality",
        "Completeness of the numbers: losses and silent writers",
        _quality,
        {
            "as_of": "The last heartbeat or use, UTC",
            "losses_7d": "Uses lost in 7 days; feature_usage_losses has the reasons",
            "writers": "Processes with a heartbeat within ten minutes",
            "silent_writers": "Processes without a heartbeat for ten minutes that did not exit cleanly",
        },
    ),
)
"""All views."""
