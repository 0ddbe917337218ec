"""A small past to ask questions about."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from conftest import Database, UsersDatabase
from queries import clock
from queries.filled import Filled
from reading import made_beside_users
from usage_instrument.schema import Tables


@pytest.fixture(autouse=True)
def _start_the_clock() -> None:
    clock.start()


@dataclass(frozen=True)
class Past:
    """A filled database."""

    engine: sa.Engine
    tables: Tables
    users: sa.Table
    user_ids: list[UUID]

    def rows(self, query: sa.Select[*tuple[Any, ...]]) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(query))

    def ask(self, query: sa.Select[*tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.rows(query)]


@pytest.fixture
def past(users_database: UsersDatabase) -> Past:
    """Five users; `search` is used by three and by anonymous, `export` by two, `share` by one, long ago."""
    engine, ids = users_database.engine, users_database.user_ids
    tables = made_beside_users(engine)
    rows: list[tuple[UUID | None, str, int | None, int, Any]] = [
        (ids[0], "search", 3, 1, {"page": 1}),
        (ids[1], "search", 2, 2, None),
        (ids[2], "search", 1, 3, None),
        (None, "search", 10, 1, None),
        (ids[0], "export", 2**31 - 1, 6, {"format": "csv", "nested": [1, None]}),
        (ids[1], "export", 2**31 - 1, 8, None),
        (ids[0], "share", None, 30, None),
    ]
    with engine.begin() as connection:
        for user, feature, uses, days, extra in rows:
            connection.execute(
                tables.usage.insert().values(
                    user_id=user,
                    feature_name=feature,
                    usage_count=uses,
                    last_used=clock.now() - dt.timedelta(days=days),
                    metadata=extra,
                )
            )
    return Past(engine, tables, users_database.users, ids)


@pytest.fixture
def filled(database: Database) -> Iterator[Filled]:
    """A database to fill."""
    made = Filled(database)
    yield made
    made.connection.close()


@pytest.fixture
def small(sqlite: Database) -> Iterator[Filled]:
    """The quickest of them, for what test_oracle.py holds all of them to."""
    made = Filled(sqlite)
    yield made
    made.connection.close()
