"""The questions over the Model Context Protocol, asked by its official client."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import made
from usage_instrument import queries
from usage_instrument.cli.database import parsed
from usage_instrument.cli.demo import database as calendar
from usage_instrument.cli.demo import past
from usage_instrument.cli.mcp import server_for
from usage_instrument.dashboard.reader import Reader
from usage_instrument.queries.questions import QUESTIONS
from usage_instrument.schema import create_all

if TYPE_CHECKING:
    from mcp import Client

COMMAND = Path(sys.executable).with_name("usage-instrument")
OF_ONE_USER = {"user_features", "recommend"}
VARIED = {"feature": past.VARIED, "key": "variant"}


def ask(url: str, questions: Callable[[Client], Any], *, identities: bool = False) -> Any:
    """What the questions find, of a server in this process."""
    return answered(server_for(Reader(parsed(url), None, None), identities), questions)


def ask_the_command(url: str, questions: Callable[[Client], Any], *options: str) -> Any:
    """What the questions find; the command is started, and ended by the end of its input."""
    from mcp import StdioServerParameters  # takes seconds

    arguments = ["mcp", "--url", url, *options]
    return answered(StdioServerParameters(command=str(COMMAND), args=arguments, env=dict(os.environ)), questions)


def answered(server: Any, questions: Callable[[Client], Any]) -> Any:
    from mcp import Client

    async def asked() -> Any:
        async with Client(server, read_timeout_seconds=60) as client:
            return await questions(client)

    return asyncio.run(asked())


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, sa.Engine]:
    url = f"sqlite:///{tmp_path_factory.mktemp('past') / 'usage.db'}"
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    calendar.create_database(engine, [])
    past.fill(engine, create_all(engine).tables, 2_000, users=calendar.users)
    return url, engine


def test_every_question_is_a_tool_that_reads_and_names_nobody(filled: tuple[str, sa.Engine]) -> None:
    url, engine = filled

    async def all_tools(client: Client) -> dict[str, Any]:
        tools = (await client.list_tools()).tools
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
        assert not [tool.name for tool in tools for name in tool.input_schema["properties"] if "sql" in name.lower()]
        steps = {"features": ["calendar_browse", "calendar_search"]}
        given: dict[str, dict[str, Any]] = {
            "variants": VARIED,
            "funnel": steps,
            "dimensions": {"feature": past.EXPORTED},
            "related_features": {"feature": past.RELATED[1]},
            "time_to_adopt": {"feature": "calendar_search"},
            "experiment": {"name": past.WON, "goal": past.GOAL, "weights": "equal", "guardrails": ["calendar_browse"]},
        }
        return {tool.name: await client.call_tool(tool.name, given.get(tool.name, {})) for tool in tools}

    answers = ask_the_command(url, all_tools)
    assert set(answers) == {question.select.__name__ for question in QUESTIONS} - OF_ONE_USER | {
        "experiment",
        "experiments",
    }
    assert not [name for name, answer in answers.items() if answer.is_error]
    found = {name: answer.structured_content for name, answer in answers.items()}
    with engine.connect() as connection:
        top = connection.execute(queries.top_features()).all()
        users = connection.scalars(sa.text("SELECT DISTINCT user_id FROM feature_usage WHERE user_id IS NOT NULL"))
        ids = [form for user in users for form in (str(user), str(UUID(str(user))))]
    assert [tuple(row.values()) for row in found["top_features"]["rows"]] == [tuple(row) for row in top]
    assert found["top_features"]["has_more"]
    assert not found["active_users"]["has_more"]
    assert len(found["power_users"]["rows"]) == 10
    assert {row["variant"] for row in found["variants"]["rows"]} >= {"A", "B"}
    assert [(row["experiment"], row["variant"]) for row in found["experiments"]["rows"]] == [
        (name, variant)
        for name, variants in ((past.CHECK, ("one", "two")), (past.WON, ("form", "suggestions")))
        for variant in variants
    ]
    verdict = found["experiment"]
    assert verdict["control"] == "form"
    assert verdict["words"].startswith(("Suggestions is better: +", "Not decided: ")), "the past is small"
    assert verdict["advice"]
    assert [each["variant"] for each in verdict["figures"]] == ["form", "suggestions"]
    assert [each["feature"] for each in verdict["guardrails"]] == ["calendar_browse"]
    assert ids
    text = "".join(answer.content[0].text for answer in answers.values())
    assert not [user for user in ids if user in text]


def test_identities_are_asked_for(filled: tuple[str, sa.Engine]) -> None:
    async def of_the_first(client: Client) -> Any:
        (first,) = (await client.call_tool("power_users", {"limit": 1, "since": "30d"})).structured_content["rows"]
        return first, await client.call_tool("user_features", {"user_id": first["user_id"], "since": "400d"})

    first, answer = ask_the_command(filled[0], of_the_first, "--identities")
    assert first["uses"] > 0
    rows = answer.structured_content["rows"]
    assert len(rows) >= first["features"]
    assert isinstance(rows[0]["metadata"], dict | None)


def test_what_a_metadata_key_holds_of_few_users_stays_hidden(sqlite: Database) -> None:
    tables = made(sqlite.engine(), user_id_type="integer")
    rows = [{"user_id": n, "feature_name": "share", "metadata": {"with": "ada" if n > 4 else "all"}} for n in range(10)]
    with sqlite.engine().begin() as connection:
        connection.execute(tables.usage.insert(), [*rows[1:], {**rows[0], "metadata": None}])

    async def by_key(client: Client) -> Any:
        return (await client.call_tool("variants", {"feature": "share", "key": "with"})).structured_content["rows"]

    shown = [(row["variant"], row["unique_users"]) for row in ask(sqlite.url, by_key)]
    assert shown == [("ada", 5), (None, 1)]
    assert [row["variant"] for row in ask(sqlite.url, by_key, identities=True)] == ["ada", "all", None]


def test_a_change_shows_no_value_of_few_users(sqlite: Database) -> None:
    tables = made(sqlite.engine(), user_id_type="integer")
    today = dt.datetime.now(dt.UTC).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    values = {"many": (range(5), range(7)), "few": (range(10, 16), range(10, 11)), "gone": ((), range(20, 25))}
    with sqlite.engine().begin() as connection:
        for value, sides in values.items():
            of_all = sorted({*sides[0], *sides[1]})
            rows = [{"user_id": user, "feature_name": "share", "metadata": {"with": value}} for user in of_all]
            connection.execute(tables.usage.insert(), rows)
            buckets = [
                {"user_id": user, "feature_name": "share", "bucket_start": today - dt.timedelta(days=ago)}
                for ago, side in zip((1, 8), sides, strict=True)
                for user in side
            ]
            connection.execute(tables.history.insert(), buckets)

    async def by_key(client: Client) -> Any:
        given = {"feature": "share", "key": "with", "since": "7d", "compare": "previous"}
        return (await client.call_tool("variants", given)).structured_content["rows"]

    shown = [(row["variant"], row["unique_users"], row["unique_users_before"]) for row in ask(sqlite.url, by_key)]
    assert shown == [("many", 5, 7), ("gone", 0, 5)]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("top_features", {"limit": 0}, "limit: 0 is less than the minimum of 1"),
    ("top_features", {"since": "soon"}, "since is 12h, 30d, 4w, 2026-01-31"),
    ("top_features", {"sql": "DROP TABLE feature_usage"}, "'sql' was unexpected"),
    ("trend", {"feature": "calendar_serch"}, "did you mean calendar_search"),
    ("trend", {"by": "year"}, "by: 'year' is not one of"),
    ("spikes", {"since": "60d"}, "not of 60 days"),
    ("adoption", {"by": "users.email"}, "'by' was unexpected"),
    ("funnel", {"features": ["x"]}, "features: ['x'] is too short"),
    ("adoption", {"compare": "previous"}, "pass since"),
    ("adoption", {"compare": "last"}, "compare: 'last' is not one of"),
    ("adoption", {"since": "7d", "until": "7d"}, "since must be before until"),
    ("variants", {"feature": "x"}, "'key' is a required property"),
    ("user_features", {"user_id": "anonymous"}, "there is no tool 'user_features'"),
    ("related_features", {"feature": "a\0b"}, "feature is the name of a feature"),
    ("experiment", {"name": "invite_dialog"}, "'goal' is a required property"),
    ("experiment", {"name": "invite_dialg", "goal": past.GOAL}, "did you mean invite_dialog"),
    ("experiment", {"name": past.WON, "goal": "calendar_invite"}, "did you mean calendar_invite_guests"),
    ("experiment", {"name": past.WON, "goal": past.GOAL, "weights": "form"}, "weights are given as"),
    ("experiments", {"limit": 3}, "'limit' was unexpected"),
]


def test_a_wrong_question_is_explained(filled: tuple[str, sa.Engine]) -> None:
    async def all_wrong(client: Client) -> list[Any]:
        return [await client.call_tool(name, given) for name, given, _ in WRONG]

    answers = ask(filled[0], all_wrong)
    for answer, (_, _, reason) in zip(answers, WRONG, strict=True):
        assert answer.is_error, reason
        assert reason in answer.content[0].text


def test_a_database_without_tables_is_explained(sqlite: Database) -> None:
    sqlite.engine().connect().close()

    async def top(client: Client) -> Any:
        return await client.call_tool("top_features", {})

    answer = ask(sqlite.url, top)
    assert answer.is_error
    assert "usage-instrument db create" in answer.content[0].text
