"""The examples under real servers and real traffic: the table's total equals the answers that were a success."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import all_of, counts
from traffic import FASTAPI, FLASK, STARLETTE, gunicorn, serving, uvicorn
from usage_instrument.schema import define_tables


@pytest.mark.parametrize(
    ("command", "name"),
    [
        pytest.param(gunicorn(FLASK, "--preload", "-w", "4"), "postgresql", id="gunicorn-flask-postgresql"),
        pytest.param(uvicorn(STARLETTE, "--workers", "2"), "sqlite", id="uvicorn-starlette-sqlite"),
        pytest.param(uvicorn(FASTAPI, "--workers", "2"), "mariadb", id="uvicorn-fastapi-mariadb"),
    ],
)
def test_every_successful_answer_is_a_use(command: list[str], name: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(name)
    environ = {"USAGE_INSTRUMENT_DATABASE_URL": database.url, "USAGE_INSTRUMENT_FLUSH_INTERVAL": "0.5"}
    with serving(command, environ) as server:
        expected = server.visits()
        said = server.stop()
    tables = define_tables(sa.MetaData(), users=None, user_id_type="string")
    engine = database.engine()
    assert counts(engine, tables) == expected, said
    assert all_of(engine, tables.writers) == [], "an unclean exit"
