"""The questions run by all that runs a Select, with the answer that a Connection gets."""

from __future__ import annotations

import asyncio

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from queries.clock import now
from queries.filled import Filled, asked, near, rich
from queries.oracle import Answer


@pytest.fixture
def answers(filled: Filled) -> dict[str, Answer]:
    """Of a Connection, to rows that others see as well."""
    filled.fill(rich(now()))
    filled.connection.commit()
    found = {name: filled.ask(question) for name, question in asked(filled).items()}
    filled.connection.rollback()
    assert all(found.values())
    return {name: [tuple(map(near, row)) for row in rows] for name, rows in found.items()}


def test_a_session(filled: Filled, answers: dict[str, Answer]) -> None:
    with Session(filled.engine) as session:
        found = {name: session.execute(question).all() for name, question in asked(filled).items()}
    assert {name: [tuple(row) for row in rows] for name, rows in found.items()} == answers


def test_an_async_session(filled: Filled, answers: dict[str, Answer]) -> None:
    async def ask() -> dict[str, Answer]:
        engine = create_async_engine(filled.database.async_url)
        async with AsyncSession(engine) as session:
            found = {name: (await session.execute(question)).all() for name, question in asked(filled).items()}
        await engine.dispose()
        return {name: [tuple(row) for row in rows] for name, rows in found.items()}

    assert asyncio.run(ask()) == answers


def test_flask_sqlalchemy(filled: Filled, answers: dict[str, Answer]) -> None:
    app, db = Flask(__name__), SQLAlchemy()
    app.config["SQLALCHEMY_DATABASE_URI"] = filled.database.url
    db.init_app(app)
    with app.app_context():
        found = {name: db.session.execute(question).all() for name, question in asked(filled).items()}
        db.session.remove()
        db.engine.dispose()
    assert {name: [tuple(row) for row in rows] for name, rows in found.items()} == answers


def test_pandas(filled: Filled, answers: dict[str, Answer]) -> None:
    import pandas as pd  # takes a second

    for name, question in asked(filled).items():
        frame = pd.read_sql(question, filled.connection)
        assert [*frame.columns] == question.selected_columns.keys()
        rows = frame.astype(object).where(frame.notna(), None)
        assert [*rows.itertuples(index=False, name=None)] == answers[name]
    trend = pd.read_sql(asked(filled)["trend"], filled.connection)
    assert [str(kind) for kind in trend.dtypes[1:]] == ["int64"] * 3 + ["bool"]
    assert trend.dtypes["bucket_start"].kind == "M"


def test_polars(filled: Filled, answers: dict[str, Answer]) -> None:
    import polars as pl  # takes a second

    for name, question in asked(filled).items():
        frame = pl.read_database(question, filled.connection)
        assert frame.columns == question.selected_columns.keys()
        assert frame.rows() == answers[name]
