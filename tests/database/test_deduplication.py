"""Merging rows with one key: nothing is lost, whatever the rows hold."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from conftest import Database
from usage_instrument.database.deduplication import count_duplicates, merge_duplicates
from usage_instrument.events import MAX_COUNT

OLD, NEW = dt.datetime(2026, 1, 1, 12), dt.datetime(2026, 2, 1, 12)


def by_hand(engine: sa.Engine) -> sa.Table:
    table = sa.Table(
        "feature_usage",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.BigInteger),
        sa.Column("feature_name", sa.String(100)),
        sa.Column("metadata", sa.JSON().with_variant(sa.dialects.postgresql.JSONB(), "postgresql")),
        sa.Column("usage_count", sa.Integer, server_default=sa.text("1")),
        sa.Column("last_used", sa.DateTime, nullable=False),
    )
    table.create(engine)
    return table


def test_counts_add_up_and_newer_keys_win(database: Database) -> None:
    engine = database.engine()
    table = by_hand(engine)
    rows = [
        (7, "search", 2, NEW, {"a": 2}),
        (7, "search", None, OLD, {"a": 1, "b": 1}),
        (7, "search", 3, OLD, None),
        (None, "search", MAX_COUNT, OLD, None),
        (None, "search", 1, NEW, {"n": 2**64 + 1} if database.name != "mariadb" else {"n": 1}),
        (7, "export", 1, OLD, None),
    ]
    names = ("user_id", "feature_name", "usage_count", "last_used", "metadata")
    with engine.begin() as connection:
        for row in rows:
            values = {name: value for name, value in zip(names, row, strict=True) if value is not None}
            connection.execute(table.insert().values({"usage_count": None, **values}))
        assert count_duplicates(connection, table, "integer") == 3
        assert merge_duplicates(connection) == 3
        assert count_duplicates(connection, table, "integer") == 0
        found = connection.execute(sa.select(table).order_by(table.c.id)).all()
    assert [tuple(row)[1:] for row in found] == [
        (7, "search", {"a": 2, "b": 1}, 5, NEW),
        (None, "search", rows[4][4], MAX_COUNT, NEW),
        (7, "export", None, 1, OLD),
    ]
