"""Each question is described once. docs/guides/analysts.md names them all, and its SQL, commands and snippet run."""

from __future__ import annotations

import datetime as dt
import inspect
import re
import shlex
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from conftest import Database
from usage_instrument import queries
from usage_instrument.audit.anomalies import Search, anomalies
from usage_instrument.cli.app import app
from usage_instrument.cli.demo import database as calendar
from usage_instrument.cli.demo import past
from usage_instrument.dashboard.results import BY_PAGE
from usage_instrument.database.reflection import find_tables
from usage_instrument.queries.questions import FEATURES, QUESTIONS, Question
from usage_instrument.schema import Tables, create_all
from usage_instrument.views import create_views

ADA = uuid.UUID("6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55")
PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "analysts.md").read_text(encoding="utf-8")


def test_every_question_has_one_description_a_command_and_a_page() -> None:
    others = {"check_days", "check_hours", "experiment", "experiments"}
    assert sorted({*others, *(question.select.__name__ for question in QUESTIONS)}) == queries.__all__
    commands = {info.name for info in app.registered_commands}
    assert {question.name for question in QUESTIONS} <= commands
    assert list(BY_PAGE.values()) == list(QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_a_description_names_the_arguments_and_columns_of_the_function(question: Question) -> None:
    given: dict[str, Any] = {
        each.name: ["any", "thing"] if each.type is FEATURES else "anything"
        for each in question.arguments
        if each.is_required and each.name != "user_id"
    }
    if "user_id" in inspect.signature(question.select).parameters:
        given["user_id"] = "6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55"
    shown = {*question.select(**given).selected_columns.keys()}
    assert {column.name for column in question.columns if not column.is_optional} <= shown
    assert shown <= {column.name for column in question.columns}
    assert question.bar is None or question.bar in {column.name for column in question.columns}


def test_the_page_lists_every_question_with_its_arguments() -> None:
    listed = dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", PAGE, re.MULTILINE))
    described = {}
    for question in QUESTIONS:
        required = [each.name.removesuffix("_id").upper() for each in question.arguments if each.is_required]
        parameters = [each for name, each in inspect.signature(question.select).parameters.items() if name != "tables"]
        texts = []
        for each in parameters:
            default = re.sub(r"datetime\.timedelta\(days=(\d+)\)", r"timedelta(days=\1)", repr(each.default))
            default = default.replace("'", '"')
            texts.append(each.name if each.default is inspect.Parameter.empty else f"{each.name}={default}")
        described[" ".join([question.name, *required])] = f"{question.select.__name__}({', '.join(texts)})"
    assert listed == described


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def filled(engine: sa.Engine) -> past.Truths:
    calendar.create_database(engine, [])
    truths = past.fill(engine, create_all(engine).tables, 2_000, users=calendar.users)
    create_views(engine)
    return truths


NAMES = {"PostgreSQL": "postgresql", "MariaDB": "mariadb", "SQLite": "sqlite"}


def statements_for(dialect: str) -> dict[str, list[str]]:
    """The statements that the page prints for this database, by their section."""
    found: dict[str, list[str]] = {}
    for section in PAGE.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        for snippet in re.findall(r"```sql\n(.*?)```", section, re.DOTALL):
            label = re.match(r"-- ([^:\n]+)", snippet)
            if label is None or dialect in [NAMES[name] for name in label[1].split(", ")]:
                found.setdefault(title, []).extend(each for each in snippet.split(";") if each.strip())
    return found


def unusual(connection: sa.Connection, tables: Tables) -> list[object]:
    """All that stands out in the last week: days of features and users, what fell, what fell silent, and accesses."""
    today = dt.datetime.now(dt.UTC).date()
    asked = (queries.spikes(tables=tables), queries.spikes(by="user", tables=tables), queries.drops(tables=tables))
    found: list[object] = [(row[0], row.day) for question in asked for row in connection.execute(question)]
    found += connection.scalars(queries.silent(tables=tables))
    week = Search(today - dt.timedelta(days=6), today + dt.timedelta(days=1))
    return [*found, *(each[:4] for each in anomalies(connection, tables, week))]


def watched(engine: sa.Engine, tables: Tables) -> None:
    """Ada's habits: two features, each day at seven o'clock UTC, and yesterday a hundred times as often."""
    today = dt.datetime.now(dt.UTC).replace(tzinfo=None, hour=7, minute=0, second=0, microsecond=0)
    with engine.begin() as connection:
        connection.execute(calendar.users.insert().values(id=ADA, name="Ada", plan="team"))
        for feature in ("calendar_search", "calendar_browse"):
            key = {"user_id": ADA, "feature_name": feature}
            connection.execute(tables.usage.insert().values(**key, usage_count=120, last_used=today))
            rows = [
                {**key, "bucket_start": today - dt.timedelta(days=days), "usage_count": 100 if days == 1 else 1}
                for days in range(1, 20)
            ]
            connection.execute(tables.history.insert(), rows)


def test_its_sql_answers_as_it_stands(database: Database) -> None:
    engine = database.engine()
    truths = filled(engine)
    with engine.connect() as connection:
        tables = find_tables(connection)
        assert unusual(connection, tables) == [truths.spike, truths.rush, truths.fell, truths.silent, *truths.trail]
    watched(engine, tables)
    printed = statements_for("mariadb" if engine.dialect.name == "mysql" else engine.dialect.name)
    assert len(printed) > 18
    with engine.connect() as connection:
        answers = {
            title: [result.all() for result in map(connection.exec_driver_sql, statements) if result.returns_rows]
            for title, statements in printed.items()
        }
        connection.rollback()
    assert answers.pop("Can I trust the numbers?") == [[]]
    for title, found in answers.items():
        assert all(found), title
    (spikes,) = answers["Who suddenly does far more? Spikes of one user"]
    assert [(row[1], int(row[3]), int(row[4])) for row in spikes[:2]] == [
        ("calendar_browse", 100, 1), ("calendar_search", 100, 1)
    ]  # fmt: skip
    (hours,) = answers["At which hours?"]
    assert int(hours[-1][0]) in (8, 9)
    (spiking,) = answers["Which days stand out? Spikes"]
    assert "calendar_export" in {row[0] for row in spiking}
    ((test,),) = answers["Is the difference significant?"]
    assert 0 < test.share_a < 1
    assert test.chi_squared >= 0
    (own, *_) = answers["What does this user do?"]
    assert {row[0] for row in own} == {"calendar_search", "calendar_browse"}


@pytest.mark.parametrize("name", ["user", "order"])
def test_the_printed_sql_names_the_users_table_in_quotes(name: str, server: Database) -> None:
    engine = server.engine()
    metadata = sa.MetaData()
    people = sa.Table(name, metadata, sa.Column("id", sa.Uuid, primary_key=True))
    metadata.create_all(engine)
    create_all(engine, users=f"{name}.id")
    with engine.begin() as connection:
        connection.execute(people.insert(), [{"id": uuid.uuid4()} for _ in range(4)])
        connection.execute(
            sa.insert(sa.table("feature_usage", sa.column("user_id"), sa.column("feature_name"))).from_select(
                ["user_id", "feature_name"], sa.select(people.c.id, sa.literal("export")).limit(1)
            )
        )
    done = CliRunner().invoke(app, ["sql", "adoption", "--url", engine.url.render_as_string(hide_password=False)])
    assert done.exit_code == 0, done.output
    with engine.connect() as connection:
        assert [tuple(row) for row in connection.exec_driver_sql(done.stdout.rstrip().rstrip(";"))] == [
            ("export", 1, 1, 0.25)
        ]


def test_its_commands_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    filled(sa.create_engine("sqlite:///usage-demo.db"))
    monkeypatch.setenv("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///usage-demo.db")
    shown = [
        line.removeprefix("$ ") for block in snippets("console") for line in block.splitlines() if line[:2] == "$ "
    ]
    inline = [each for each in re.findall(r"`(usage-instrument [^`]+)`", PAGE) if not re.search("[A-Z]{3}|demo", each)]
    assert len(shown) + len(inline) > 10
    for command in [*shown, *inline]:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, (command, done.output)


def test_its_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    filled(sa.create_engine("sqlite:///usage-demo.db"))
    (snippet,) = snippets("python")
    names: dict[str, Any] = {}
    exec(compile(snippet, "analysts.md", "exec"), names)
    names["engine"].dispose()
    assert capsys.readouterr().out.startswith("calendar_browse ")
