"""`usage-instrument experiment` and `experiments`: the verdict, its figures in every form, and what is wrong."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import subprocess

import jsonschema
import pytest
from typer.testing import CliRunner, Result

import forked
from blue_wins import exposure, filled, paid
from conftest import Database
from reading import made
from usage_instrument.cli.app import app
from usage_instrument.cli.mcp_experiments import EXPERIMENT_TOOLS
from usage_instrument.database.months import move_first_day
from usage_instrument.schema import Tables


def run(database: Database, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--url", database.url], env={"COLUMNS": "200"})


@pytest.fixture
def tables(database: Database) -> Tables:
    return filled(database)


@pytest.fixture
def past(sqlite: Database) -> Database:
    filled(sqlite)
    return sqlite


ASKED = ("experiment", "button", "--goal", "buy", "--weights", "red=1,blue=1")


def test_a_verdict_for_people_and_for_programs(database: Database, tables: Tables) -> None:
    done = run(database, *ASKED)
    assert done.exit_code == 0, done.output
    first, _, *table = done.stdout.splitlines()
    assert first.startswith("Blue is better: +")
    assert [line.split()[:3] for line in table[2:]] == [["red", "1001", "100"], ["blue", "1000", "400"]]
    assert "40.0 % (37.0 to 43.1 %)" in table[3]
    assert "control" in table[2]
    assert "50 of 500 units used buy only in the day (hour) of their first exposure" in done.stderr
    assert "1 unit is a visitor without a user" in done.stderr
    assert "2 units saw several variants" in done.stderr
    assert "--weights" not in done.stderr

    found = json.loads(run(database, *ASKED, "--guardrail", "search", "--format", "json").stdout)
    assert (found["verdict"], found["leader"], found["control"]) == ("better", "blue", "red")
    assert found["words"] == first
    assert [(row["variant"], row["units"], row["converted"], row["order_unknown"]) for row in found["figures"]] == [
        ("blue", 1_000, 400, 40),
        ("red", 1_001, 100, 10),
    ]
    assert found["excluded"] == 2
    assert [(each["feature"], each["has_fallen"]) for each in found["guardrails"]] == [("search", False)]

    red, blue = csv.DictReader(io.StringIO(run(database, *ASKED, "--format", "csv").stdout))
    assert (red["lift"], blue["verdict"], blue["experiment_verdict"]) == ("", "better", "better")
    assert float(blue["lift_low"]) < float(blue["lift"]) < float(blue["lift_high"])
    assert float(blue["conversion"]) == 0.4

    lines = run(database, *ASKED, "--format", "markdown").stdout.splitlines()
    assert lines[0] == f"**{first}**"
    assert lines[2].startswith("| variant | units | converted | conversion | effect | best |")


def test_uses_and_another_control(database: Database, tables: Tables) -> None:
    done = run(database, *ASKED, "--metric", "uses", "--control", "blue", "--format", "json")
    found = json.loads(done.stdout)
    assert (found["metric"], found["control"], found["verdict"]) == ("uses", "blue", "worse")
    means = {each["name"]: each["mean"]["value"] for each in found["variants"]}
    assert means == {"red": pytest.approx(200 / 1_001), "blue": pytest.approx(0.8)}
    assert "uses per unit" in run(database, *ASKED, "--metric", "uses").stdout


def test_a_split_that_was_not_meant_is_broken(past: Database) -> None:
    done = run(past, *ASKED[:-1], "red=1,blue=3")
    assert done.stdout.startswith("Broken: 50/50 split where 25/75 was meant")
    assert "Broken" not in run(past, *ASKED[:-1], "equal").stdout
    assert "the split between the variants is not checked" in run(past, *ASKED[:-2]).stderr


def test_a_period_bounds_the_exposures(past: Database) -> None:
    done = run(past, "experiment", "button", "--goal", "buy", "--since", "2026-03-03")
    assert (done.exit_code, done.stderr) == (
        2,
        "usage-instrument: nobody was exposed to an experiment 'button' in the period\n",
    )


def test_exposures_before_the_days_of_the_history_are_refused(database: Database, tables: Tables) -> None:
    """Numbers are kept by day all the same."""
    with database.engine().begin() as connection:
        move_first_day(connection, tables, dt.datetime.fromisoformat("2026-04-01"))
    done = run(database, *ASKED)
    assert done.exit_code == 2
    assert "before 2026-04-01 the history has months, and this experiment needs days from 2026-03-" in done.stderr
    assert "the history has months" not in run(database, *ASKED, "--since", "2026-04-01").stderr
    assert "the history has months" not in run(database, *ASKED, "--metric", "value").stderr


def test_days_of_a_period_may_be_those_of_a_time_zone(past: Database) -> None:
    def found(*zone: str) -> str:
        return run(
            past, "experiments", "--until", "2026-04-11", "--since", "2026-04-11", *zone, "--format", "csv"
        ).stdout

    assert '"price"' in found(), "first seen at midnight UTC"
    assert '"price"' not in found("--tz", "America/New_York"), "the day before there"
    refused = run(past, *ASKED, "--since", "2026-03-02", "--tz", "Europe/Berlin")
    assert "the history has a day instead of hours on 2026-03-02, which Europe/Berlin divides" in refused.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("buton", "--goal", "buy"), "nobody was exposed to an experiment 'buton'; did you mean button?"),
        (("button", "--goal", "buys"), "no feature 'buys' was used or declared here; did you mean buy?"),
        (("button", "--goal", "buy", "--guardrail", "x"), "no feature 'x' was used or declared here"),
        (("button", "--goal", "buy", "--control", "green"), "the control 'green' is none of the variants: blue, red"),
        (("button", "--goal", "buy", "--weights", "red"), "weights are given as red=1,blue=3, or as equal, not 'red'"),
        (("button", "--goal", "buy", "--weights", "red=1"), "the weights lack variants that were seen: 'blue'"),
        (("button", "--goal", "buy", "--weights", "red=0,blue=0"), "all weights are 0: give one a positive weight"),
        (("button", "--goal", "buy", "--weights", "red=1,blue=1,red=2"), "the weights name 'red' twice"),
        (("button", "--goal", "buy", "--since", "soon"), "since is 12h, 30d"),
        (("button", "--goal", "buy", "--minimum-effect", "2"), "minimum_effect"),
    ],
)
def test_what_is_wrong_is_one_line(past: Database, words: tuple[str, ...], problem: str) -> None:
    done = run(past, "experiment", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage-instrument: {problem}")
    assert done.stderr.count("\n") == 1


def test_all_experiments(database: Database, tables: Tables) -> None:
    rows = json.loads(run(database, "experiments", "--format", "json").stdout)
    assert [(row["experiment"], row["variant"], row["units"], row["excluded"]) for row in rows] == [
        ("button", "blue", 1_000, 2),
        ("button", "red", 1_001, 2),
        ("price", "new", 1, 0),
    ]
    assert rows[2]["first_exposed_at"] == "2026-04-11 00:00:00"
    shown = run(database, "experiments", "--since", "2026-04-01", "--format", "csv").stdout.splitlines()
    assert shown[0] == '"experiment","variant","units","excluded","first_exposed_at","last_exposed_at","state"'
    assert [line.split(",")[0] for line in shown[1:]] == ['"price"']
    assert {row["state"] for row in rows} == {"idle"}, "nobody for 7 days"
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    with database.engine().begin() as connection:
        connection.execute(tables.exposures.insert(), exposure("button", "red", 9_003, now))
    rows = json.loads(run(database, "experiments", "--format", "json").stdout)
    assert [row["state"] for row in rows] == ["running", "running", "idle"], "of the experiment, not of the variant"
    rows = json.loads(run(database, "experiments", "--until", "2026-04-30", "--format", "json").stdout)
    assert [row["state"] for row in rows] == ["running", "running", "idle"], "now, and not in the window"
    assert "No experiment" in run(database, "experiments", "--since", "2026-05-01", "--until", "2026-05-02").stdout


def test_a_database_of_the_release_before(database: Database, tables: Tables) -> None:
    with database.engine().begin() as connection:
        tables.exposures.drop(connection)
    for words in (("experiments",), ASKED):
        done = run(database, *words)
        assert (done.exit_code, done.stderr) == (
            2,
            "usage-instrument: there is no table feature_usage_exposures: run `usage-instrument db upgrade`\n",
        )


def test_an_app_that_has_written_nothing_yet_is_named_as_a_cause(sqlite: Database) -> None:
    made(sqlite.engine())
    refused = run(sqlite, *ASKED)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "no feature 'buy' was used or declared here. Nothing was counted so far. An app writes its" in refused.stderr
    assert "An app writes its exposures every five seconds" in run(sqlite, "experiments").stdout


WITHOUT_SCIPY = """
import sys
sys.modules["scipy"] = None
from usage_instrument.cli.app import app
app()
"""


def test_without_scipy_the_extra_is_named(past: Database) -> None:
    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        return forked.run(WITHOUT_SCIPY, *words, "--url", past.url)

    done = ran(*ASKED)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert 'pip install "usage-instrument[experiments]"' in done.stderr
    assert ran("experiments").returncode == 0


def test_the_numbers_of_a_goal_are_compared(past: Database) -> None:
    tables = made(past.engine(), user_id_type="integer")
    paid(tables, past.engine())
    given = ("experiment", "button", "--goal", "pay", "--metric", "value", "--control", "red", "--weights", "equal")
    done = run(past, *given, "--format", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["metric"], found["verdict"], found["leader"]) == ("value", "better", "blue")
    red = next(row for row in found["figures"] if row["variant"] == "red")
    assert (red["value"], red["converted"], red["units"]) == (10.0 * 500 + 499, 500, 1_001)
    assert "value per unit" in run(past, *given).stdout
    tool = EXPERIMENT_TOOLS["experiment"]
    wanted = {"name": "button", "goal": "pay", "metric": "value", "control": "red", "weights": "equal"}
    jsonschema.validate(wanted, tool.schema)
    with past.engine().connect() as connection:
        answer = tool.answer(connection, tables, wanted, 10)
        none = tool.answer(connection, tables, {**wanted, "goal": "buy"}, 10)
    assert (answer["words"], answer["figures"]) == (found["words"], found["figures"])
    assert none["words"] == "Not decided: no use of the goal has a number"
    assert none["advice"].startswith("Pass value= where the goal is captured")
    with past.engine().begin() as connection:
        tables.dimensions.drop(connection)
    refused = run(past, *given)
    assert (refused.exit_code, "there is no table feature_usage_dimensions" in refused.stderr) == (2, True)
