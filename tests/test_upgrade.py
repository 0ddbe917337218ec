"""Existing tables, made by hand and used for a while, brought to this release's form."""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from typer.testing import CliRunner

from conftest import Database, UsersDatabase
from reading import NATIVE_UUID, made, made_beside_users
from usage_instrument.cli.app import app
from usage_instrument.database.engines import connect
from usage_instrument.database.inspection import check
from usage_instrument.database.ledger import Ledger
from usage_instrument.database.schema import create_all, define_tables, reflected_options
from usage_instrument.database.tables import UNIQUE_DIMENSIONS, UNIQUE_USAGE, Tables
from usage_instrument.errors import ConfigurationError, SchemaError
from usage_instrument.events import Batch, Count
from usage_instrument.pipeline.store import Outcome, Store
from usage_instrument.settings import Settings
from usage_instrument.tracker import Tracker
from usage_instrument.upgrade import WARNING, merge_duplicates, plan_upgrade, upgrade
from usage_instrument.views import create_views

OLD, NEW = dt.datetime(2026, 1, 1, 12), dt.datetime(2026, 2, 1, 12)
ANN, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)  # the first two of `users_database`

Action = str | None


def by_hand(engine: sa.Engine, *, on_delete: Action = None, extra: bool = False) -> sa.Table:
    """A `feature_usage` as its specification reads, with neither a unique index nor more."""
    metadata = sa.MetaData()
    if on_delete is not None:
        sa.Table("users", metadata, autoload_with=engine)
    reference = [sa.ForeignKey("users.id", ondelete=on_delete, name="fk_user")] if on_delete is not None else []
    json_type = sa.JSON().with_variant(JSONB(), "postgresql")
    table = sa.Table(
        "feature_usage",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.Uuid, *reference),
        sa.Column("feature_name", sa.String(100)),
        sa.Column("metadata", json_type),
        sa.Column("usage_count", sa.Integer, server_default=sa.text("1")),
        sa.Column("last_used", sa.DateTime, nullable=False, server_default=sa.text("CURRENT_TIMESTAMP")),
        *([sa.Column("note", sa.String(20), sa.CheckConstraint("note <> 'x'"))] if extra else []),
    )
    table.create(engine)
    return table


def fill(engine: sa.Engine, table: sa.Table, *rows: tuple[Any, ...]) -> None:
    names = ("user_id", "feature_name", "usage_count", "last_used", "metadata")
    with engine.begin() as connection:
        for row in rows:
            connection.execute(table.insert().values(dict(zip(names, row, strict=True))))


def planned(engine: sa.Engine, **options: Any) -> Tables:
    options = {"schema": None, "users": "auto", "user_id_type": "uuid", **options}
    with engine.connect() as connection:
        return reflected_options(connection, **options)[0]


def sentences(engine: sa.Engine, tables: Tables) -> list[str]:
    with engine.connect() as connection:
        return plan_upgrade(connection, tables).sentences


def upgraded(engine: sa.Engine, tables: Tables) -> None:
    with engine.connect() as connection:
        upgrade(connection, tables)
    with engine.connect() as connection:
        assert check(connection, tables) == []
        assert plan_upgrade(connection, tables).steps == ()


def rows_of(engine: sa.Engine, table: sa.Table) -> list[tuple[Any, ...]]:
    query = sa.select(
        table.c.id, table.c.user_id, table.c.feature_name, table.c.usage_count, table.c.last_used, table.c.metadata
    )
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query.order_by(table.c.id))]


def test_merges_duplicates_and_makes_the_key_unique(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    table = by_hand(engine, on_delete="CASCADE")
    fill(
        engine,
        table,
        (ANN, "search", 2, NEW, {"a": 1, "b": {"deep": 1}}),
        (BOB, "search", 1, OLD, None),
        (ANN, "search", 3, OLD, {"a": 0, "c": 3, "b": {"gone": 1}}),
        (None, "search", None, OLD, None),
        (None, "search", 7, NEW, {"x": None}),
        (ANN, "export", 2**31 - 2, NEW, None),
        (ANN, "export", 5, OLD, {"kept": True}),
        (ANN, "Search", 1, OLD, None),
        (ANN, None, 1, OLD, None),
        (ANN, None, 1, OLD, None),
    )
    tables = planned(engine)
    upgraded(engine, tables)
    assert rows_of(engine, tables.usage) == [
        (1, ANN, "search", 5, NEW, {"a": 1, "b": {"deep": 1}, "c": 3}),
        (2, BOB, "search", 1, OLD, None),
        (4, None, "search", 7, NEW, {"x": None}),
        (6, ANN, "export", 2**31 - 1, NEW, {"kept": True}),
        (8, ANN, "Search", 1, OLD, None),
        (9, ANN, None, 2, OLD, None),
    ]
    for key in [(ANN, "search"), (None, "search"), (ANN, None)]:
        with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
            connection.execute(tables.usage.insert().values(user_id=key[0], feature_name=key[1]))


def test_shows_first_what_it_will_do(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    table = by_hand(engine, on_delete="SET NULL")
    fill(engine, table, *[(ANN, "search", 1, OLD, None)] * 3)
    tables = planned(engine)
    with engine.connect() as connection:
        found = plan_upgrade(connection, tables)
    sentences = found.sentences
    if engine.dialect.name == "mariadb":
        assert "feature_name" in sentences[0]
        assert sentences.pop(0).endswith("and must be VARCHAR(100) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin.")
    merge, unique, reference, *index, create = sentences
    assert merge.startswith("Merge 2 rows of feature_usage into others with the same key, the user and the feature")
    assert unique == f"Add the unique index {UNIQUE_USAGE} to feature_usage, NULLs included."
    assert reference == (
        "Make the foreign key of feature_usage.user_id ON DELETE CASCADE ON UPDATE CASCADE; "
        "now it is ON DELETE SET NULL ON UPDATE NO ACTION."
    )
    # MariaDB has an index for every foreign key already
    if engine.dialect.name != "mariadb":
        assert index == ["Add the index ix_feature_usage_user_id to feature_usage."]
    assert "feature_usage_writers" in create
    assert found.notes == (WARNING,)
    assert len(rows_of(engine, table)) == 3


@pytest.mark.parametrize("action", ["SET NULL", "NO ACTION"])
def test_makes_the_foreign_key_cascade(users_database: UsersDatabase, action: str) -> None:
    engine = users_database.engine
    table = by_hand(engine, on_delete=action)
    fill(engine, table, (ANN, "search", 1, OLD, None), (None, "search", 1, OLD, None))
    tables = planned(engine)
    upgraded(engine, tables)
    users = users_database.users
    with engine.begin() as connection:
        connection.execute(users.delete().where(users.c.id == ANN))
    assert [row[1] for row in rows_of(engine, tables.usage)] == [None]


def test_adds_the_foreign_key_that_is_missing(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    table = by_hand(engine)
    fill(engine, table, (ANN, "search", 4, OLD, None))
    tables = planned(engine)
    wanted = "Add a foreign key from feature_usage.user_id to users.id, ON DELETE CASCADE ON UPDATE CASCADE."
    assert wanted in sentences(engine, tables)
    upgraded(engine, tables)
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(tables.usage.insert().values(user_id=uuid.uuid4(), feature_name="search"))
    assert len(rows_of(engine, tables.usage)) == 1


def test_leaves_rows_of_unknown_users_to_their_owner(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    table = by_hand(engine)
    fill(engine, table, (uuid.uuid4(), "search", 4, OLD, None))
    tables = planned(engine)
    with engine.connect() as connection:
        done = upgrade(connection, tables)
    assert any("1 of its rows are of users that users.id does not hold" in note for note in done.notes)
    assert len(rows_of(engine, tables.usage)) == 1
    assert sa.inspect(engine).get_foreign_keys("feature_usage") == []


def test_keeps_what_else_the_table_has(sqlite: Database) -> None:
    engine = sqlite.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id CHAR(32) PRIMARY KEY)")
    table = by_hand(engine, on_delete="SET NULL", extra=True)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO users VALUES ('{ANN.hex}')")
        connection.exec_driver_sql("CREATE INDEX by_note ON feature_usage (note)")
        connection.exec_driver_sql("CREATE TABLE child (usage INTEGER REFERENCES feature_usage ON DELETE CASCADE)")
        connection.exec_driver_sql("CREATE TABLE log (id INTEGER)")
        connection.exec_driver_sql(
            "CREATE TRIGGER seen AFTER INSERT ON feature_usage BEGIN INSERT INTO log VALUES (new.id); END"
        )
        connection.execute(table.insert().values(user_id=ANN, feature_name="search", note="kept", last_used=OLD))
        connection.exec_driver_sql("INSERT INTO child VALUES (1)")
    tables = planned(engine)
    upgraded(engine, tables)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT note FROM feature_usage").scalars().all() == ["kept"]
        assert connection.exec_driver_sql("SELECT usage FROM child").scalars().all() == [1]
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        connection.exec_driver_sql("INSERT INTO feature_usage (feature_name) VALUES ('export')")
        assert connection.exec_driver_sql("SELECT count(*) FROM log").scalar() == 2
        plan_ = connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT 1 FROM feature_usage WHERE note = 'kept'").all()
    assert "by_note" in str(plan_)
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO feature_usage (feature_name, note) VALUES ('print', 'x')")


@pytest.mark.parametrize("column", ["metadata", "usage_count", "last_used"])
def test_adds_missing_columns(database: Database, column: str) -> None:
    engine = database.engine()
    table = by_hand(engine)
    fill(engine, table, (None, "search", 1, OLD, None))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE feature_usage DROP COLUMN {column}")
    tables = planned(engine)
    assert sentences(engine, tables)[0] == f"Add the column {column} to feature_usage."
    upgraded(engine, tables)
    (row,) = rows_of(engine, tables.usage)
    assert row[3] == 1
    assert row[4] is not None


def test_changes_the_tables_under_the_views(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    table = by_hand(engine, on_delete="SET NULL")
    fill(engine, table, (ANN, "search", 4, OLD, None))
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE feature_usage ALTER COLUMN last_used TYPE timestamptz")
    tables = create_all(engine).tables
    names = create_views(engine, tables=tables)
    steps = sentences(engine, tables)
    if engine.dialect.name != "mariadb":
        assert (steps[0], steps[-1]) == (f"Drop the views {', '.join(names)}.", "Create the views again.")
    upgraded(engine, tables)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT feature_name, uses FROM feature_usage_overview").one()
        assert tuple(found) == ("search", 4)


def test_leaves_the_views_alone_where_no_column_changes(postgresql: Database) -> None:
    engine = postgresql.engine()
    tables = made(engine)
    create_views(engine)
    drop_unique(engine, "feature_usage", UNIQUE_USAGE)
    assert sentences(engine, tables) == [f"Add the unique index {UNIQUE_USAGE} to feature_usage, NULLs included."]


def test_adds_an_index_that_is_missing(database: Database) -> None:
    engine = database.engine()
    tables = made(engine, users=None)
    names = [f"ix_{tables.history.name}_{column}" for column in ("bucket_start", "user_id")]
    with engine.begin() as connection:
        for index in [index for index in tables.history.indexes if index.name in names]:
            index.drop(connection)
    with engine.connect() as connection:
        assert [(problem.message, problem.blocks_writing) for problem in check(connection, tables)] == [
            (f"table feature_usage_history has no index {name}: run `usage-instrument db upgrade`", False)
            for name in names
        ]
    assert sentences(engine, tables) == [f"Add the index {name} to feature_usage_history." for name in names]
    upgraded(engine, tables)


def test_merges_duplicates_of_the_history(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    tables = made_beside_users(engine)
    drop_unique(engine, "feature_usage_history", "uq_feature_usage_history_user_feature_bucket")
    with engine.begin() as connection:
        for user, feature, start, uses in [
            (ANN, "search", OLD, 2),
            (ANN, "search", OLD, 3),
            (ANN, "search", NEW, 1),
            (None, "search", OLD, 2**31 - 1),
            (None, "search", OLD, 1),
        ]:
            connection.execute(
                tables.history.insert().values(user_id=user, feature_name=feature, bucket_start=start, usage_count=uses)
            )
    assert "Merge 2 rows of feature_usage_history" in sentences(engine, tables)[0]
    upgraded(engine, tables)
    with engine.connect() as connection:
        found = {tuple(row[1:]) for row in connection.execute(sa.select(tables.history))}
    assert found == {
        (ANN, "search", OLD, 5),
        (ANN, "search", NEW, 1),
        (None, "search", OLD, 2**31 - 1),
    }


def test_merges_duplicates_of_the_dimensions(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    tables = made_beside_users(engine)
    drop_unique(engine, "feature_usage_dimensions", UNIQUE_DIMENSIONS)
    numbers = ("usage_count", "value_count", "value_sum", "value_squares", "value_minimum", "value_maximum")
    csv, pdf = ("export", "format", "csv", OLD), ("export", "format", "pdf", OLD)
    with engine.begin() as connection:
        for user, (feature, dimension, value, start), figures in [
            (ANN, csv, (2, 1, 3.5, 12.25, 3.5, 3.5)),
            (ANN, csv, (3, 0, 0.0, 0.0, None, None)),
            (ANN, csv, (1, 1, -1.0, 1.0, -1.0, -1.0)),
            (ANN, pdf, (1, 0, 0.0, 0.0, None, None)),
            (None, csv, (2**31 - 1, 0, 0.0, 0.0, None, None)),
            (None, csv, (1, 0, 0.0, 0.0, None, None)),
        ]:
            key = {"feature_name": feature, "dimension": dimension, "dimension_value": value, "bucket_start": start}
            row = {"user_id": user, **key, **dict(zip(numbers, figures, strict=True))}
            connection.execute(tables.dimensions.insert().values(row))
    assert sentences(engine, tables)[0] == (
        "Merge 3 rows of feature_usage_dimensions into others with the same key, the user, the feature, the dimension, "
        "its value and the day: uses and numbers are added up, and the least and the greatest number stay."
    )
    upgraded(engine, tables)
    with engine.connect() as connection:
        found = {tuple(row[1:]) for row in connection.execute(sa.select(tables.dimensions))}
    assert found == {
        (ANN, *csv, 6, 2, 2.5, 13.25, -1.0, 3.5),
        (ANN, *pdf, 1, 0, 0.0, 0.0, None, None),
        (None, *csv, 2**31 - 1, 0, 0.0, 0.0, None, None),
    }


def drop_unique(engine: sa.Engine, table: str, name: str) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "mariadb":
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP INDEX {name}")
        else:
            connection.exec_driver_sql(f"DROP INDEX {name}")


def test_has_nothing_to_do_on_new_tables(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    tables = made_beside_users(engine)
    assert sentences(engine, tables) == []
    upgraded(engine, tables)


def test_creates_everything_in_an_empty_database(database: Database) -> None:
    engine = database.engine()
    upgraded(engine, planned(engine))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_is_all_or_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(kind).engine()
    table = by_hand(engine)
    fill(engine, table, *[(None, "search", 1, OLD, None)] * 2)
    tables = planned(engine)
    with engine.begin() as connection:  # a view in the way of the last step
        connection.exec_driver_sql("CREATE VIEW feature_usage_losses AS SELECT 1 AS day")
    with engine.connect() as connection, pytest.raises((sa.exc.DBAPIError, SchemaError)):
        upgrade(connection, tables)
    assert len(rows_of(engine, table)) == 2
    assert [name for name in sa.inspect(engine).get_table_names() if name.startswith("feature_usage")] == [
        "feature_usage"
    ]
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP VIEW feature_usage_losses")
    upgraded(engine, tables)


def test_runs_again_after_a_failure_on_mariadb(mariadb: Database) -> None:
    engine = mariadb.engine()
    table = by_hand(engine)
    fill(engine, table, *[(None, "search", 1, OLD, None)] * 2)
    tables = planned(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE VIEW feature_usage_losses AS SELECT 1 AS day")
    with engine.connect() as connection, pytest.raises((sa.exc.DBAPIError, SchemaError)):
        upgrade(connection, tables)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP VIEW feature_usage_losses")
    upgraded(engine, tables)
    assert [row[3] for row in rows_of(engine, tables.usage)] == [2]


def test_merges_more_rows_than_one_pass_takes(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usage_instrument.database.deduplication.ROWS_PER_PASS", 7)
    engine = sqlite.engine()
    table = by_hand(engine)
    rows = [(None, f"feature {n % 5}", 1, OLD + dt.timedelta(hours=n), {str(n): n, "last": n}) for n in range(100)]
    fill(engine, table, *rows)
    with engine.begin() as connection:
        assert merge_duplicates(connection) == 95
    for id_, _, feature, uses, used, extra in rows_of(engine, table):
        assert (feature, uses, used) == (f"feature {id_ - 1}", 20, OLD + dt.timedelta(hours=id_ + 94))
        assert extra["last"] == id_ + 94
        assert len(extra) == 21


def test_merges_in_the_callers_transaction(postgresql: Database) -> None:
    engine = postgresql.engine()
    table = by_hand(engine)
    fill(engine, table, *[(None, "search", 1, OLD, None)] * 4)
    with engine.connect() as connection:
        assert merge_duplicates(connection) == 3
        connection.rollback()
    assert len(rows_of(engine, table)) == 4


@pytest.mark.parametrize(("type_", "user"), [(sa.Integer(), 5), (sa.String(40), "five")], ids=["integer", "string"])
def test_merges_whatever_the_type_of_the_user(database: Database, type_: Any, user: Any) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="integer" if isinstance(user, int) else "string")
    drop_unique(engine, "feature_usage", UNIQUE_USAGE)
    with engine.begin() as connection:
        for each in (user, user, None, None):
            connection.execute(tables.usage.insert().values(user_id=each, feature_name="search"))
        assert merge_duplicates(connection) == 2
    assert [row[1:4] for row in rows_of(engine, tables.usage)] == [(user, "search", 2), (None, "search", 2)]


def test_needs_a_table(database: Database) -> None:
    with database.engine().connect() as connection, pytest.raises(SchemaError, match="db create"):
        merge_duplicates(connection)


def test_says_that_it_cannot_change_the_type_of_the_users(database: Database) -> None:
    engine = database.engine()
    made(engine, user_id_type="integer")
    with engine.connect() as connection, pytest.raises(SchemaError, match="set user_id_type to"):
        upgrade(connection, define_tables(sa.MetaData(), users=None))


def test_wants_a_connection_without_a_transaction(sqlite: Database) -> None:
    with sqlite.engine().begin() as connection, pytest.raises(ConfigurationError, match="begins its own"):
        upgrade(connection, define_tables(sa.MetaData()))


def test_mends_the_types_that_postgresql_cannot_merge_or_compare(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE feature_usage (id serial PRIMARY KEY, user_id uuid, feature_name varchar(100), "
            "metadata json, usage_count int DEFAULT 1, last_used timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP)"
        )
        connection.exec_driver_sql(
            "INSERT INTO feature_usage (feature_name, metadata, last_used) "
            "VALUES ('search', '{\"a\": 1}', '2026-01-01 12:00:00+00')"
        )
    tables = planned(engine)
    first, second, *_ = sentences(engine, tables)
    assert first == "Change a column: feature_usage.metadata is JSON and must be JSONB."
    assert "last_used is TIMESTAMP WITH TIME ZONE" in second
    upgraded(engine, tables)
    assert rows_of(engine, tables.usage) == [(1, None, "search", 1, OLD, {"a": 1})]


def test_keeps_going_over_metadata_that_is_no_json(sqlite: Database) -> None:
    engine = sqlite.engine()
    table = by_hand(engine)
    with engine.begin() as connection:
        for extra in ("'{broken'", "'[1]'", f"'{json.dumps({'a': 1})}'"):
            connection.exec_driver_sql(f"INSERT INTO feature_usage (feature_name, metadata) VALUES ('s', {extra})")
    upgraded(engine, planned(engine))
    assert rows_of(engine, table)[0][5] == {"a": 1}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_is_no_hindrance_to_the_next_transaction(kind: str, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(kind).engine()
    by_hand(engine)
    tables = planned(engine)
    with engine.connect() as connection:
        assert upgrade(connection, tables).steps
        assert upgrade(connection, tables).steps == ()


MARIADB_UUID = "UUID" if NATIVE_UUID else "CHAR(32)"
# What is wrong with a column, by its definition: the table as somebody wrote it on each database.
TAKES_TOO_LITTLE: dict[str, dict[str, str]] = {
    "sqlite": {
        "id INT PRIMARY KEY": "feature_usage.id has no default number and must have one",
        "user_id CHAR(32) NOT NULL": "feature_usage.user_id is NOT NULL and must allow NULL",
        "metadata JSON NOT NULL": "feature_usage.metadata is NOT NULL and must allow NULL",
    },
    "postgresql": {
        "id INT PRIMARY KEY": "feature_usage.id has no default number and must have one",
        "user_id UUID NOT NULL": "feature_usage.user_id is NOT NULL and must allow NULL",
        "metadata JSON NOT NULL": "feature_usage.metadata is NOT NULL and must allow NULL and is JSON",
        "feature_name VARCHAR(9) NOT NULL": "feature_usage.feature_name is VARCHAR(9) and must be VARCHAR(100)",
    },
    "mariadb": {
        "id INT PRIMARY KEY": "feature_usage.id has no default number and must have one",
        f"user_id {MARIADB_UUID} NOT NULL": "feature_usage.user_id is NOT NULL and must allow NULL",
        "metadata JSON NOT NULL": "feature_usage.metadata is NOT NULL and must allow NULL",
        "feature_name VARCHAR(9) CHARACTER SET latin1 NOT NULL": "feature_usage.feature_name is VARCHAR(9)",
        "last_used TIMESTAMP NOT NULL": "feature_usage.last_used is TIMESTAMP, which is converted between time zones",
    },
}
SOUND = {
    "id": "id INTEGER PRIMARY KEY",
    "user_id": "user_id CHAR(32)",
    "feature_name": "feature_name VARCHAR(100)",
    "metadata": "metadata JSON",
    "usage_count": "usage_count INT NOT NULL DEFAULT 1",
    "last_used": "last_used TIMESTAMP NOT NULL",
}
NAME = "n" * 99 + "é"


@pytest.mark.parametrize(
    ("name", "wrong"), [(name, wrong) for name in TAKES_TOO_LITTLE for wrong in TAKES_TOO_LITTLE[name]]
)
def test_mends_columns_that_take_too_little(name: str, wrong: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(name)
    engine = database.engine()
    sound = dict(SOUND)
    if name != "sqlite":
        uuid_type = {"id": "id INT PRIMARY KEY", "user_id": f"user_id {MARIADB_UUID if name == 'mariadb' else 'UUID'}"}
        auto = {"postgresql": "id SERIAL PRIMARY KEY", "mariadb": "id INT AUTO_INCREMENT PRIMARY KEY"}[name]
        sound.update(uuid_type, id=auto, metadata="metadata JSONB" if name == "postgresql" else "metadata JSON")
        sound["last_used"] = (
            "last_used TIMESTAMP NOT NULL" if name == "postgresql" else "last_used DATETIME(6) NOT NULL"
        )
    sound[wrong.partition(" ")[0]] = wrong
    user = str(ANN) if name == "postgresql" or (name == "mariadb" and NATIVE_UUID) else ANN.hex
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE feature_usage ({', '.join(sound.values())})")
        for id_ in (3, 7):
            connection.exec_driver_sql(
                "INSERT INTO feature_usage (id, user_id, feature_name, metadata, usage_count, last_used) "
                f"VALUES ({id_}, '{user}', 'search', '{{\"a\": {id_}}}', {id_}, '2026-01-01 12:00:00')"
            )
    tables = planned(engine)
    says = TAKES_TOO_LITTLE[name][wrong]
    with engine.connect() as connection:
        found = [problem for problem in check(connection, tables) if problem.message.startswith(says)]
    assert [problem.blocks_writing for problem in found] == [True]
    assert "usage-instrument db upgrade" in found[0].message
    assert any(says in sentence for sentence in sentences(engine, tables))
    upgraded(engine, tables)
    store = Store(connect(database.url), tables, Settings())
    store.open()
    ledger = Ledger(tables, "tests")
    store.register(ledger)
    assert store.write(ledger, Batch(1, (Count(NAME, None, 2, NEW),))) is Outcome.APPLIED
    store.dispose()
    rows = {row[2]: row for row in rows_of(engine, tables.usage)}
    assert rows["search"][:4] == (3, ANN, "search", 10)
    assert rows["search"][5] == {"a": 7}
    assert rows[NAME][1:] == (None, NAME, 2, NEW, None)
    assert rows[NAME][0] not in {None, 3}


def test_keeps_the_moment_that_a_timestamp_of_mariadb_means(mariadb: Database) -> None:
    engine = mariadb.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE feature_usage (id INT AUTO_INCREMENT PRIMARY KEY, "
            f"user_id {MARIADB_UUID}, feature_name VARCHAR(100), "
            "metadata JSON, usage_count INT DEFAULT 1, last_used TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)"
        )
        connection.exec_driver_sql("SET time_zone = '+05:00'")
        connection.exec_driver_sql("INSERT INTO feature_usage (last_used) VALUES ('2026-01-01 17:00:00')")
        connection.exec_driver_sql("SET time_zone = DEFAULT")
    tables = planned(engine)
    upgraded(engine, tables)
    assert rows_of(engine, tables.usage)[0][4] == OLD
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO feature_usage (feature_name) VALUES ('of now')")


def test_leaves_columns_that_it_does_not_know_to_their_owner(database: Database) -> None:
    engine = database.engine()
    table = by_hand(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE feature_usage ADD COLUMN plan VARCHAR(9) NOT NULL DEFAULT 'free'")
    tables = planned(engine)
    upgraded(engine, tables)  # what has a default is nobody's trouble
    table.drop(engine)
    table.append_column(sa.Column("tenant", sa.Integer, nullable=False))
    table.create(engine)
    says = r"feature_usage\.tenant is NOT NULL without a default"
    with engine.connect() as connection:
        assert re.search(says, check(connection, tables)[0].message)
        assert check(connection, tables)[0].blocks_writing
    with engine.connect() as connection, pytest.raises(SchemaError, match=says):
        upgrade(connection, tables)


# ---- from the schema of the release before


def test_gives_an_older_history_a_primary_key(database: Database) -> None:
    engine = database.engine()
    tables = made(engine, users=None)
    row = {"feature_name": "search", "usage_count": 3}
    with engine.begin() as connection:
        for start in (OLD, NEW):
            connection.execute(tables.history.insert().values(bucket_start=start, **row))
    without_primary_key(engine)
    with engine.connect() as connection:
        (problem,) = check(connection, tables)
    assert not problem.blocks_writing
    assert "feature_usage_history has no primary key" in problem.message
    tracker = Tracker(database.url)  # this release runs on that schema
    tracker.track("search")
    assert tracker.flush(10)
    tracker.shutdown(10)
    assert sentences(engine, tables)[0] == "Add the primary key id to feature_usage_history."
    upgraded(engine, tables)
    with engine.connect() as connection:
        found = connection.execute(sa.select(tables.history).order_by(tables.history.c.bucket_start)).all()
    assert [(row.bucket_start, row.usage_count) for row in found][:2] == [(OLD, 3), (NEW, 3)]
    assert len({row.id for row in found}) == 3


def test_an_upgrade_leaves_a_role_able_to_write(postgresql: Database) -> None:
    """The history's new ids have a sequence, on which a role of the release before has no right yet."""
    engine = postgresql.engine()
    tables = made(engine, users=None)
    without_primary_key(engine)
    role = f"writer_{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        for table in tables:
            connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table.name} TO {role}")
        connection.exec_driver_sql(f"GRANT USAGE ON SEQUENCE feature_usage_id_seq TO {role}")
    try:
        upgraded(engine, tables)
        tracker = Tracker(sa.make_url(postgresql.url).set(username=role, password="secret"))
        tracker.track("search")
        assert tracker.flush(10), tracker.stats()
        assert tracker.shutdown(10)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


def without_primary_key(engine: sa.Engine) -> None:
    """Make the history what the release before made of it."""
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            rows = "SELECT user_id, feature_name, bucket_start, usage_count FROM feature_usage_history"
            connection.exec_driver_sql(f"CREATE TABLE old AS {rows}")
            connection.exec_driver_sql("DROP TABLE feature_usage_history")
            connection.exec_driver_sql(
                "CREATE TABLE feature_usage_history (user_id CHAR(32), feature_name VARCHAR(100), "
                "bucket_start DATETIME NOT NULL, usage_count INTEGER DEFAULT 1)"
            )
            connection.exec_driver_sql("INSERT INTO feature_usage_history SELECT * FROM old")
            connection.exec_driver_sql("DROP TABLE old")
            tables = define_tables(sa.MetaData(), users=None)
            for index in tables.history.indexes:
                index.create(connection)
        else:
            connection.exec_driver_sql("ALTER TABLE feature_usage_history DROP COLUMN id")


def test_asks_what_became_of_a_renamed_column(database: Database) -> None:
    engine = database.engine()
    tables = made(engine, users=None)
    with engine.begin() as connection:
        connection.execute(tables.usage.insert().values(feature_name="search", usage_count=41))
        connection.exec_driver_sql("ALTER TABLE feature_usage RENAME COLUMN usage_count TO cnt")
    with engine.connect() as connection, pytest.raises(SchemaError) as raised:
        upgrade(connection, tables)
    assert "has no column usage_count, but an unknown column cnt of its type" in str(raised.value)
    with engine.begin() as connection:
        connection.exec_driver_sql(str(raised.value).partition("values: ")[2].partition(", or")[0])
    upgraded(engine, tables)
    assert rows_of(engine, tables.usage)[0][3] == 41


def test_no_renamed_column_of_any_table_is_taken_for_a_missing_one(database: Database) -> None:
    engine = database.engine()
    tables = made(engine, users=None)
    asked = set()
    for column in [column for table in tables for column in table.c if not column.primary_key]:
        rename = f"ALTER TABLE {column.table.name} RENAME COLUMN {{}} TO {{}}"
        with engine.connect() as connection:
            try:
                connection.exec_driver_sql(rename.format(column.name, "renamed"))
            except sa.exc.DBAPIError:  # MariaDB's virtual columns refer to it
                continue
            connection.commit()
            with pytest.raises(SchemaError, match="renamed") as raised:
                plan_upgrade(connection, tables)
            assert column.name in str(raised.value)
            connection.exec_driver_sql(rename.format("renamed", column.name))
            connection.commit()
        asked.add(column.name)
    assert {"metadata", "usage_count", "last_used", "uses", "description"} <= asked
    with engine.connect() as connection:
        assert plan_upgrade(connection, tables).steps == ()


def test_makes_integer_ids_of_postgresql_big(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id INT PRIMARY KEY)")
        tables = create_all(connection, user_id_type="integer").tables
        for table, column in (("feature_usage", "user_id"), ("feature_usage_access", "actor_id")):
            connection.exec_driver_sql(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE INT")
    with engine.connect() as connection:
        assert [(each.message, each.blocks_writing) for each in check(connection, tables)] == [
            (f"{name} is INTEGER and must be BIGINT: run `usage-instrument db upgrade`", False)
            for name in ("feature_usage.user_id", "feature_usage_access.actor_id")
        ]
    upgraded(engine, tables)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_widens_the_numbers_of_the_rows_when_asked_to(kind: str, request: pytest.FixtureRequest) -> None:
    database = request.getfixturevalue(kind)
    engine = database.engine()
    tables = made(engine, users=None)
    last = 2**31 - 1
    with engine.begin() as connection:
        connection.execute(tables.usage.insert().values(id=last, feature_name="last"))
    with engine.connect() as connection:
        assert check(connection, tables) == [], "an INT is what a table has by default"
        (problem,) = check(connection, define_tables(sa.MetaData(), users=None, id_type="bigint"))
    assert problem.message.endswith("must be BIGINT: run `usage-instrument db upgrade --id-type bigint`")
    ask = ["db", "upgrade", "--url", database.url, "--users", "none", "--id-type", "bigint", "--yes"]
    done = CliRunner().invoke(app, ask)
    assert "feature_usage.id is INTEGER and must be BIGINT" in done.output
    assert done.exit_code == 0, done.output
    assert "nothing to do" in CliRunner().invoke(app, ask).output
    with engine.begin() as connection:
        connection.execute(tables.usage.delete())
        if kind == "postgresql":
            connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('feature_usage', 'id'), {last})")
        connection.execute(tables.usage.insert().values(feature_name="next"))
        assert connection.scalar(sa.select(tables.usage.c.id)) == last + 1
    with engine.connect() as connection:
        assert check(connection, tables) == [], "the wider type fits the narrower definition"


def test_follows_users_of_mariadb_whose_ids_become_wider(mariadb: Database) -> None:
    engine = mariadb.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id INT AUTO_INCREMENT PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO users VALUES (7)")
        tables = create_all(connection, user_id_type="integer").tables
        connection.execute(tables.usage.insert().values(user_id=7, feature_name="search"))
        connection.execute(tables.history.insert().values(user_id=7, feature_name="search", bucket_start=OLD))
    widen = "ALTER TABLE users MODIFY id BIGINT AUTO_INCREMENT"
    with engine.begin() as connection:
        assert check(connection, tables) == []
        with pytest.raises(sa.exc.DBAPIError, match="foreign key constraint"):
            connection.exec_driver_sql(widen)
        for table in tables.of_users:
            (key,) = sa.inspect(connection).get_foreign_keys(table.name)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} DROP FOREIGN KEY {key['name']}")
        connection.exec_driver_sql(widen)
        connection.exec_driver_sql("INSERT INTO users VALUES (8589934592)")
        tables, _, _ = reflected_options(connection, schema=None, users="auto", user_id_type="integer")
        problems = check(connection, tables)
    wide = "is INTEGER and must be BIGINT: run `usage-instrument db upgrade`"
    assert f"feature_usage.user_id {wide}" in [problem.message for problem in problems]
    assert not any(problem.blocks_writing for problem in problems)
    upgraded(engine, tables)
    tracker = Tracker(mariadb.url, Settings(user_id_type="integer"))
    for user in (7, 2**33):
        tracker.track("search", user=user, audit=True)
        tracker.expose("page", "new", user=user)
    assert tracker.shutdown(30), tracker.stats()
    with engine.begin() as connection:
        found = connection.execute(sa.select(tables.usage.c.user_id, tables.usage.c.usage_count)).all()
        assert sorted(found) == [(7, 2), (2**33, 1)]
        assert sorted(connection.scalars(sa.select(tables.exposures.c.user_id))) == [7, 2**33]
        connection.exec_driver_sql("DELETE FROM users")
        assert connection.execute(sa.select(tables.usage.c.id)).all() == []
        assert connection.execute(sa.select(tables.history.c.id)).all() == []
        assert connection.execute(sa.select(tables.exposures.c.unit)).all() == []
