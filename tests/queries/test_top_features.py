"""Which features are used most?"""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from conftest import Database
from queries.conftest import Past
from usage_instrument.errors import ConfigurationError
from usage_instrument.queries import top_features
from usage_instrument.schema import create_all


def test_adds_up_all_users(past: Past) -> None:
    answer = past.ask(top_features())
    assert answer == [("export", 2**32 - 2), ("search", 16), ("share", 0)]
    assert all(type(uses) is int for _, uses in answer)
    assert past.ask(top_features(2)) == answer[:2]


def test_names_its_columns(past: Past) -> None:
    with Session(past.engine) as session:
        row = session.execute(top_features(1)).one()
    assert (row.feature_name, row.total_usage) == ("export", 2**32 - 2)


def test_says_the_same_as_the_specifications_query(past: Past) -> None:
    with past.engine.connect() as connection:
        verbatim = connection.exec_driver_sql(
            "SELECT feature_name, SUM(usage_count) AS total_usage FROM feature_usage WHERE feature_name <> 'share' "
            "GROUP BY feature_name ORDER BY total_usage DESC LIMIT 5"
        ).all()
    assert past.ask(top_features())[:2] == [tuple(row) for row in verbatim]


def test_asks_tables_in_a_schema(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA analytics")
    tables = create_all(engine, schema="analytics").tables
    with engine.begin() as connection:
        connection.execute(tables.usage.insert().values(feature_name="search"))
        row = connection.execute(top_features(tables=tables)).one()
        assert (row.feature_name, row.total_usage) == ("search", 1)


def test_can_be_built_on(past: Past) -> None:
    query = top_features(100).subquery()
    assert past.ask(sa.select(sa.func.count()).select_from(query)) == [(3,)]


@pytest.mark.parametrize("limit", [0, -1, "5", True, None])
def test_refuses_other_limits(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match="limit is a whole number"):
        top_features(limit)
