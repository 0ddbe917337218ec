"""The tables in real databases: what they are made of, what they hold and what they refuse."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import subprocess
import sys
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from conftest import Database, UsersDatabase
from reading import NATIVE_UUID
from usage_instrument.database.inspection import check
from usage_instrument.errors import ConfigurationError
from usage_instrument.schema import Tables, create_all, define_tables
from usage_instrument.tracker import Tracker
from usage_instrument.upgrade import upgrade

NAMES = {
    "feature_usage",
    "feature_usage_writers",
    "feature_usage_history",
    "feature_usage_catalog",
    "feature_usage_losses",
    "feature_usage_access",
    "feature_usage_suppressions",
    "feature_usage_outbox",
    "feature_usage_alerts",
    "feature_usage_trail",
    "feature_usage_exposures",
    "feature_usage_dimensions",
}


def foreign_keys(engine: sa.Engine, table: str = "feature_usage", schema: str | None = None) -> list[Any]:
    return [
        (key["referred_schema"], key["referred_table"], key["referred_columns"], key["options"].get("ondelete"))
        for key in sa.inspect(engine).get_foreign_keys(table, schema=schema)
    ]


def add(engine: sa.Engine, tables: Tables, user: Any, feature: str | None = "search") -> None:
    with engine.begin() as connection:
        connection.execute(tables.usage.insert().values(user_id=user, feature_name=feature))


def test_makes_its_tables_and_only_once(database: Database) -> None:
    engine = database.engine()
    created = create_all(engine)
    assert set(created.made) == NAMES
    assert set(sa.inspect(engine).get_table_names()) >= NAMES
    again = create_all(engine)
    assert again.made == ()


def test_is_to_the_letter_on_postgresql(postgresql: Database) -> None:
    engine = postgresql.engine()
    create_all(engine)
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT column_name, data_type, character_maximum_length, is_nullable, column_default "
                "FROM information_schema.columns WHERE table_name = 'feature_usage' ORDER BY ordinal_position"
            )
        ).all()
        owned = connection.scalar(sa.text("SELECT pg_get_serial_sequence('feature_usage', 'id')"))
    assert [tuple(row) for row in rows] == [
        ("id", "integer", None, "NO", "nextval('feature_usage_id_seq'::regclass)"),
        ("user_id", "uuid", None, "YES", None),
        ("feature_name", "character varying", 100, "YES", None),
        ("metadata", "jsonb", None, "YES", None),
        ("usage_count", "integer", None, "YES", "1"),
        ("last_used", "timestamp without time zone", None, "NO", "CURRENT_TIMESTAMP"),
    ]
    assert owned == "public.feature_usage_id_seq"


def test_keeps_room_for_updates_in_place_on_postgresql(postgresql: Database) -> None:
    engine = postgresql.engine()
    create_all(engine)
    with engine.connect() as connection:
        filled = sa.text("SELECT relname FROM pg_class WHERE reloptions = ARRAY['fillfactor=85'] AND relkind = 'r'")
        roomy = connection.scalars(filled).all()
        indexed = connection.scalars(sa.text("SELECT indexdef FROM pg_indexes WHERE tablename = 'feature_usage'")).all()
    assert sorted(roomy) == [
        "feature_usage", "feature_usage_dimensions", "feature_usage_exposures", "feature_usage_history"
    ]  # fmt: skip
    assert not [definition for definition in indexed if "last_used" in definition or "usage_count" in definition]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_explains_itself_in_comments(kind: str, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(kind).engine()
    created = create_all(engine)
    inspector = sa.inspect(engine)
    for table in created.tables:
        assert inspector.get_table_comment(table.name)["text"], table.name
        bare = {column["name"] for column in inspector.get_columns(table.name) if not column["comment"]}
        assert bare <= {"id", "user_key", "feature_key"}, table.name


def test_takes_the_nearest_types_elsewhere(mariadb: Database, sqlite: Database) -> None:
    types = {}
    for database in (mariadb, sqlite):
        engine = database.engine()
        create_all(engine)
        columns = sa.inspect(engine).get_columns("feature_usage")
        types[database.name] = {column["name"]: str(column["type"].compile(engine.dialect)) for column in columns}
    assert types["sqlite"] == {
        "id": "INTEGER",
        "user_id": "CHAR(32)",
        "feature_name": "VARCHAR(100)",
        "metadata": "JSON",
        "usage_count": "INTEGER",
        "last_used": "DATETIME",
    }
    theirs = types["mariadb"]
    assert theirs["user_id"] == ("UUID" if NATIVE_UUID else "CHAR(32)")
    assert "utf8mb4_bin" in theirs["feature_name"]
    assert theirs["last_used"] == "DATETIME(6)"


def test_holds_one_row_a_user_and_feature_nulls_included(users_database: UsersDatabase) -> None:
    engine, user = users_database.engine, users_database.user_ids[0]
    tables = create_all(engine).tables
    keys: list[tuple[Any, str | None]] = [(user, "search"), (None, "search"), (user, None), (None, None)]
    for key in keys:
        add(engine, tables, *key)
    for key in keys:
        with pytest.raises(sa.exc.IntegrityError):
            add(engine, tables, *key)
    add(engine, tables, None, "Search")  # another feature, on every database
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.usage)) == 5


def test_holds_one_row_a_bucket_too(database: Database) -> None:
    engine = database.engine()
    tables = create_all(engine).tables
    row: dict[str, Any] = {"user_id": None, "feature_name": "search", "bucket_start": dt.datetime(2026, 1, 1)}
    other = {**row, "bucket_start": dt.datetime(2026, 1, 2)}
    for values in (row, other):
        with engine.begin() as connection:
            connection.execute(tables.history.insert().values(values))
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(tables.history.insert().values(row))


def test_deletes_a_users_counts_with_the_user_and_leaves_the_anonymous(users_database: UsersDatabase) -> None:
    engine, users = users_database.engine, users_database.users
    tables = create_all(engine).tables
    add(engine, tables, None)
    for user in users_database.user_ids[:2]:
        add(engine, tables, user)
        with engine.begin() as connection:
            connection.execute(users.delete().where(users.c.id == user))
    with engine.connect() as connection:
        assert connection.execute(sa.select(tables.usage.c.user_id)).all() == [(None,)]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (sa.Uuid(), "uuid"),
        (sa.Integer(), "integer"),
        (sa.BigInteger(), "integer"),
        (sa.String(36), "string"),
    ],
    ids=["uuid", "int", "bigint", "string"],
)
def test_refers_to_users_of_every_type(database: Database, column: Any, kind: Any) -> None:
    engine = database.engine()
    users = sa.Table("users", sa.MetaData(), sa.Column("id", column, primary_key=True, autoincrement=False))
    users.metadata.create_all(engine)
    created = create_all(engine, user_id_type=kind)
    assert created.users == "users.id"
    for table in ("feature_usage", "feature_usage_history"):
        assert foreign_keys(engine, table) == [(None, "users", ["id"], "CASCADE")]
    known, unknown = {
        "uuid": (uuid.UUID(int=7), uuid.UUID(int=8)),
        "integer": (7, 8),
        "string": ("seven", "eight"),
    }[kind]
    with engine.begin() as connection:
        connection.execute(users.insert().values(id=known))
    add(engine, created.tables, known)
    with pytest.raises(sa.exc.IntegrityError):
        add(engine, created.tables, unknown)
    with pytest.raises(sa.exc.IntegrityError):
        add(engine, created.tables, known)


def test_matches_the_character_set_of_the_users_table(mariadb: Database) -> None:
    engine = mariadb.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE users (id VARCHAR(40) PRIMARY KEY) CHARACTER SET latin1 COLLATE latin1_swedish_ci"
        )
    created = create_all(engine, user_id_type="string")
    assert foreign_keys(engine) == [(None, "users", ["id"], "CASCADE")]
    add(engine, created.tables, None)


def test_makes_no_foreign_key_where_the_type_does_not_fit(database: Database) -> None:
    engine = database.engine()
    sa.Table("users", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True)).metadata.create_all(engine)
    created = create_all(engine)
    assert (created.users, foreign_keys(engine)) == (None, [])
    assert "users.id is INTEGER" in created.why


def test_makes_no_foreign_key_on_uuids_kept_another_way(sqlite: Database) -> None:
    engine = sqlite.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id VARCHAR(36) PRIMARY KEY)")  # with hyphens
    assert create_all(engine).users is None


@pytest.mark.skipif(NATIVE_UUID, reason="SQLAlchemy 2.1 knows the type")
def test_refers_to_no_native_uuids_of_mariadb_where_sqlalchemy_does_not_know_them(mariadb: Database) -> None:
    engine = mariadb.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id UUID PRIMARY KEY)")
    created = create_all(engine)
    assert created.tables.users is None
    assert "needs SQLAlchemy 2.1" in created.why


def test_says_what_it_refers_to(users_database: UsersDatabase, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="usage_instrument"):
        create_all(users_database.engine)
    assert "user_id refers to users.id, which this database has" in caplog.messages


def test_takes_what_it_is_told_to_refer_to(users_database: UsersDatabase) -> None:
    engine, users = users_database.engine, users_database.users
    for told in (users, users.c.id, "users.id"):
        created = create_all(engine, users=told)
        assert (created.users, foreign_keys(engine)) == ("users.id", [(None, "users", ["id"], "CASCADE")])
        with engine.begin() as connection:
            created.tables.usage.metadata.drop_all(connection, tables=list(created.tables))
    created = create_all(engine, users=None)
    assert (created.users, foreign_keys(engine)) == (None, [])


def test_refers_to_a_table_of_another_name(database: Database) -> None:
    engine = database.engine()
    people = sa.Table("people", sa.MetaData(), sa.Column("key", sa.BigInteger, primary_key=True))
    people.metadata.create_all(engine)
    create_all(engine, users="people.key", user_id_type="integer")
    assert foreign_keys(engine) == [(None, "people", ["key"], "CASCADE")]


@pytest.mark.parametrize("users", ["users", "nobody.id", "users.nothing", 7])
def test_refuses_users_that_are_not_there(users_database: UsersDatabase, users: object) -> None:
    with pytest.raises(ConfigurationError):
        create_all(users_database.engine, users=users)
    assert "feature_usage" not in sa.inspect(users_database.engine).get_table_names()


def test_refuses_users_of_another_type(users_database: UsersDatabase) -> None:
    with pytest.raises(ConfigurationError, match="user_id_type is 'integer'"):
        create_all(users_database.engine, users="users.id", user_id_type="integer")


def test_lives_in_a_schema_of_postgresql(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA analytics")
        connection.exec_driver_sql("CREATE TABLE users (id uuid PRIMARY KEY)")
    created = create_all(engine, schema="analytics")
    assert set(sa.inspect(engine).get_table_names("analytics")) == NAMES
    assert foreign_keys(engine, schema="analytics") == [(None, "users", ["id"], "CASCADE")]
    with engine.connect() as connection:
        owned = connection.scalar(sa.text("SELECT pg_get_serial_sequence('analytics.feature_usage', 'id')"))
    assert owned == "analytics.feature_usage_id_seq"
    add(engine, created.tables, None)
    with pytest.raises(sa.exc.IntegrityError):
        add(engine, created.tables, None)


def test_prefers_the_users_of_its_own_schema(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA analytics")
        connection.exec_driver_sql("CREATE TABLE users (id uuid PRIMARY KEY)")
        connection.exec_driver_sql("CREATE TABLE analytics.users (id uuid PRIMARY KEY)")
    assert create_all(engine, schema="analytics").users == "analytics.users.id"


def test_lives_in_another_database_of_mariadb(mariadb: Database) -> None:
    engine = mariadb.engine()
    other = f"{engine.url.database}_other"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {other}")
        connection.exec_driver_sql("CREATE TABLE users (id BIGINT PRIMARY KEY)")
    try:
        created = create_all(engine, schema=other, user_id_type="integer")
        assert set(sa.inspect(engine).get_table_names(other)) >= NAMES
        assert created.users == f"{engine.url.database}.users.id"
        add(engine, created.tables, None)
        with pytest.raises(sa.exc.IntegrityError):
            add(engine, created.tables, None)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {other}")


def test_lives_in_an_attached_file_of_sqlite(sqlite: Database, tmp_path: Any) -> None:
    engine = sqlite.engine()
    sa.Table("users", sa.MetaData(), sa.Column("id", sa.Uuid, primary_key=True)).metadata.create_all(engine)
    engine.dispose()
    sa.event.listen(engine, "connect", lambda raw, _: raw.execute(f"ATTACH '{tmp_path / 'analytics.db'}' AS analytics"))
    created = create_all(engine, schema="analytics")
    assert set(sa.inspect(engine).get_table_names("analytics")) == NAMES
    assert created.users is None  # a foreign key cannot leave its file
    add(engine, created.tables, None)
    with pytest.raises(sa.exc.IntegrityError):
        add(engine, created.tables, None)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_is_created_through_an_async_engine(kind: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(kind)

    async def main() -> set[str]:
        engine = create_async_engine(database.async_url)
        async with engine.begin() as connection:
            created = await connection.run_sync(create_all)
        with pytest.raises(ConfigurationError, match="run_sync"):
            create_all(engine)  # type: ignore[arg-type]
        await engine.dispose()
        return set(created.made)

    assert asyncio.run(main()) == NAMES


def test_serves_the_specifications_own_statements(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id uuid PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO users SELECT gen_random_uuid() FROM generate_series(1, 3)")
        create_all(connection)
        one, two, three = connection.exec_driver_sql("SELECT id FROM users ORDER BY id").scalars()
        for user, feature in [(one, "calendar_follow_event"), (two, "calendar_follow_event"), (three, "export")]:
            connection.exec_driver_sql(
                "INSERT INTO feature_usage (user_id, feature_name, metadata) "
                f"VALUES ('{user}', '{feature}', '{{\"event_id\": 7}}')"
            )
        connection.exec_driver_sql(f"UPDATE feature_usage SET usage_count = 9 WHERE user_id = '{three}'")
        connection.exec_driver_sql(
            "INSERT INTO feature_usage (user_id, feature_name, last_used) "
            f"VALUES ('{one}', 'export', CURRENT_DATE - INTERVAL '8 days')"
        )
        top = connection.exec_driver_sql(
            "SELECT feature_name, SUM(usage_count) AS total_usage FROM feature_usage "
            "GROUP BY feature_name ORDER BY total_usage DESC LIMIT 5"
        ).all()
        mine = connection.exec_driver_sql(
            "SELECT feature_name, usage_count, last_used FROM feature_usage "
            f"WHERE user_id = '{one}' AND last_used >= CURRENT_DATE - INTERVAL '7 days'"
        ).all()
        adoption = connection.exec_driver_sql(
            "SELECT feature_name, COUNT(DISTINCT user_id) AS unique_users FROM feature_usage GROUP BY feature_name"
        ).all()
    assert [tuple(row) for row in top] == [("export", 10), ("calendar_follow_event", 2)]
    assert [(row[0], row[1]) for row in mine] == [("calendar_follow_event", 1)]
    assert {tuple(row) for row in adoption} == {("export", 2), ("calendar_follow_event", 2)}


# ---- define_tables


def test_defines_once_a_metadata_and_schema() -> None:
    metadata = sa.MetaData()
    tables = define_tables(metadata)
    assert define_tables(metadata) is tables
    assert Tables.of(metadata.tables["feature_usage"]) is tables
    assert define_tables(metadata, schema="other") is not tables


@pytest.mark.parametrize("users", ["auto", "users.id"])
def test_refers_to_users_of_the_metadata(users: str) -> None:
    metadata = sa.MetaData()
    host = sa.Table("users", metadata, sa.Column("id", sa.Uuid, primary_key=True))
    tables = define_tables(metadata, users=users)
    assert tables.users == "users.id"
    (key,) = tables.usage.c.user_id.foreign_keys
    assert (key.column, key.ondelete) == (host.c.id, "CASCADE")


def test_refers_to_users_that_are_defined_later() -> None:
    metadata = sa.MetaData()
    tables = define_tables(metadata, users="accounts.id")
    accounts = sa.Table("accounts", metadata, sa.Column("id", sa.Uuid, primary_key=True))
    (key,) = tables.history.c.user_id.foreign_keys
    assert key.column is accounts.c.id


def test_finds_no_users_in_an_empty_metadata() -> None:
    assert define_tables(sa.MetaData()).users is None


def test_refuses_a_table_without_one_key() -> None:
    metadata = sa.MetaData()
    pairs = sa.Table(
        "pairs", metadata, sa.Column("a", sa.Uuid, primary_key=True), sa.Column("b", sa.Uuid, primary_key=True)
    )
    with pytest.raises(ConfigurationError, match="pass the column"):
        define_tables(metadata, users=pairs)


def test_tables_of_something_else() -> None:
    with pytest.raises(ConfigurationError, match="neither a model"):
        Tables.of(sa.Table("other", sa.MetaData()))


def test_leaves_the_orm_and_the_dialects_drivers_alone() -> None:
    code = "import sys, usage_instrument.schema; sys.exit('sqlalchemy.orm' in sys.modules or 'psycopg' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- what hosts demand of tables


def test_every_table_has_a_primary_key(database: Database) -> None:
    engine = database.engine()
    tables = create_all(engine).tables
    inspector = sa.inspect(engine)
    assert [t.name for t in tables if not inspector.get_pk_constraint(t.name)["constrained_columns"]] == []


def test_a_publication_for_all_tables_does_not_stop_the_flush(postgresql: Database) -> None:
    with postgresql.engine().begin() as connection:
        create_all(connection)
        connection.exec_driver_sql("CREATE PUBLICATION everything FOR ALL TABLES")
    tracker = Tracker(postgresql.url)
    for _ in range(2):  # an INSERT, then an UPDATE
        tracker.track("search")
        assert tracker.flush(10)
    assert tracker.stats().written == 2
    tracker.shutdown(10)


def test_managed_servers_that_force_primary_keys(mariadb: Database) -> None:
    engine = mariadb.engine()
    with engine.connect() as connection:
        connection.exec_driver_sql("SET GLOBAL innodb_force_primary_key = ON")
        try:
            assert set(create_all(engine).made) == NAMES
        finally:
            connection.exec_driver_sql("SET GLOBAL innodb_force_primary_key = OFF")


@pytest.mark.parametrize("charset", ["latin1", "utf8mb3"])
def test_the_character_set_of_the_database_does_not_matter(mariadb: Database, charset: str) -> None:
    engine = mariadb.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE CHARACTER SET {charset}")
    tables = create_all(engine, user_id_type="string").tables
    with engine.connect() as connection:
        assert check(connection, tables) == []
        collations = connection.execute(
            sa.text(
                "SELECT DISTINCT collation_name FROM information_schema.columns "
                "WHERE table_schema = DATABASE() AND collation_name IS NOT NULL AND data_type <> 'char'"  # UUIDs
            )
        ).scalars()
        assert set(collations) == {"utf8mb4_bin", "utf8mb4_nopad_bin"}


def test_names_a_character_set_that_differs_and_changes_it(mariadb: Database) -> None:
    engine = mariadb.engine()
    tables = create_all(engine, user_id_type="string").tables
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE feature_usage_writers MODIFY service VARCHAR(100) CHARACTER SET latin1")
        connection.exec_driver_sql(
            "ALTER TABLE feature_usage MODIFY user_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
        )
    with engine.connect() as connection:
        latin1, caseless, binary, bytewise = (
            f"CHARACTER SET {collation.partition('_')[0]} COLLATE {collation}"
            for collation in ("latin1_swedish_ci", "utf8mb4_general_ci", "utf8mb4_bin", "utf8mb4_nopad_bin")
        )
        found = [(each.blocks_writing, each.message.partition(": run")[0]) for each in check(connection, tables)]
        assert found == [
            (
                True,
                f"feature_usage_writers.service is VARCHAR(100) {latin1} and must be VARCHAR(100) {binary}",
            ),
            (
                False,
                f"feature_usage.user_id is VARCHAR(255) {caseless} and must be VARCHAR(255) {bytewise}",
            ),
        ]
    with engine.connect() as connection:
        upgrade(connection, tables)
        assert check(connection, tables) == []


def test_alike_ids_are_different_people(database: Database) -> None:
    engine = database.engine()
    tables = create_all(engine, user_id_type="string").tables
    people = ["bob", "BOB", "böb", "bob "]
    with engine.begin() as connection:
        for person in people:
            connection.execute(tables.usage.insert().values(user_id=person, feature_name="search"))
        for table in (tables.usage, tables.access):
            found = sa.select(sa.func.count()).select_from(table).where(table.c.user_id == "bob")
            assert connection.scalar(found) == (1 if table is tables.usage else 0)
        assert connection.execute(tables.usage.delete().where(tables.usage.c.user_id == "bob")).rowcount == 1


NO_TARGETS = {
    "postgresql": {
        "is a view": ["CREATE VIEW users AS SELECT gen_random_uuid() AS id"],
        "is a materialized view": ["CREATE MATERIALIZED VIEW users AS SELECT gen_random_uuid() AS id"],
        "has no unique key on id alone": ["CREATE TABLE users (id uuid, tenant int, PRIMARY KEY (id, tenant))"],
        "is partitioned": ["CREATE TABLE users (id uuid, n int, PRIMARY KEY (id, n)) PARTITION BY RANGE (n)"],
    },
    "mariadb": {
        "is a view": ["CREATE TABLE u (id UUID)",
                      "CREATE VIEW users AS SELECT id FROM u"],
        "is a table of MyISAM": ["CREATE TABLE users (id UUID PRIMARY KEY) ENGINE=MyISAM"],
        "has no unique key on id alone": ["CREATE TABLE users (id UUID, tenant INT, PRIMARY KEY (id, tenant))"],
        "is partitioned": ["CREATE TABLE users (id UUID PRIMARY KEY) PARTITION BY KEY (id) PARTITIONS 2"],
    },
    "sqlite": {
        "has no unique key on id alone": ["CREATE TABLE users (id CHAR(32), tenant INT, PRIMARY KEY (id, tenant))"],
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "why"), [(name, why) for name, found in NO_TARGETS.items() for why in found])
def test_finds_no_users_where_no_foreign_key_can_refer(name: str, why: str, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(name).engine()
    with engine.begin() as connection:
        for statement in NO_TARGETS[name][why]:
            connection.exec_driver_sql(statement)
    created = create_all(engine)
    assert (created.users, len(created.made)) == (None, len(NAMES))
    assert f"user_id has no foreign key: users {why}" in created.why
    assert "--users none" in created.why


def test_finds_no_users_without_the_right_to_refer(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id uuid PRIMARY KEY)")
        connection.exec_driver_sql("DROP ROLE IF EXISTS modest")
        connection.exec_driver_sql("CREATE ROLE modest")
        connection.exec_driver_sql("GRANT CREATE ON SCHEMA public TO modest")
        connection.exec_driver_sql("SET LOCAL ROLE modest")
        assert "users grants this role no REFERENCES" in create_all(connection).why
        connection.rollback()
