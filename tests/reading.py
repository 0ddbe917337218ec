"""What the tests look at: the tables, read by an engine of the test's own."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from usage_instrument.database.schema import default_tables
from usage_instrument.schema import Tables, create_all, define_tables
from usage_instrument.stats import Stats

SQLALCHEMY = tuple(map(int, sa.__version__.split(".")[:2]))
NATIVE_UUID = SQLALCHEMY >= (2, 1)
"""Whether SQLAlchemy's Uuid is the type UUID of MariaDB; it is CHAR(32) in 2.0."""


def total(engine: sa.Engine, tables: Tables, feature: str | None = None) -> int:
    """The uses in `feature_usage`."""
    usage = tables.usage
    query = sa.select(sa.func.coalesce(sa.func.sum(usage.c.usage_count), 0))
    if feature is not None:
        query = query.where(usage.c.feature_name == feature)
    with engine.connect() as connection:
        return int(connection.scalar(query) or 0)


def counts(engine: sa.Engine, tables: Tables) -> dict[tuple[str, Any], int]:
    """`usage_count` by feature and user."""
    usage = tables.usage
    with engine.connect() as connection:
        found = connection.execute(sa.select(usage.c.feature_name, usage.c.user_id, usage.c.usage_count)).all()
    assert len({row[:2] for row in found}) == len(found), "a key stands twice"
    return {(row[0], row[1]): row[2] for row in found}


def all_of(engine: sa.Engine, table: sa.Table) -> list[sa.Row[Any]]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table)).all())


def made(engine: sa.Engine, **options: Any) -> Tables:
    """The tables, created. An empty database gets them as an earlier one did, without a look at what is there: a copied
    file of SQLite, and elsewhere the same statements. That takes a tenth of the time. A database with other tables gets
    them by the statements too, if it has no `users` or is not asked for them.
    """
    given, kind = options, (engine.dialect.name, engine.dialect.driver)
    if options.get("users", "") is None:
        options = {name: value for name, value in options.items() if name != "users"}
    may_repeat = "options" not in engine.url.query  # Citus takes one statement at a time
    if not options.keys() <= {"user_id_type"} or kind not in _NAMES or not may_repeat:
        return create_all(engine, **given).tables
    if kind[0] == "sqlite":
        file = Path(engine.url.database or "")
        if not file.is_file():
            return create_all(engine, **given).tables
        if not file.stat().st_size:
            file.write_bytes(_sqlite_file(**options))
            return default_tables(None, **options)
    with engine.begin() as connection:
        names = connection.exec_driver_sql(_NAMES[kind]).scalars().all()
        if any(name.startswith("feature_usage") or (name == "users" and options is given) for name in names):
            return create_all(connection, **given).tables
        _repeat(connection, (kind[0], *options.values()), given)
    return default_tables(None, **options)


def made_beside_users(engine: sa.Engine) -> Tables:
    """The tables, created in a database that has the `users` of conftest.with_users alone: by the statements of an
    earlier test."""
    with engine.begin() as connection:
        _repeat(connection, (engine.dialect.name, "beside users"), {})
    return define_tables(sa.MetaData(), users="users.id")


def _repeat(connection: sa.Connection, key: tuple[str, ...], options: dict[str, Any]) -> None:
    """Create the tables, and the next time by the same statements."""
    if key not in _statements:
        with _recorded(connection) as statements:
            create_all(connection, **options)
        _statements[key] = statements
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(";".join(_statements[key]))
    else:
        for statement in _statements[key]:
            connection.exec_driver_sql(statement)


_NAMES = {
    ("sqlite", "pysqlite"): "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')",
    ("postgresql", "psycopg"): "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace",
    ("mariadb", "pymysql"): "SHOW TABLES",
    ("mysql", "pymysql"): "SHOW TABLES",  # MariaDB's name in SQLAlchemy 2.0
}
"""Finds the tables."""
_statements: dict[tuple[str, ...], list[str]] = {}


@contextlib.contextmanager
def _recorded(connection: sa.Connection) -> Iterator[list[str]]:
    """The statements that change something."""
    statements = []

    def record(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.lstrip().startswith(("SELECT", "DESCRIBE", "SHOW", "PRAGMA")):
            statements.append(statement)

    sa.event.listen(connection, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        sa.event.remove(connection, "before_cursor_execute", record)


@functools.cache
def _sqlite_file(**options: Any) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        engine = sa.create_engine(f"sqlite:///{directory}/usage.db")
        create_all(engine, **options)
        engine.dispose()
        return Path(directory, "usage.db").read_bytes()


def balanced(stats: Stats) -> bool:
    """Whether no use is unaccounted for."""
    return stats.captured + stats.recovered == stats.written + stats.pending + stats.dropped + stats.rejected
