"""Attack: an id that is another user's but for case, an accent or a space. Identity is one relation, everywhere."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from typer.testing import CliRunner

from conftest import Database
from dashboard.visitor import asgi as visit
from reading import all_of, counts, made
from usage_instrument import Settings, Tracker, queries
from usage_instrument.audit.admin_chain import ADMIN_CHAIN
from usage_instrument.cli.app import app
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.database.inspection import check
from usage_instrument.database.tables import UNIQUE_HISTORY, UNIQUE_USAGE
from usage_instrument.errors import ConfigurationError
from usage_instrument.privacy import erasure
from usage_instrument.schema import Tables, create_all, define_tables
from usage_instrument.upgrade import upgrade

AUDIT_TIMEOUT = 30
PRIVACY_KEY = "a secret of thirty-two characters, or more"
FOUR = ("bob", "BOB", "böb", "bob ")
ADA = ("Ada", "aDA", "ÁDA", "Ada  ")
"""Of one row of a users table without case and accents."""


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here waits for the calls of other processes, but for the gate's next look at the suppressions."""
    monkeypatch.setattr(erasure, "_MARGIN", -2 * AUDIT_TIMEOUT)


def tracker_of(database: Database, **more: Any) -> Tracker:
    settings: dict[str, Any] = {
        "flush_interval": 3600,
        "privacy_key": PRIVACY_KEY,
        "audit_timeout": AUDIT_TIMEOUT,
        **more,
    }
    return Tracker(database.url, Settings(user_id_type="string", **settings))


def run(database: Database, *arguments: str) -> Any:
    variables = {"USAGE_INSTRUMENT_PRIVACY_KEY": PRIVACY_KEY, "USAGE_INSTRUMENT_AUDIT_TIMEOUT": "0.1"}
    done = CliRunner().invoke(app, [*arguments, "--url", database.url], env=variables)
    assert done.exit_code == 0, done.output
    return done.stdout


def of_people(database: Database, tables: Tables) -> list[Any]:
    return [row for row in all_of(database.engine(), tables.access) if row.chain_id != ADMIN_CHAIN]


def test_four_people_without_a_users_table(database: Database) -> None:
    tables = made(database.engine(), user_id_type="string")
    tracker = tracker_of(database)
    for number, person in enumerate(FOUR, 1):
        tracker.track("search", user=person, count=number, metadata={"whose": person})
        tracker.track("open_vault", user=person, audit="required" if number % 2 else True)
    assert [tracker.count(person, "search") for person in FOUR] == [1, 2, 3, 4], "unwritten"
    assert tracker.flush(30), tracker.stats()
    expected = {("search", person): number for number, person in enumerate(FOUR, 1)}
    assert counts(database.engine(), tables) == {**expected, **{("open_vault", person): 1 for person in FOUR}}
    assert [tracker.count(person, "search") for person in FOUR] == [1, 2, 3, 4]
    with database.engine().connect() as connection:
        found = connection.execute(queries.power_users(tables=tables)).mappings().all()
        assert {(row["user_id"], row["uses"]) for row in found} == {(who, n + 1) for n, who in enumerate(FOUR, 1)}
        for number, person in enumerate(FOUR, 1):
            rows = connection.execute(queries.user_features(person, tables=tables)).mappings().all()
            assert {row["feature_name"]: row["usage_count"] for row in rows} == {"search": number, "open_vault": 1}
    for number, person in enumerate(FOUR, 1):
        data = tracker.privacy.export(person)
        assert [row["metadata"] for row in data["usage"] if row["metadata"]] == [{"whose": person}]
        assert sum(row["usage_count"] for row in data["history"]) == number + 1
        assert len(data["accesses"]) == 1
    tracker.privacy.opt_out("BOB")
    receipt = tracker.privacy.forget("bob")
    assert (receipt.deleted["feature_usage"], receipt.pseudonymised) == (2, 1)
    for person in FOUR:
        tracker.track("search", user=person)
    assert tracker.shutdown(30), tracker.stats()
    left = {user: uses for (feature, user), uses in counts(database.engine(), tables).items() if feature == "search"}
    assert left == {"BOB": 2, "böb": 4, "bob ": 5}
    named = [row.user_id for row in of_people(database, tables) if row.user_id is not None]
    assert sorted(named) == sorted(["BOB", "böb", "bob "])


@pytest.fixture
def alike(mariadb: Database) -> tuple[Database, Tables]:
    """A users table without case and accents, as MariaDB makes it, with Ada in it; and our tables."""
    engine = mariadb.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id VARCHAR(40) PRIMARY KEY) COLLATE utf8mb4_unicode_ci")
        connection.exec_driver_sql("INSERT INTO users VALUES ('Ada'), ('Bob')")
    return mariadb, create_all(engine, user_id_type="string").tables


def test_one_person_under_the_spelling_of_the_users_table(alike: tuple[Database, Tables], tmp_path: Any) -> None:
    database, tables = alike
    tracker = tracker_of(database, journal=str(tmp_path / "journal"))
    for number, spelling in enumerate(ADA, 1):
        tracker.track("search", user=spelling, count=number, metadata={f"as_{number}": spelling})
        tracker.track("open_vault", user=spelling, audit="required" if number % 2 else True)
    tracker.track("search", user="Bob")
    assert [tracker.count(spelling, "search") for spelling in ADA] == [10] * 4, "unwritten"
    assert tracker.flush(30), tracker.stats()
    expected = {("search", "Ada"): 10, ("open_vault", "Ada"): 4, ("search", "Bob"): 1}
    assert counts(database.engine(), tables) == expected
    assert {row.user_id for row in of_people(database, tables)} == {"Ada"}
    tracker.track("search", user="ADA", count=5)
    assert [tracker.count(spelling, "search") for spelling in ADA] == [15] * 4, "written and unwritten"
    assert tracker.flush(30)
    with database.engine().connect() as connection:
        rows = connection.execute(queries.user_features("ada", tables=tables)).mappings().all()
    assert {row["feature_name"]: row["usage_count"] for row in rows} == {"search": 15, "open_vault": 4}
    shown = json.loads(run(database, "user", "aDA", "--format", "json"))
    assert {row["feature_name"]: row["usage_count"] for row in shown} == {"search": 15, "open_vault": 4}
    data = tracker.privacy.export("ádA")
    assert (data["user_id"], len(data["accesses"])) == ("Ada", 4)
    assert {row["acted_as"] for row in data["accesses"]} == {"themselves"}
    (search,) = (row for row in data["usage"] if row["feature_name"] == "search")
    assert search["metadata"] == {f"as_{number}": spelling for number, spelling in enumerate(ADA, 1)}
    tracker.track("search", user="ADA")  # in memory and in the journal, in another spelling
    receipt = tracker.privacy.forget("aDa", actor="BOB")
    assert (receipt.deleted["feature_usage"], receipt.pseudonymised, receipt.journals) == (2, 4, ())
    (record,) = (row for row in all_of(database.engine(), tables.access) if row.chain_id == ADMIN_CHAIN)
    assert record.actor_id == "Bob"
    for spelling in ADA:
        tracker.track("search", user=spelling)
        tracker.track("open_vault", user=spelling, audit="required")
    assert tracker.shutdown(30), tracker.stats()
    assert counts(database.engine(), tables) == {("search", "Bob"): 1}
    assert {row.user_id for row in of_people(database, tables)} == {None}
    names = b"".join(path.read_bytes() for path in (tmp_path / "journal").rglob("*") if path.is_file())
    assert b"ADA" not in names


def test_opting_out_holds_for_every_spelling_and_process(alike: tuple[Database, Tables]) -> None:
    database, tables = alike
    here, there = tracker_of(database), tracker_of(database)
    for tracker in (here, there):
        tracker.track("search", user="ADA")
        assert tracker.flush(30)
    here.privacy.opt_out("aDA")
    for tracker in (here, there):
        for spelling in ADA:
            tracker.track("search", user=spelling)
        assert tracker.flush(30)
    assert counts(database.engine(), tables) == {("search", "Ada"): 2}
    run(database, "opt-in", "ÁDA")
    for tracker in (here, there):
        tracker.track("search", user="ada")
        assert tracker.shutdown(30)
    assert counts(database.engine(), tables) == {("search", "Ada"): 4}


def test_a_search_for_another_spelling_is_erased_too(alike: tuple[Database, Tables]) -> None:
    database, tables = alike
    tracker = tracker_of(database, flush_interval=0)
    tracker.track("open_vault", user="ADA", audit="required")

    def auditor(_: Any) -> bool:
        tracker.identify("Bob")
        return True

    site = Dashboard(database.url, authorize=bool, authorize_audit=auditor, tracker=tracker)
    answer = visit(site, "/audit.csv", user="aDA")
    assert (answer.status, answer.text.count("open_vault")) == (200, 1)
    assert tracker.privacy.forget("ada").pseudonymised == 2, "the access, and the search"
    assert tracker.shutdown(30)
    assert not any("ada" in str(row.metadata).lower() for row in of_people(database, tables))


def test_a_role_that_may_not_read_the_users_says_so(alike: tuple[Database, Tables]) -> None:
    database, tables = alike
    engine = database.engine(isolation_level="AUTOCOMMIT")
    url, name = sa.make_url(database.url), f"app_{uuid.uuid4().hex[:12]}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE USER {name} IDENTIFIED BY 'secret'")
        for table in tables:
            connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table.name} TO {name}")
        try:
            settings = Settings(user_id_type="string", flush_interval=3600, audit_timeout=30)
            tracker = Tracker(url.set(username=name, password="secret"), settings)
            tracker.track("search", user="ADA")
            assert not tracker.flush(1)
            assert "GRANT SELECT (id) ON users" in str(tracker.stats().last_error)
            connection.exec_driver_sql(f"GRANT SELECT (id) ON users TO {name}")
            assert tracker.shutdown(30), tracker.stats()
            assert counts(engine, tables) == {("search", "Ada"): 1}
        finally:
            connection.exec_driver_sql(f"DROP USER {name}")


def test_a_users_table_of_any_name(mariadb: Database) -> None:
    engine = mariadb.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE `us:e{r}s` (`i:d` VARCHAR(40) COLLATE utf8mb4_general_ci PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO `us:e{r}s` VALUES ('Ada')")
    tables = create_all(engine, user_id_type="string", users="us:e{r}s.i:d").tables
    tracker = tracker_of(mariadb)
    tracker.track("search", user="aDA")
    assert tracker.shutdown(30), tracker.stats()
    assert counts(engine, tables) == {("search", "Ada"): 1}


def test_an_unknown_user_in_two_spellings_is_rejected(alike: tuple[Database, Tables]) -> None:
    database, tables = alike
    tracker = tracker_of(database, user_retry=0)
    for user in ("Eve", "eVE", "ADA"):
        tracker.track("search", user=user)
    assert tracker.shutdown(30), tracker.stats()
    assert counts(database.engine(), tables) == {("search", "Ada"): 1}
    assert tracker.stats().rejected == 2


@pytest.mark.parametrize("collation", ["latin1_swedish_ci", "utf8mb3_general_ci", "utf8mb4_bin", "utf8mb4_nopad_bin"])
def test_any_collation_of_the_users_table(mariadb: Database, collation: str) -> None:
    engine = mariadb.engine()
    with engine.begin() as connection:
        charset = collation.partition("_")[0]
        connection.exec_driver_sql(
            f"CREATE TABLE users (id VARCHAR(40) CHARSET {charset} COLLATE {collation} PRIMARY KEY)"
        )
        connection.exec_driver_sql("INSERT INTO users VALUES ('Ada')")
        if collation.endswith("_bin"):
            connection.exec_driver_sql("INSERT INTO users VALUES ('aDA')")
    tables = create_all(engine, user_id_type="string").tables
    with engine.connect() as connection:
        assert check(connection, tables) == []
    tracker = tracker_of(mariadb, user_retry=0)
    for user in ("Ada", "aDA", "Ada ", "?", "\U0001f600"):
        tracker.track("search", user=user)
    assert tracker.shutdown(30), tracker.stats()
    found = {user: uses for (_, user), uses in counts(engine, tables).items()}
    if collation == "utf8mb4_nopad_bin":
        assert found == {"Ada": 1, "aDA": 1}
    else:
        assert found == ({"Ada": 2, "aDA": 1} if collation == "utf8mb4_bin" else {"Ada": 3})


def test_trailing_spaces_in_one_batch_stop_nobody(database: Database) -> None:
    tables = made(database.engine(), user_id_type="string")
    tracker = tracker_of(database)
    for _ in range(2):
        for feature in ("search", "search "):
            for user in ("bob", "bob "):
                tracker.track(feature, user=user)
        assert tracker.flush(30), tracker.stats()
    tracker.shutdown()
    assert set(counts(database.engine(), tables).values()) == {2}
    assert len(counts(database.engine(), tables)) == 4


OLD_KEYS = (
    "ALTER TABLE {table} DROP INDEX {index}, DROP COLUMN user_key, DROP COLUMN feature_key",
    (
        "ALTER TABLE {table} ADD COLUMN user_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin "
        "GENERATED ALWAYS AS (COALESCE(user_id, '')) VIRTUAL INVISIBLE, ADD COLUMN feature_key VARCHAR(100) "
        "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin GENERATED ALWAYS AS (COALESCE(feature_name, '')) VIRTUAL INVISIBLE, "
        "ADD UNIQUE INDEX {index} (user_key, feature_key{more})"
    ),
)


def of_the_release_before(database: Database) -> None:
    """Give the tables the unique indexes of the release before, in which case counts and trailing spaces do not."""
    with database.engine().begin() as connection:
        for table, index, more in (
            ("feature_usage", UNIQUE_USAGE, ""),
            ("feature_usage_history", UNIQUE_HISTORY, ", bucket_start"),
        ):
            for statement in OLD_KEYS:
                connection.exec_driver_sql(statement.format(table=table, index=index, more=more))


def test_rows_of_the_release_before_become_one(alike: tuple[Database, Tables]) -> None:
    database, tables = alike
    engine = database.engine()
    of_the_release_before(database)
    with engine.begin() as connection:
        for user, uses in (("aDA", 3), ("Ada", 4)):
            connection.execute(tables.usage.insert().values(user_id=user, feature_name="search", usage_count=uses))
    tracker = tracker_of(database)
    tracker.track("search", user="ADA")
    assert tracker.shutdown(30), "a release runs on the schema of the one before"
    assert counts(engine, tables) == {("search", "aDA"): 3, ("search", "Ada"): 5}
    with engine.connect() as connection:
        problems = check(connection, tables)
        assert [problem.blocks_writing for problem in problems] == [False, False]
        assert "compares feature_key by utf8mb4_bin and must compare it by utf8mb4_nopad_bin" in problems[0].message
        connection.rollback()
        upgrade(connection, tables)
        assert check(connection, tables) == []
    assert counts(engine, tables) == {("search", "Ada"): 8}
    with engine.begin() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(tables.usage.insert().values(user_id="ADA", feature_name="search"))


def test_trailing_spaces_count_after_an_upgrade(mariadb: Database) -> None:
    engine = mariadb.engine()
    tables = made(engine, user_id_type="string")
    of_the_release_before(mariadb)
    with engine.begin() as connection:
        for table, column in ((tables.usage, "user_id"), (tables.access, "actor_id")):
            connection.exec_driver_sql(
                f"ALTER TABLE {table.name} MODIFY {column} VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
            )
    tracker = tracker_of(mariadb)
    tracker.track("search", user="bob")
    assert tracker.flush(30), tracker.stats()
    with engine.connect() as connection:
        assert len(check(connection, tables)) == 4
        connection.rollback()
        upgrade(connection, tables)
        assert check(connection, tables) == []
    tracker.track("search", user="bob ")
    assert tracker.shutdown(30)
    assert counts(engine, tables) == {("search", "bob"): 1, ("search", "bob "): 1}


@pytest.mark.parametrize(
    ("name", "users"),
    [
        ("sqlite", ["CREATE TABLE users (id VARCHAR(40) COLLATE NOCASE PRIMARY KEY)"]),
        ("postgresql", ["CREATE EXTENSION citext", "CREATE TABLE users (id CITEXT PRIMARY KEY)"]),
        (
            "postgresql",
            [
                "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
                "CREATE TABLE users (id VARCHAR(40) COLLATE caseless PRIMARY KEY)",
            ],
        ),
    ],
)
def test_such_a_users_table_is_refused_elsewhere(name: str, users: list[str], request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(name).engine()
    with engine.begin() as connection:
        for statement in users:
            connection.exec_driver_sql(statement)
    created = create_all(engine, user_id_type="string")
    assert created.users is None
    assert "takes different ids for equal" in created.why
    with pytest.raises(ConfigurationError, match="takes different ids for equal"):
        create_all(engine, user_id_type="string", users="users.id")
    for table in (created.tables.history, created.tables.usage):
        table.drop(engine)
    its_type = users[-1].partition("(id ")[2].partition(" PRIMARY")[0]
    with engine.begin() as connection:  # as the host may make it by a migration
        connection.exec_driver_sql(
            f"CREATE TABLE feature_usage (id INTEGER PRIMARY KEY, user_id {its_type} REFERENCES users (id), "
            "feature_name VARCHAR(100), metadata TEXT, usage_count INTEGER, last_used TIMESTAMP NOT NULL)"
        )
        messages = [problem.message for problem in check(connection, created.tables) if problem.blocks_writing]
    assert any("user_id refers to users.id, which takes different ids for equal" in message for message in messages)


@pytest.mark.parametrize(
    ("version", "collation"), [((8, 4, 0), "utf8mb4_0900_bin"), ((8, 0, 16), "utf8mb4_bin"), (None, "utf8mb4_0900_bin")]
)
def test_the_collation_of_mysql(version: Any, collation: str) -> None:
    dialect = mysql.dialect()
    dialect.server_version_info = version
    user_id = define_tables(sa.MetaData(), users=None, user_id_type="string").usage.c.user_id
    assert user_id.type.compile(dialect) == f"VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {collation}"


def test_a_user_who_is_renamed_by_case_alone_stays_one_user(alike: tuple[Database, Tables]) -> None:
    database, tables = alike
    here, there = tracker_of(database), tracker_of(database)
    for tracker in (here, there):
        tracker.track("search", user="ada")
        tracker.track("open_vault", user="ada", audit=True)
        assert tracker.flush(30)
    with database.engine().begin() as connection:
        connection.exec_driver_sql("UPDATE users SET id = 'ADA' WHERE id = 'Ada'")
    there.track("search", user="ada")  # its process has looked the id up before
    assert there.flush(30)
    (uses,) = (uses for (feature, _), uses in counts(database.engine(), tables).items() if feature == "search")
    assert (uses, there.count("aDA", "search")) == (3, 3)
    assert here.privacy.forget("Ada").pseudonymised == 2
    there.track("search", user="ada")
    there.track("open_vault", user="ada", audit="required")
    for tracker in (here, there):
        assert tracker.shutdown(30)
    assert counts(database.engine(), tables) == {}
    assert {row.user_id for row in of_people(database, tables)} == {None}
