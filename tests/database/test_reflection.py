"""The tables as they are found: whatever the ids are, and wherever they refer to."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from conftest import Database, UsersDatabase
from reading import made, made_beside_users
from usage_instrument.database.reflection import find_tables, missing_tables
from usage_instrument.errors import SchemaError
from usage_instrument.schema import define_tables
from usage_instrument.typing import UserIdType


@pytest.mark.parametrize("kind", ["uuid", "integer", "string"])
def test_the_type_of_the_ids_is_found(database: Database, kind: UserIdType) -> None:
    engine = database.engine()
    made(engine, user_id_type=kind)
    with engine.connect() as connection:
        found = find_tables(connection)
    assert (found.user_id_type, found.users) == (kind, None)


def test_the_users_are_found(users_database: UsersDatabase) -> None:
    made_beside_users(users_database.engine)
    with users_database.engine.connect() as connection:
        found = find_tables(connection)
    assert found.user_id_type == "uuid"
    assert str(found.users).endswith("users.id")


def test_a_table_that_somebody_else_made(sqlite: Database) -> None:
    engine = sqlite.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE feature_usage (id INTEGER PRIMARY KEY, user_id UUID, feature_name VARCHAR(100), "
            "metadata JSONB, usage_count INT DEFAULT 1, last_used TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)"
        )
        found = find_tables(connection)
        assert found.user_id_type == "uuid"
        missing = ["feature_usage_writers", "feature_usage_history", "feature_usage_catalog", "feature_usage_losses"]
        assert missing_tables(connection, found) == missing


def test_another_schema(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA product")
        define_tables(sa.MetaData(), schema="product", users=None).usage.metadata.create_all(connection)
        assert find_tables(connection, "product").usage.fullname == "product.feature_usage"
        with pytest.raises(SchemaError, match="feature_usage: it is in the schema product: pass --schema"):
            find_tables(connection)
        with pytest.raises(SchemaError, match=r"there is no table elsewhere\.feature_usage"):
            find_tables(connection, "elsewhere")
