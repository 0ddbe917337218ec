"""The examples under real servers and real traffic: the table's total equals the answers that were a success."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import all_of, counts
from traffic import FASTAPI, FLASK, STARLETTE, gunicorn, serving, uvicorn
from usage_instrument.schema import define_tables


@pytest.mark.parametrize("name", ["postgresql", "mariadb", "sqlite"])
@pytest.mark.parametrize(
    "command",
    [
        gunicorn(FLASK, "--preload", "-w", "4"),
        uvicorn(STARLETTE, "--workers", "2"),
        uvicorn(FASTAPI, "--workers", "2"),
    ],
    ids=["gunicorn-flask", "uvicorn-starlette", "uvicorn-fastapi"],
)
def test_every_successful_answer_is_a_use(name: str, command: list[str], request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(name)
    environ = {"USAGE_INSTRUMENT_DATABASE_URL": database.url, "USAGE_INSTRUMENT_FLUSH_INTERVAL": "0.5"}
    with serving(command, environ) as server:
        expected = server.visits()
        said = server.stop()
    tables = define_tables(sa.MetaData(), users=None, user_id_type="string")
    engine = database.engine()
    assert counts(engine, tables) == expected, said
    assert all_of(engine, tables.writers) == [], "an unclean exit"
