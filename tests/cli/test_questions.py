"""The questions as commands: each finds what is in a past, in every form, and says what is wrong in one line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console
from typer.testing import CliRunner, Result

from conftest import Database, with_users
from reading import made
from usage_instrument.cli.app import app
from usage_instrument.cli.demo import database as calendar
from usage_instrument.cli.demo import past, report
from usage_instrument.database.ledger import utcnow
from usage_instrument.queries.questions import QUESTIONS
from usage_instrument.schema import Tables, create_all

ARGUMENTS: dict[str, list[str]] = {
    "user": ["anonymous", "--since", "400d"],
    "variants": [past.VARIED, "variant"],
    "dimensions": [past.EXPORTED],
    "related": [past.RELATED[1]],
    "time-to-adopt": ["calendar_search", "--since", "400d"],
    "funnel": ["calendar_browse", "calendar_search"],
    "recommend": ["6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55"],
}
"""What a question cannot do without."""


class Past:
    """A filled SQLite file, and what is in it."""

    def __init__(self, place: Path) -> None:
        self.path = place / "usage.db"
        self.url = f"sqlite:///{self.path}"
        engine = sa.create_engine(self.url)
        calendar.create_database(engine, [])
        self.truths = past.fill(engine, _tables(engine), 5_000, users=calendar.users)
        engine.dispose()

    def ask(self, *command: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [*command, "--url", self.url])
        assert result.exit_code == code, result.output
        return result

    def answer(self, *command: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ask(*command, "--format", "json").stdout)
        return found


def _tables(engine: sa.Engine) -> Tables:
    return made(engine)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return Past(tmp_path_factory.mktemp("past"))


def test_the_truths_are_found(filled: Past) -> None:
    truths = filled.truths
    feature, day = truths.spike
    assert [(row["feature_name"], row["day"]) for row in filled.answer("spikes")] == [(feature, str(day))]
    user, rush = truths.rush
    assert [(row["user_id"], row["day"]) for row in filled.answer("spikes", "--by", "user")] == [(str(user), str(rush))]
    feature, day = truths.fell
    assert [(row["feature_name"], row["day"]) for row in filled.answer("drops")] == [(feature, str(day))]
    assert [row["feature_name"] for row in filled.answer("silent")] == [truths.silent]
    trail = [
        [row[name] for name in ("what", "day", "user_id", "feature_name")]
        for row in filled.answer("audit", "anomalies")
    ]
    assert trail == [[what, str(day), str(user), feature] for what, day, user, feature in truths.trail]
    assert filled.ask("audit", "verify").stdout.startswith("The trail is consistent")
    unused = {row["feature_name"]: row["status"] for row in filled.answer("unused", "--since", "90d")}
    assert unused == {truths.dead: "dormant", truths.never: "never", truths.retired: "retired"} or (
        unused == {truths.dead: "dormant", truths.never: "never"}  # used within the period, shortly before it retired
    )
    assert {row["feature_name"] for row in filled.answer("unused")} == {truths.never}
    assert filled.answer("power-users", "--limit", "1")[0]["user_id"] == str(truths.power_user)
    varied, key, winner = truths.variant
    by_variant = {row["variant"]: row["uses"] / row["unique_users"] for row in filled.answer("variants", varied, key)}
    assert max(by_variant, key=lambda variant: by_variant[variant]) == winner
    exported, dimension, most = truths.dimension
    formats = filled.answer("dimensions", exported, "--dimension", dimension)
    assert formats[0]["dimension_value"] == most
    related = filled.answer("related", truths.related[1])
    assert max(related, key=lambda row: float(row["lift"]))["feature_name"] == truths.related[0]


def test_the_demo_names_the_commands_that_compare_its_experiments(filled: Past) -> None:
    pytest.importorskip("scipy")
    printed = io.StringIO()
    report.truths(Console(file=printed, width=200), 5_000, filled.truths)
    commands = re.findall(r"^ +(experiment .*?)  ", printed.getvalue(), re.MULTILINE)
    of_winner, of_equals = (filled.ask(*command.split()).stdout for command in commands)
    assert of_winner.startswith(("Suggestions is better: +", "Not decided: ")), "the past is small"
    assert of_equals.startswith(("Not decided: ", "No difference"))


def test_the_others_answer(filled: Past) -> None:
    top = filled.answer("top", "--limit", "3")
    assert top[0]["feature_name"] == "calendar_browse"
    assert len(top) == 3
    adoption = {row["feature_name"]: row["share"] for row in filled.answer("adoption")}
    assert 0 < adoption["calendar_time_zones"] < adoption["calendar_sign_in"] < 1
    trend = filled.answer("trend", "--by", "week", "--since", "4w")
    assert len(trend) in {4, 5}
    assert all(row["uses"] > 0 for row in trend)
    (active,) = filled.answer("active")
    assert 0 < active["dau"] <= active["wau"] <= active["mau"]
    assert len(filled.answer("user", str(filled.truths.power_user))) > 10
    assert filled.answer("recommend", str(filled.truths.power_user)) == []


@pytest.mark.parametrize("question", [question.name for question in QUESTIONS])
@pytest.mark.parametrize("form", ["table", "json", "csv", "markdown"])
def test_every_answer_in_every_form(filled: Past, question: str, form: str) -> None:
    done = filled.ask(question, *ARGUMENTS.get(question, []), "--format", form)
    if form == "csv":
        names, *rows = csv.reader(io.StringIO(done.stdout))
        assert all(len(row) == len(names) for row in rows)
    elif form == "json":
        assert isinstance(json.loads(done.stdout), list)
    else:
        assert done.stdout.strip()


@pytest.mark.parametrize("question", [question.name for question in QUESTIONS])
def test_every_question_as_sql_gives_the_same_answer(filled: Past, question: str) -> None:
    command = [question, *ARGUMENTS.get(question, [])]
    printed = filled.ask("sql", *command).stdout
    connection = sqlite3.connect(filled.path)
    try:
        rows = connection.execute(printed).fetchall()
    finally:
        connection.close()
    assert len(rows) == len(filled.answer(*command))


@pytest.mark.parametrize("question", [question.name for question in QUESTIONS])
@pytest.mark.parametrize("dialect", ["postgresql", "mariadb", "mysql", "sqlite"])
def test_sql_needs_no_database(question: str, dialect: str) -> None:
    done = CliRunner().invoke(app, ["sql", question, *ARGUMENTS.get(question, []), "--dialect", dialect])
    assert done.exit_code == 0, done.output
    assert done.stdout.rstrip().endswith(";")
    assert "%(" not in done.stdout


def test_a_trend_is_drawn(filled: Past) -> None:
    lines = filled.ask("trend", "--since", "7d").stdout.splitlines()
    assert sum("█" in line for line in lines) == 7
    weeks = filled.ask("trend", "--since", "20d", "--by", "week").stdout.splitlines()[2:]
    assert ["so far" in week for week in weeks] == [False] * (len(weeks) - 1) + [True]


def test_a_window_has_two_ends(filled: Past) -> None:
    (uses,) = filled.answer("top", "--limit", "1", "--since", "28d", "--until", "7d")
    (all_uses,) = filled.answer("top", "--limit", "1", "--since", "28d")
    assert 0 < uses["total_usage"] < all_uses["total_usage"]
    days = filled.answer("trend", "--since", "2024-01-01", "--until", "2024-W01")
    assert [day["bucket_start"] for day in days] == [f"2024-01-0{day} 00:00:00" for day in range(1, 8)]
    nothing = filled.ask("power-users", "--since", "2024-02", "--until", "2024-02")
    assert nothing.stdout == "No signed-in user was active from 2024-02-01 to 2024-02-29.\n"
    none = filled.ask("top", "--since", "7d", "--until", "14d", code=2)
    assert "since must be before until: 7d to 14d has no day" in none.stderr
    for question in QUESTIONS:
        filled.ask(question.name, *ARGUMENTS.get(question.name, []), "--until", "yesterday")


def test_beside_the_window_before(filled: Past) -> None:
    now = {row["feature_name"]: row["uses"] for row in filled.answer("adoption", "--since", "28d")}
    then = {row["feature_name"]: row["uses"] for row in filled.answer("adoption", "--since", "56d", "--until", "28d")}
    both = filled.answer("adoption", "--since", "28d", "--compare", "previous")
    assert {row["feature_name"]: (row["uses"], row["uses_before"], row["uses_change"]) for row in both} == {
        name: (now.get(name, 0), then.get(name, 0), now.get(name, 0) - then.get(name, 0)) for name in {*now, *then}
    }
    for question in QUESTIONS:
        if question.compared:
            edges = [f"--{each.name}=last month" for each in question.arguments if each.name in ("since", "until")]
            command = [question.name, *ARGUMENTS.get(question.name, []), *edges, "--compare", "previous"]
            beside = {f"{name}{of}" for name in question.compared for of in ("_before", "_change", "_relative_change")}
            for row in filled.answer(*command):
                assert beside <= row.keys(), question.name
            assert "_before" in filled.ask("sql", *command).stdout
    assert "pass since" in filled.ask("top", "--compare", "previous", code=2).stderr


def test_adoption_by_a_column_of_the_users(filled: Past) -> None:
    for by in ("users.plan", "plan"):
        rows = filled.answer("adoption", "--by", by, "--since", "90d")
        assert {row["plan"] for row in rows} >= {"free", "pro"}, rows
        plans = filled.answer("groups", "--by", by, "--since", "90d")
        assert [row["value"] for row in plans] == ["free", "pro"]
        assert all(0 < row["unique_users"] < row["users"] for row in plans)
    assert sum(row["users"] for row in plans) == filled.answer("groups")[0]["users"]
    done = filled.ask("adoption", "--by", "users.salary", code=2)
    assert "salary" in done.stderr


def test_a_column_that_the_users_do_not_have(database: Database) -> None:
    host = with_users(database)
    create_all(host.engine)
    for command in (["adoption", "--by"], ["groups", "--by"], ["time-to-adopt", "export", "--start"]):
        done = CliRunner().invoke(app, [*command, "users.names", "--url", database.url])
        assert done.exit_code == 2
        assert done.stderr.rstrip().endswith("users has no column 'names'; did you mean name?"), done.output


def test_users_over_time(filled: Past) -> None:
    cohorts = filled.answer("retention", "--by", "month", "--since", "400d")
    assert {row["period"] for row in cohorts} >= {0, 1, 2}
    assert all(row["share"] == 1 for row in cohorts if row["period"] == 0)
    weeks = filled.answer("lifecycle", "--since", "4w")
    assert [row["is_running"] for row in weeks] == [False] * (len(weeks) - 1) + [True]
    first, second = filled.answer("funnel", "calendar_browse", "calendar_search", "--within", "28d", "--since", "90d")
    assert first["unique_users"] >= second["unique_users"] > 0
    assert sum(row["share"] for row in filled.answer("stickiness")) == pytest.approx(1)
    assert all("user_id" in row for row in filled.answer("spikes", "--by", "user", "--threshold", "1"))


def test_ids_of_every_type_are_found_out(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine, user_id_type="integer")
    with engine.begin() as connection:
        connection.execute(tables.usage.insert().values(user_id=42, feature_name="export", usage_count=3))
    done = CliRunner().invoke(app, ["user", "42", "--url", sqlite.url, "--format", "json"])
    assert [(row["feature_name"], row["usage_count"]) for row in json.loads(done.stdout)] == [("export", 3)]


def test_unused_guards_a_job(filled: Past) -> None:
    filled.ask("unused", "--fail-over", "1")
    done = filled.ask("unused", "--fail-over", "0", code=1)
    assert "1 features are unused, more than 0" in done.stderr


def test_nothing_yet(database: Database) -> None:
    made(database.engine())
    for question in QUESTIONS:
        if question.name in {"variants", "dimensions", "related", "funnel", "time-to-adopt"}:
            continue  # no feature has that name
        done = CliRunner().invoke(app, [question.name, *ARGUMENTS.get(question.name, []), "--url", database.url])
        assert done.exit_code == 0
        assert done.stdout.startswith("Nothing was counted so far."), done.output
        assert done.stdout.count("\n") == 1
        assert done.stderr == ""
    done = CliRunner().invoke(app, ["unused", "--fail-over", "0", "--url", database.url])
    assert done.exit_code == 2, "a job that guards nothing"
    assert "no feature can be reported as unused" in done.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["variants", "calendar_brwse", "variant"], "did you mean calendar_browse"),
        (["related", "nothing like it"], "no feature 'nothing like it' was used or declared here"),
        (["trend", "--feature", "calendar_brows"], "did you mean calendar_browse"),
        (
            ["top", "--since", "soon"],
            "since is 12h, 30d, 4w, 2026-01-31, 2026-01, 2026-W14, today, yesterday or last month (UTC), not 'soon'",
        ),
        (["user", "ada"], "neither"),
        (["funnel", "calendar_browse"], "features are the names of 2 to 10 features in order"),
        (["funnel", "calendar_browse", "calendar_brows"], "no feature 'calendar_brows' was used"),
        (["funnel", "calendar_browse", "calendar_search", "--within", "soon"], "within is a time above 0"),
        (["adoption", "--by", "people.plan"], "by is a column of users, such as 'users.plan', not 'people.plan'"),
        (["trend", "--tz", "Europe/Berlin"], "the history has a day instead of hours on"),
        (["rhythm", "--tz", "Europe/Berlin"], "the history has a day instead of hours on"),
        (["lifecycle", "--tz", "Asia/Kolkata"], "the clock is +05:30 from UTC on"),
        (["top", "--tz", "Berlin"], "tz is the name of a time zone such as Europe/Berlin, not 'Berlin'"),
        (["recommend", "anonymous"], "the anonymous user resembles nobody"),
        (["power-users", "--feature", "x" * 101], "100 characters"),
    ],
)
def test_bad_input_is_one_line(filled: Past, command: list[str], said: str) -> None:
    done = filled.ask(*command, code=2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_table_is_named(sqlite: Database) -> None:
    tables, engine = made(sqlite.engine()), sqlite.engine()
    tables.history.drop(engine)
    done = CliRunner().invoke(app, ["trend", "--url", sqlite.url])
    assert done.exit_code == 2
    assert "there is no table feature_usage_history: run `usage-instrument db create`" in done.stderr
    done = CliRunner().invoke(app, ["top", "--url", f"{sqlite.url}.other"])
    assert "there is no file" in done.stderr


def test_variants_answer_without_the_table_of_dimensions(sqlite: Database) -> None:
    """As in a database of the release before."""
    engine = sqlite.engine()
    tables = made(engine)
    row = {"user_id": uuid.uuid4(), "feature_name": "buy", "usage_count": 3, "metadata": {"color": "red"}}
    with engine.begin() as connection:
        connection.execute(tables.usage.insert(), {**row, "last_used": utcnow()})
    tables.dimensions.drop(engine)

    def asked(*more: str) -> Result:
        return CliRunner().invoke(app, ["variants", "buy", "color", *more, "--format", "csv", "--url", sqlite.url])

    assert asked().stdout.splitlines()[1:] == ['"red",1,3,1.0']
    assert asked("--source", "metadata").stdout == asked().stdout
    done = asked("--source", "dimension")
    assert (done.exit_code, "feature_usage_dimensions" in done.stderr) == (2, True)


def test_the_shell_completes() -> None:
    program = [sys.executable, "-c", "from usage_instrument.cli import main; main()"]
    done = subprocess.run(
        program,
        env={
            **os.environ,
            "_USAGE_INSTRUMENT_COMPLETE": "complete_bash",
            "COMP_WORDS": "usage-instrument po",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "power-users" in done.stdout, done.stderr


def test_says_what_an_answer_does_not(filled: Past, sqlite: Database) -> None:
    hours = filled.ask("trend", "--by", "hour", "--since", "3h")
    assert "this history is kept by day" in hours.stderr
    other = filled.ask("variants", filled.truths.variant[0], "no such key")
    assert "no use of this feature has the key 'no such key' in its metadata" in other.stderr
    assert "anonymous uses are left out, as only their last value is known" in other.stderr
    assert "capture 'no such key' with `dimensions=` to count each use by its own" in other.stderr
    by_format = filled.ask("variants", *filled.truths.dimension[:2])
    assert "anonymous uses are left out, as they are of no known number of users" in by_format.stderr
    assert "met several values and count for each" in by_format.stderr
    latest = filled.ask("variants", *filled.truths.dimension[:2], "--source", "metadata")
    assert "the dimension 'format' has each use by its own" in latest.stderr
    sql = filled.ask("sql", "variants", *filled.truths.dimension[:2]).stdout
    assert "feature_usage_dimensions" in sql
    assert "UNION" not in sql
    with sqlite.engine().begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE feature_usage (id INTEGER PRIMARY KEY, user_id CHAR(32), feature_name VARCHAR(100), "
            "metadata JSON, usage_count INTEGER DEFAULT 1, last_used TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"
        )
    done = CliRunner().invoke(app, ["top", "--url", sqlite.url])
    assert done.exit_code == 0
    assert "feature_usage has no unique index and may count a user twice" in done.stderr
    done = CliRunner().invoke(app, ["top", "--since", "7d", "--url", sqlite.url])
    assert done.exit_code == 2
    assert "run `usage-instrument db upgrade`" in done.stderr


def test_a_dialect_that_is_said_beats_the_database_of_the_environment(filled: Past) -> None:
    environment = {"USAGE_INSTRUMENT_DATABASE_URL": filled.url}
    asked = ["sql", "trend", "--by", "week"]
    assert "strftime" in CliRunner().invoke(app, asked, env=environment).stdout
    assert "date_trunc" in CliRunner().invoke(app, [*asked, "--dialect", "postgresql"], env=environment).stdout
    done = CliRunner().invoke(app, [*asked, "--dialect", "postgresql", "--url", filled.url])
    assert (done.exit_code, "not both" in done.stderr) == (2, True)


def test_sql_names_the_users_table_of_the_host(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql('CREATE TABLE "user" (id INTEGER PRIMARY KEY)')  # user alone is the role's name
        connection.exec_driver_sql('INSERT INTO "user" VALUES (1), (2), (3), (4)')
    tables = create_all(engine, users="user.id", user_id_type="integer").tables
    with engine.begin() as connection:
        connection.execute(tables.usage.insert().values(user_id=2, feature_name="export", usage_count=3))
    done = CliRunner().invoke(app, ["sql", "adoption", "--url", postgresql.url])
    assert '(SELECT count(*) FROM "user")' in done.stdout
    assert 'LEFT JOIN "user" ON "user".id = feature_usage.user_id' in done.stdout.replace("\n", " ")
    with engine.connect() as connection:
        assert connection.exec_driver_sql(done.stdout).all() == [("export", 1, 3, 0.25)]
