"""The tests' own databases are real, fresh and reachable by both kinds of driver."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from conftest import Database, UsersDatabase

REPOSITORY = Path(__file__).parent.parent


def test_ci_runs_what_scripts_test_leaves_out() -> None:
    if not (REPOSITORY / ".ci/run").exists():
        pytest.skip("the packages are without .ci/run")
    assert "-m 'not wide'" in (REPOSITORY / "scripts/test").read_text()
    assert "scripts/test --numprocesses 3 --dist worksteal -m wide\n" in (REPOSITORY / ".ci/run").read_text()


def test_a_database_answers(database: Database) -> None:
    with database.engine().connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1


def test_a_database_is_empty(database: Database) -> None:
    assert sa.inspect(database.engine()).get_table_names() == []


def test_an_async_driver_answers(database: Database) -> None:
    async def ask() -> object:
        engine = create_async_engine(database.async_url)
        async with engine.connect() as connection:
            answer = await connection.scalar(sa.text("SELECT 1"))
        await engine.dispose()
        return answer

    assert asyncio.run(ask()) == 1


def test_users_are_there(users_database: UsersDatabase) -> None:
    with users_database.engine.connect() as connection:
        found = connection.scalars(sa.select(users_database.users.c.id)).all()
    assert sorted(found) == users_database.user_ids
