"""Each question is described once. docs/guides/analysts.md names them all, and its SQL, commands and snippet run."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from conftest import Database
from usage_instrument import queries
from usage_instrument.cli.app import app
from usage_instrument.cli.demo import database as calendar
from usage_instrument.cli.demo import past
from usage_instrument.dashboard.results import BY_PAGE
from usage_instrument.queries.questions import QUESTIONS, Question
from usage_instrument.schema import create_all
from usage_instrument.views import create_views

PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "analysts.md").read_text(encoding="utf-8")


def test_every_question_has_one_description_a_command_and_a_page() -> None:
    assert sorted(question.select.__name__ for question in QUESTIONS) == queries.__all__
    commands = {info.name for info in app.registered_commands}
    assert {question.name for question in QUESTIONS} <= commands
    assert list(BY_PAGE.values()) == list(QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_a_description_names_the_arguments_and_columns_of_the_function(question: Question) -> None:
    given = {each.name: "anything" for each in question.arguments if each.is_required and each.name != "user_id"}
    if "user_id" in inspect.signature(question.select).parameters:
        given["user_id"] = "6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55"
    assert {column.name for column in question.columns} == set(question.select(**given).selected_columns.keys())
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


def filled(engine: sa.Engine) -> None:
    calendar.create_database(engine, [])
    past.fill(engine, create_all(engine).tables, 2_000, users=calendar.users)
    create_views(engine)


def test_its_sql_runs_as_it_stands(postgresql: Database) -> None:
    engine = postgresql.engine()
    filled(engine)
    statements = [each for snippet in snippets("sql") for each in snippet.split(";") if each.strip()]
    assert len(statements) > 10
    with engine.connect() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
            expected = "losses" in statement or "'6f1f9c1e" in statement  # nothing was lost, and the user is made up
            assert not result.returns_rows or bool(result.all()) is not expected, statement
        connection.rollback()


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
