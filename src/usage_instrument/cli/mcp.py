"""`usage-instrument mcp`: answers the questions to a program that speaks the Model Context Protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from sqlalchemy import Connection

from usage_instrument import __version__
from usage_instrument.dashboard.errors import PageError
from usage_instrument.dashboard.reader import Reader
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, UsageInstrumentError
from usage_instrument.queries.questions import LIMIT, QUESTIONS, USER, Question

from .database import parsed
from .errors import explained, fail
from .mcp_experiments import EXPERIMENT_TOOLS
from .options import ReadUrl, Schema, required
from .questions import ask

if TYPE_CHECKING:
    from mcp.server import Server

ROWS = 200
"""Rows of an answer, at most."""
FEWEST = 5
"""Without identities, a value in the metadata of fewer users is left out: it may identify them."""
_INSTRUCTIONS = (
    "Answers questions about which features of an application people use. It only reads. `adoption` lists the features "
    "with their users and uses, `unused` those without. `experiment` gives the verdict on an A/B test, `experiments` "
    "lists them. Days are UTC days, unless `tz` names a time zone. Anonymous uses have no user."
)


def mcp(
    url: ReadUrl = None,
    schema: Schema = None,
    identities: Annotated[
        bool,
        typer.Option("--identities", help="Also answer questions about single users, and show user ids."),
    ] = False,
) -> None:
    """Serve the questions as read-only tools over the Model Context Protocol, on stdin and stdout.

    No tool takes SQL. Without --identities, no answer holds a user id.
    """
    database = parsed(required(url))
    try:
        import anyio
        from mcp.server.stdio import stdio_server
    except ModuleNotFoundError:
        raise fail('a library is missing: pip install "usage-instrument[mcp]"') from None
    with explained(database):
        server = server_for(Reader(database, None, schema), identities)

    async def serve() -> None:
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())

    anyio.run(serve)


def server_for(reader: Reader, identities: bool) -> Server[Any]:
    """The server of these questions over one database."""
    from anyio import to_thread
    from mcp.server import Server
    from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool, ToolAnnotations

    questions = {
        question.select.__name__: question
        for question in QUESTIONS
        if identities or not any(argument.type is USER for argument in question.arguments)
    }
    described = {
        name: (question.title, _description(question, identities), _schema(question))
        for name, question in questions.items()
    }
    described |= {name: (tool.title, tool.description, tool.schema) for name, tool in EXPERIMENT_TOOLS.items()}
    tools = [
        Tool(
            name=name,
            title=title,
            description=description,
            input_schema=schema,
            annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
        )
        for name, (title, description, schema) in described.items()
    ]

    def answerer(name: str, given: Mapping[str, Any]) -> Callable[[Connection, Tables], dict[str, Any]]:
        if (tool := EXPERIMENT_TOOLS.get(name)) is not None:
            _check(given, tool.schema, name)
            return lambda connection, tables: _as_json(tool.answer(connection, tables, given, ROWS))
        question = questions.get(name)
        if question is None:
            raise ConfigurationError(f"there is no tool {name!r}, but {', '.join(described)}")
        complete = checked(question, given)
        return lambda connection, tables: _answer(connection, tables, question, complete, identities)

    async def list_tools(*_: Any) -> ListToolsResult:
        return ListToolsResult(tools=tools)

    async def call_tool(_: Any, params: Any) -> CallToolResult:
        try:
            answer = await to_thread.run_sync(reader.read, answerer(params.name, params.arguments or {}))
        except (UsageInstrumentError, PageError) as error:
            text = " ".join([str(error), *getattr(error, "advice", ())])
            return CallToolResult(content=[TextContent(text=text)], is_error=True)
        content = TextContent(text=json.dumps(answer, ensure_ascii=False))
        return CallToolResult(content=[content], structured_content=answer)

    return Server(
        "usage-instrument",
        version=__version__,
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def checked(question: Question, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a question, completed by its defaults. Raises ConfigurationError."""
    _check(given, _schema(question), question.name)
    return {argument.name: given.get(argument.name, argument.written_default) for argument in question.arguments}


def _check(given: Mapping[str, Any], schema: Mapping[str, Any], name: str) -> None:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(dict(schema)).iter_errors(dict(given)):
        raise ConfigurationError(f"{'.'.join(map(str, error.path)) or name}: {error.message}")


def _as_json(found: Mapping[str, Any]) -> dict[str, Any]:
    as_json: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return as_json


def _answer(
    connection: Connection, tables: Tables, question: Question, given: Mapping[str, Any], identities: bool
) -> dict[str, Any]:
    limit = min(given.get("limit", ROWS), ROWS)
    asked = {**given, "limit": limit + 1} if "limit" in given else given
    answer = ask(connection, tables, question, asked, limit + 1)
    hidden = set() if identities else question.names_of("user")
    values = set() if identities else question.names_of("variant")
    rows = [
        {name: value for name, value in row.items() if name not in hidden}
        for row in answer.rows[:limit]
        if not values or all(row.get(name) is None for name in values) or _is_of_many(row)
    ]
    return _as_json({"rows": rows, "has_more": len(answer.rows) > limit, "caveats": answer.caveats})


def _is_of_many(row: Mapping[str, Any]) -> bool:
    """Whether enough users have the value, in the window before too: a change would show their number."""
    counts = [row["unique_users"], row.get("unique_users_before", 0)]
    return max(counts) >= FEWEST and all(users == 0 or users >= FEWEST for users in counts)


def _description(question: Question, identities: bool) -> str:
    about = question.about.format(period="in the period", by="step", key="key", tz="UTC or tz")
    hidden = (
        f" Values of fewer than {FEWEST} users are left out." if question.names_of("variant") and not identities else ""
    )
    return f"{question.summary} {about}{hidden}"


def _schema(question: Question) -> dict[str, Any]:
    properties = {}
    for argument in question.open_arguments:
        default = argument.written_default
        described = {**argument.type.schema, "description": argument.help}
        if argument.type is LIMIT:
            described["maximum"] = ROWS
        properties[argument.name] = described if default is None else {**described, "default": default}
    return {
        "type": "object",
        "properties": properties,
        "required": [argument.name for argument in question.arguments if argument.is_required],
        "additionalProperties": False,
    }
