"""What `check` says about live tables that are not as they should be: one line each, the fix in it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from conftest import Database, UsersDatabase
from reading import made, made_beside_users
from usage_instrument import Settings, Tracker
from usage_instrument.database.inspection import Problem, check
from usage_instrument.database.tables import UNIQUE_USAGE
from usage_instrument.database.users_column import UsersColumn, live_users_column
from usage_instrument.schema import create_all, define_tables


def problems(engine: sa.Engine, **options: object) -> list[Problem]:
    with engine.connect() as connection:
        found = check(connection, define_tables(sa.MetaData(), **options))  # type: ignore[arg-type]
    assert all("\n" not in problem.message for problem in found)
    return found


def run(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_finds_nothing_in_new_tables(users_database: UsersDatabase) -> None:
    made_beside_users(users_database.engine)
    assert problems(users_database.engine) == []


def test_asks_postgresql_once_for_a_kind_of_detail_of_all_tables(postgresql: Database) -> None:
    """Every process that starts asks this of a server that may be far away: it was a question for each table."""
    engine = postgresql.engine()
    tables, asked = made(engine), 0

    def count(*_: object) -> None:
        nonlocal asked
        asked += 1

    with engine.connect() as connection:
        sa.event.listen(connection, "before_cursor_execute", count)
        assert check(connection, tables) == []
    assert asked < 2 * len(list(tables))


def test_names_every_missing_table(database: Database) -> None:
    found = problems(database.engine())
    assert len(found) == 12
    assert [problem.message for problem in found if not problem.blocks_writing] == [
        "table feature_usage_access does not exist: run `usage-instrument db create`",
        "table feature_usage_trail does not exist: run `usage-instrument db create`",
        "table feature_usage_exposures does not exist: run `usage-instrument db create`",
        "table feature_usage_dimensions does not exist: run `usage-instrument db create`",
        "table feature_usage_outbox does not exist: run `usage-instrument db create`",
        "table feature_usage_alerts does not exist: run `usage-instrument db create`",
    ]
    assert found[0].message == "table feature_usage does not exist: run `usage-instrument db create`"


def test_names_a_missing_column(database: Database) -> None:
    engine = database.engine()
    made(engine)
    run(engine, "ALTER TABLE feature_usage DROP COLUMN metadata")
    (found,) = problems(engine)
    assert found.message == "table feature_usage has no column metadata: run `usage-instrument db upgrade`"


def test_names_a_missing_index(database: Database) -> None:
    engine = database.engine()
    made(engine)
    run(engine, f"DROP INDEX {UNIQUE_USAGE}" + (" ON feature_usage" if database.name == "mariadb" else ""))
    (found,) = problems(engine)
    assert found.blocks_writing
    assert found.message == (
        f"table feature_usage has no unique index {UNIQUE_USAGE}: run `usage-instrument db upgrade`"
    )


@pytest.mark.parametrize(("kind", "asked"), [("uuid", "integer"), ("integer", "uuid"), ("string", "integer")])
def test_names_a_user_id_of_another_type(database: Database, kind: str, asked: str) -> None:
    engine = database.engine()
    made(engine, user_id_type=kind)
    found = problems(engine, user_id_type=asked)
    assert [problem.blocks_writing for problem in found] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]  # counts go on without them
    assert f"and user_id_type is '{asked}': set user_id_type to" in found[0].message


def test_knows_text_from_uuids_on_postgresql(postgresql: Database) -> None:
    engine = postgresql.engine()
    made(engine, user_id_type="string")
    assert len(problems(engine, user_id_type="uuid")) == 6


@pytest.mark.parametrize("action", ["SET NULL", "NO ACTION", "RESTRICT"])
def test_flags_a_foreign_key_that_does_not_cascade(postgresql: Database, action: str) -> None:
    engine = postgresql.engine()
    run(engine, "CREATE TABLE users (id uuid PRIMARY KEY)")
    made(engine, users=None)
    run(
        engine,
        f"ALTER TABLE feature_usage ADD FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE {action}",
    )
    (found,) = problems(engine)
    assert not found.blocks_writing
    assert f"is ON DELETE {action}" in found.message
    assert found.message.endswith("run `usage-instrument db upgrade`")


def test_puts_what_stops_the_writer_first(postgresql: Database) -> None:
    engine = postgresql.engine()
    run(engine, "CREATE TABLE users (id uuid PRIMARY KEY)")
    made(engine, users=None)
    run(
        engine,
        "ALTER TABLE feature_usage ADD FOREIGN KEY (user_id) REFERENCES users (id)",
        "DROP INDEX uq_feature_usage_history_user_feature_bucket",
    )
    assert [problem.blocks_writing for problem in problems(engine)] == [True, False]


def test_tells_what_the_live_table_refers_to(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    tables = made_beside_users(engine)
    with engine.connect() as connection:
        assert live_users_column(connection, tables.usage) == UsersColumn(None, "users", "id")


def test_tells_that_it_refers_to_nothing(database: Database) -> None:
    engine = database.engine()
    tables = made(engine)
    with engine.connect() as connection:
        assert live_users_column(connection, tables.usage) is None


def test_ids_as_short_as_those_of_the_users_table_are_fine(database: Database) -> None:
    """The writer does not know the users table, and expects text of any length."""
    with database.engine().begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id VARCHAR(36) PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO users VALUES ('ada')")
        assert create_all(connection, user_id_type="string").users == "users.id"
        assert check(connection, define_tables(sa.MetaData(), users=None, user_id_type="string")) == []
    tracker = Tracker(database.url, Settings(user_id_type="string", audit_timeout=30))
    with tracker.as_user("ada", actor="ada"):
        tracker.track("search", audit="required")
        tracker.track("search", audit=True)
    assert tracker.shutdown(30), tracker.stats()
    assert tracker.stats().audited == 2
