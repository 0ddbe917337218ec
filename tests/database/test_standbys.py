"""A query that a standby ends is asked again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import sqlalchemy as sa
import typer

from conftest import Database
from usage_instrument.cli.database import ask
from usage_instrument.dashboard.errors import PageError
from usage_instrument.dashboard.reader import Reader
from usage_instrument.database.standbys import ATTEMPTS
from usage_instrument.schema import Tables, create_all

CONFLICT = "DO $$ BEGIN RAISE EXCEPTION 'conflict with recovery' USING ERRCODE = '{code}'; END $$"


@pytest.mark.parametrize(("code", "ends", "attempts"), [("40001", 2, 3), ("40001", 3, ATTEMPTS), ("42501", 1, 1)])
def test_a_conflict_is_asked_again_and_no_other_error(
    code: str, ends: int, attempts: int, postgresql: Database
) -> None:
    create_all(postgresql.engine())
    done: list[int] = []

    def work(connection: sa.Connection, tables: Tables) -> str:
        done.append(1)
        if len(done) <= ends:
            connection.exec_driver_sql(CONFLICT.format(code=code))
        return "answer"

    reader = Reader(postgresql.url, None, None)
    ways: tuple[Callable[[], str], ...] = (partial(ask, postgresql.url, None, work), partial(reader.read, work))
    for way in ways:
        done.clear()
        if ends < attempts:
            assert way() == "answer"
        else:
            with pytest.raises((typer.Exit, PageError)):
                way()
        assert len(done) == attempts
