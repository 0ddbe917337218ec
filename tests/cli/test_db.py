"""`usage-instrument db`, the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import servers
from conftest import Database, UsersDatabase
from reading import made
from usage_instrument.cli.app import app
from usage_instrument.database.tables import UNIQUE_USAGE
from usage_instrument.schema import create_all

COMMAND = Path(sys.executable).with_name("usage-instrument")


def run(*arguments: str, answer: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_INSTRUMENT_")}
    done = subprocess.run(
        [str(COMMAND), *arguments],
        env={**inherited, **variables},
        input=answer,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert servers.PASSWORD not in done.stdout + done.stderr
    return done


def db(database: Database, *arguments: str, answer: str = "", **changed: str) -> subprocess.CompletedProcess[str]:
    """As `run`, on a database and in this process."""
    return here("db", *arguments, answer=answer, **{"USAGE_INSTRUMENT_DATABASE_URL": database.url, **changed})


def here(*arguments: str, answer: str = "", **changed: str) -> subprocess.CompletedProcess[str]:
    """As `run`, in this process: most of what a process takes is its imports."""
    variables: dict[str, str | None] = {name: None for name in os.environ if name.startswith("USAGE_INSTRUMENT_")}
    variables |= changed
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a process of its own
        done = CliRunner().invoke(app, arguments, input=answer, env=variables, prog_name="usage-instrument")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert servers.PASSWORD not in done.output
    return subprocess.CompletedProcess(["usage-instrument"], done.exit_code, done.stdout, done.stderr)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def with_duplicates(engine: sa.Engine) -> None:
    tables = made(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"DROP INDEX {UNIQUE_USAGE}" + (" ON feature_usage" if engine.dialect.name == "mariadb" else "")
        )
        for _ in range(3):
            connection.execute(tables.usage.insert().values(feature_name="search"))


def test_creates_checks_and_has_nothing_to_upgrade(users_database: UsersDatabase) -> None:
    database = users_database.database
    done = db(database, "create")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("created") == 12
    assert "user_id refers to users.id, which this database has." in done.stdout
    again = db(database, "create", "--format", "json")
    assert [row["status"] for row in json.loads(again.stdout)] == ["exists"] * 12
    for command in (["check"], ["upgrade"]):
        done = db(database, *command)
        assert (done.returncode, done.stderr) == (0, "")
        assert "The tables are as they should be" in done.stdout or "the tables are as they should be" in done.stdout
    assert json.loads(db(database, "check", "--format", "json").stdout) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_works_through_async_drivers(kind: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(kind)
    engine = database.engine()
    assert db(database, "create", "--url", database.async_url).returncode == 0
    assert db(database, "check", "--url", database.async_url).returncode == 0
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE feature_usage_losses")
    assert db(database, "check", "--url", database.async_url).returncode == 1
    assert db(database, "upgrade", "--yes", "--url", database.async_url).returncode == 0
    assert db(database, "check", "--url", database.async_url).returncode == 0


def test_checks_what_is_wrong(database: Database) -> None:
    engine = database.engine()
    made(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE feature_usage_losses")
    done = db(database, "check")
    assert done.returncode == 1
    assert "table feature_usage_losses does not exist: run `usage-instrument db create`" in done.stdout
    done = db(database, "check", "--format", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == [
        {
            "problem": "table feature_usage_losses does not exist: run `usage-instrument db create`",
            "blocks_writing": True,
        }
    ]


def test_creates_and_says_what_remains_wrong(database: Database) -> None:
    with_duplicates(database.engine())
    done = db(database, "create")
    assert done.returncode == 1
    assert "run `usage-instrument db upgrade`" in done.stderr


def test_upgrades_after_a_yes(database: Database) -> None:
    engine = database.engine()
    with_duplicates(engine)

    def rows() -> list[int]:
        with engine.connect() as connection:
            return list(connection.scalars(sa.text("SELECT usage_count FROM feature_usage")))

    planned = db(database, "upgrade", "--dry-run")
    assert planned.returncode == 0
    assert "Merge 2 rows of feature_usage" in planned.stdout
    assert "a second plain INSERT of the same user and feature fails" in planned.stdout
    assert db(database, "upgrade", answer="n\n").returncode == 1
    assert db(database, "upgrade").returncode == 1  # nobody to ask
    assert rows() == [1, 1, 1]
    done = db(database, "upgrade", answer="y\n")
    assert done.returncode == 0
    assert "Do it?" in done.stdout
    assert rows() == [3]
    assert db(database, "check").returncode == 0


def test_upgrades_without_asking(sqlite: Database) -> None:
    with_duplicates(sqlite.engine())
    done = db(sqlite, "upgrade", "--yes", "--format", "json")
    assert done.returncode == 0
    assert [step["step"] for step in json.loads(done.stdout)] == [1, 2]
    assert db(sqlite, "check").returncode == 0


def test_takes_its_options_from_the_environment(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA analytics")
        connection.exec_driver_sql("CREATE TABLE people (id bigint PRIMARY KEY)")
    variables = {
        "USAGE_INSTRUMENT_DATABASE_URL": postgresql.url,
        "USAGE_INSTRUMENT_SCHEMA": "analytics",
        "USAGE_INSTRUMENT_USERS": "people.id",
        "USAGE_INSTRUMENT_USER_ID_TYPE": "integer",
    }
    done = db(postgresql, "create", **variables)
    assert done.returncode == 0
    assert "user_id refers to people.id." in done.stdout
    assert len(sa.inspect(engine).get_table_names("analytics")) == 12
    assert db(postgresql, "check", **variables).returncode == 0
    assert db(postgresql, "check", "--schema", "public", **variables).returncode == 1
    done = db(postgresql, "create", "--schema", "none", "--users", "none", **variables)
    assert done.returncode == 0
    assert len(sa.inspect(engine).get_table_names("public")) == 13


def test_says_that_it_needs_a_database() -> None:
    line = one_line(here("db", "check"))
    assert "Pass --url, or set USAGE_INSTRUMENT_DATABASE_URL" in line


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "cannot be parsed; it looks like postgresql+psycopg://"),
        ("postgresql+nosuch://u:hunter22@h/x", "no such database or driver: 'postgresql+nosuch'"),
        ("postgresql+pg8000://u:hunter22@h/x", "pip install pg8000"),
        ("postgresql+psycopg://u:hunter22@127.0.0.1:1/x", "is the server running, and is the URL right?"),
        ("postgresql+asyncpg://u:hunter22@127.0.0.1:1/x", "is the server running, and is the URL right?"),
        ("mysql+pymysql://u:hunter22@127.0.0.1:1/x", "is the server running, and is the URL right?"),
        ("sqlite:////no/such/directory/usage.db", "does the directory exist?"),
        ("sqlite://", "use a file, such as sqlite:///usage.db"),
    ],
)
def test_says_in_one_line_what_is_wrong_with_a_url(url: str, says: str) -> None:
    line = one_line(here("db", "create", "--url", url))
    assert says in line
    assert "hunter22" not in line


def test_says_that_a_password_is_wrong(postgresql: Database) -> None:
    wrong = postgresql.url.replace(servers.PASSWORD, "hunter22").replace(servers.USER, "nobody")
    line = one_line(here("db", "check", "--url", wrong))
    assert "nobody:***@" in line
    assert "hunter22" not in line


def test_makes_no_file_by_checking(tmp_path: Path) -> None:
    file = tmp_path / "typo.db"
    line = one_line(here("db", "check", "--url", f"sqlite:///{file}"))
    assert "there is no file" in line
    assert not file.exists()


def test_says_what_is_wrong_with_an_option(sqlite: Database) -> None:
    done = db(sqlite, "create", "--user-id-type", "float")
    assert done.returncode == 2
    assert "is not one of 'uuid', 'integer', 'string'" in " ".join(done.stderr.replace("│", " ").split())
    says = "this database has no such column; create it by the app's own migrations first, or name another"
    assert says in one_line(db(sqlite, "create", "--users", "nobody.id"))


def test_tells_users_of_another_type_before_it_creates_anything(database: Database) -> None:
    engine = database.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id INTEGER PRIMARY KEY)")
    line = one_line(db(database, "create"))
    assert "and user_id_type is 'uuid': say --user-id-type integer, or --users none" in line
    assert sa.inspect(engine).get_table_names() == ["users"]
    assert db(database, "create", "--users", "none").returncode == 0
    done = db(database, "check")
    assert done.returncode == 1
    assert "say --user-id-type integer" in done.stdout
    assert db(database, "check", "--users", "none").returncode == 0


def test_says_of_a_table_that_was_there_what_it_refers_to(users_database: UsersDatabase) -> None:
    create_all(users_database.engine, users=None)
    done = db(users_database.database, "create")
    assert "feature_usage exists: its user_id has no foreign key" in done.stdout
    assert done.returncode == 1
    assert "feature_usage.user_id has no foreign key to users.id: run `usage-instrument db upgrade`" in done.stderr
    assert db(users_database.database, "upgrade", "--yes").returncode == 0
    done = db(users_database.database, "create")
    assert done.returncode == 0
    assert "feature_usage exists: its user_id refers to users.id." in done.stdout


def test_refuses_to_change_the_type_of_the_users(sqlite: Database) -> None:
    made(sqlite.engine(), user_id_type="integer")
    assert db(sqlite, "check").returncode == 1
    assert "set user_id_type to" in one_line(db(sqlite, "upgrade", "--yes"))


def test_a_wrong_option_is_an_error_of_usage(sqlite: Database) -> None:
    assert db(sqlite, "check", "--format", "xml").returncode == 2
    assert here("db", "nonsense").returncode == 2


def test_says_its_version() -> None:
    import usage_instrument

    assert run("--version").stdout == f"usage-instrument {usage_instrument.__version__}\n"


def test_says_how_to_get_its_libraries() -> None:
    code = "import sys; sys.modules['typer'] = None; from usage_instrument.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ['usage-instrument: libraries are missing: pip install "usage-instrument[cli]"']


@pytest.mark.parametrize(("kind", "said"), [("uuid", "string"), ("string", "uuid"), ("uuid", "integer")])
def test_tables_for_ids_of_another_type_are_not_as_they_should_be(database: Database, kind: str, said: str) -> None:
    made(database.engine(), user_id_type=kind)
    for command in ("check", "upgrade"):
        done = db(database, command, "--user-id-type", said)
        assert done.returncode != 0
        assert f"set user_id_type to '{kind}' (--user-id-type {kind})" in done.stdout + done.stderr


def test_a_table_of_users_in_the_singular_is_pointed_out(sqlite: Database) -> None:
    with sqlite.engine().begin() as connection:
        connection.exec_driver_sql("CREATE TABLE user (id INTEGER PRIMARY KEY)")
    assert "users='user.id' makes it refer to the table user" in db(sqlite, "create").stdout
