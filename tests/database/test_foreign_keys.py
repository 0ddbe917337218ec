"""The foreign key of live tables: what `db upgrade` does about it."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from conftest import Database, UsersDatabase
from reading import made, made_beside_users
from usage_instrument.database.foreign_keys import foreign_key_change
from usage_instrument.database.reflection import find_tables
from usage_instrument.database.schema import create_all, reflected_options


def test_a_foreign_key_that_cascades_stays(users_database: UsersDatabase) -> None:
    tables = made_beside_users(users_database.engine)
    with users_database.engine.connect() as connection:
        assert foreign_key_change(connection, tables, tables.usage).sentence is None


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_a_foreign_key_without_on_update_is_replaced(name: str, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(name).engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id INT PRIMARY KEY)")
    bare = create_all(engine, users=None, user_id_type="integer").tables
    with engine.begin() as connection:
        if name == "mariadb":
            connection.exec_driver_sql("ALTER TABLE feature_usage MODIFY user_id INT")
        connection.exec_driver_sql(
            "ALTER TABLE feature_usage ADD CONSTRAINT old FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE"
        )
        change = foreign_key_change(connection, bare, bare.usage)
        assert change.sentence == (
            "Make the foreign key of feature_usage.user_id ON DELETE CASCADE ON UPDATE CASCADE; "
            "now it is ON DELETE CASCADE ON UPDATE NO ACTION."
        )
        change.make(connection)
    with engine.begin() as connection:
        assert foreign_key_change(connection, bare, bare.usage).sentence is None
        connection.exec_driver_sql("INSERT INTO users VALUES (1)")
        connection.execute(bare.usage.insert().values(user_id=1, feature_name="search"))
        connection.exec_driver_sql("UPDATE users SET id = 2")
        assert connection.scalars(sa.select(bare.usage.c.user_id)).all() == [2]


def test_rows_of_unknown_users_are_an_obstacle(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    bare = made(engine, users=None)
    with engine.begin() as connection:
        connection.execute(bare.usage.insert().values(user_id=uuid.UUID(int=99), feature_name="a"))
    with engine.connect() as connection:
        tables = find_tables(connection)
        assert foreign_key_change(connection, tables, tables.usage).note is None, "nothing refers to users"
        wanted = reflected_options(connection, schema=None, users="auto", user_id_type="uuid").tables
        note = foreign_key_change(connection, wanted, wanted.usage).note
    assert note is not None
    assert "1 of its rows are of users that users.id does not hold" in note


def test_a_column_that_is_too_short_for_the_users_ids_gets_no_foreign_key(sqlite: Database) -> None:
    with sqlite.engine().begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id VARCHAR(64) PRIMARY KEY)")
        connection.exec_driver_sql("CREATE TABLE feature_usage (id INTEGER PRIMARY KEY, user_id VARCHAR(36))")
        wanted = reflected_options(connection, schema=None, users="users.id", user_id_type="string").tables
        note = foreign_key_change(connection, wanted, wanted.usage).note
    assert note is not None
    assert "it is VARCHAR(36), and users.id is VARCHAR(64)" in note


def test_an_id_that_changes_takes_its_counts_along(users_database: UsersDatabase) -> None:
    engine, users = users_database.engine, users_database.users
    tables = made_beside_users(engine)
    old, new = users_database.user_ids[0], type(users_database.user_ids[0])(int=2**90)
    with engine.begin() as connection:
        connection.execute(tables.usage.insert().values(user_id=old, feature_name="search", usage_count=3))
        connection.execute(users.update().where(users.c.id == old).values(id=new))
        assert connection.execute(sa.select(tables.usage.c.user_id, tables.usage.c.usage_count)).all() == [(new, 3)]


def test_ids_outgrow_int_on_postgresql(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id INT PRIMARY KEY)")
    tables = create_all(engine, user_id_type="integer").tables
    big = 2**40
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE users ALTER COLUMN id TYPE BIGINT")
        connection.exec_driver_sql(f"INSERT INTO users VALUES ({big})")
        connection.execute(tables.usage.insert().values(user_id=big, feature_name="search"))
        assert connection.scalars(sa.select(tables.usage.c.user_id)).all() == [big]
