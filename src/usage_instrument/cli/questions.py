"""The analyst questions as commands, and as SQL by `usage-instrument sql`."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import typer
from rich.bar import Bar
from rich.console import RenderableType
from sqlalchemy import URL, Connection, exc, select, union
from sqlalchemy import inspect as inspector_of

from usage_instrument.database.reflection import missing_tables
from usage_instrument.database.schema import default_tables
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, SchemaError
from usage_instrument.queries.display_names import display_names, with_display_names
from usage_instrument.queries.printed import printed
from usage_instrument.queries.questions import QUESTIONS, Argument, Question
from usage_instrument.queries.sources import users_column
from usage_instrument.queries.trend import TREND
from usage_instrument.queries.unused_features import UNUSED
from usage_instrument.queries.windows import window_words
from usage_instrument.settings import DATABASE_VARIABLE
from usage_instrument.typing import UserIdType

from .caveats import NOTHING_DECLARED, caveats, is_empty, old_tables
from .database import ask as ask_database
from .errors import ERROR, PROBLEMS, explained, fail, warn
from .options import USER, Format, Output, ReadUrl, Schema, UserIds, example
from .output import PADDING, UNBOUNDED, Printer, console, show, table

NOTHING_COUNTED = (
    "Nothing was counted so far. An app writes its uses every five seconds. "
    "Is it configured with this database? `usage-instrument doctor` checks."
)
_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "array": list[str]}
"""The types of options by those of JSON Schema."""
_BAR = 40
"""The width of the longest bar, in characters."""
_LEAST_BAR = 8
"""Below this width, there are no bars."""


Kind: TypeAlias = Literal["postgresql", "mariadb", "mysql", "sqlite"]
"""The kind of a database, by its name in SQLAlchemy."""


class Answer(NamedTuple):
    """The answer of a database to a question."""

    names: list[str]
    rows: Sequence[Mapping[str, Any]]
    caveats: list[str]
    is_empty: bool
    """Whether the database has counted nothing at all."""


sql = typer.Typer(
    help="Print a question as SQL, for example for Metabase or Grafana.",
    epilog=example("sql", "top", "--since 28d --dialect postgresql"),
    no_args_is_help=True,
)

_SHARED: dict[str, tuple[Any, Any]] = {
    "url": (ReadUrl, None),
    "schema": (Schema, None),
    "output": (Output, "table"),
}
_FAIL_OVER = Annotated[
    int | None, typer.Option(min=0, metavar="NUMBER", help="Exit with 1 if there are more rows than this.")
]
_SQL_OPTIONS: dict[str, tuple[Any, Any]] = {
    "url": (
        Annotated[str | None, typer.Option(help=f"The database. Default: ${DATABASE_VARIABLE}, or --dialect.")],
        None,
    ),
    "dialect": (
        Annotated[
            Kind | None, typer.Option(metavar="KIND", help="Print SQL for any postgresql, mariadb, mysql or sqlite.")
        ],
        None,
    ),
    "schema": (Schema, None),
    "user_id_type": (UserIds, "uuid"),
}


def add_to(app: typer.Typer) -> None:
    """Add a command for each question, and the commands that print their SQL."""
    for question in QUESTIONS:
        options = {**_SHARED, "fail_over": (_FAIL_OVER, None)} if question is UNUSED else _SHARED
        about = question.about.format(period="in the period", by="step", key="KEY", tz="UTC or --tz")
        help_ = f"{question.summary}\n\n{about}"
        for group, work, of_command, epilog in (
            (app, _answer, options, example(question.name, question.example)),
            (sql, _print_sql, _SQL_OPTIONS, example("sql", question.name, _sql_example(question))),
        ):
            group.command(question.name, help=help_, epilog=epilog)(_command(question, work, of_command))
    app.add_typer(sql, name="sql")


def _sql_example(question: Question) -> str:
    """The required arguments of its example, and a kind of database."""
    required = question.example.partition("--")[0].replace(USER, "42 --user-id-type integer")
    return f"{required} --dialect postgresql"


def _command(
    question: Question, work: Callable[..., None], options: Mapping[str, tuple[Any, Any]]
) -> Callable[..., None]:
    """A function with the signature that typer reads: the question's arguments, then the options."""

    def command(**given: Any) -> None:
        work(question, **given)

    parameters = [
        *map(_parameter, question.arguments),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in options.items()
        ),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(argument: Argument) -> inspect.Parameter:
    schema = argument.type.schema
    if argument.is_required:
        metavar = argument.name.removesuffix("_id").upper()
        kind: Any = Annotated[_TYPES[schema["type"]], typer.Argument(help=argument.help, metavar=metavar)]
        return inspect.Parameter(argument.name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
    default, of_type = argument.written_default, _TYPES[schema["type"]]
    if "enum" in schema:
        of_type = Literal[*schema["enum"]]
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    option: Any = typer.Option(help=argument.help, min=least, metavar=argument.type.metavar)
    kind = Annotated[of_type if default is not None else of_type | None, option]
    return inspect.Parameter(argument.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _answer(
    question: Question, url: str | None, schema: str | None, output: Format, fail_over: int | None = None, **given: Any
) -> None:
    answer = ask_database(
        url,
        schema,
        lambda connection, tables: ask(connection, tables, question, given),
    )
    is_nothing = answer.is_empty and output in ("table", "markdown")
    for caveat in answer.caveats:
        if caveat != NOTHING_DECLARED or not is_nothing or fail_over is not None:
            warn(caveat)
    if question is TREND and output == "table" and answer.rows and not answer.is_empty:
        _draw(answer)
    else:
        period = window_words(given.get("since"), given.get("until"))
        words = {"period": period, "key": given.get("key"), "by": "", "tz": given.get("tz") or "UTC"}
        show(
            [] if is_nothing else answer.rows,
            output,
            empty=NOTHING_COUNTED if answer.is_empty else question.empty.format(**words),
            names=answer.names,
        )
    if fail_over is not None and NOTHING_DECLARED in answer.caveats:
        raise typer.Exit(ERROR)
    if fail_over is not None and len(answer.rows) > fail_over:
        warn(f"{len(answer.rows)} features are unused, more than {fail_over}")
        raise typer.Exit(PROBLEMS)


def _print_sql(
    question: Question,
    url: str | None,
    dialect: Kind | None,
    schema: str | None,
    user_id_type: UserIdType,
    **given: Any,
) -> None:
    if url and dialect is not None:
        raise fail("SQL for which database? Pass --url or --dialect, not both")
    url = url or (os.environ.get(DATABASE_VARIABLE) if dialect is None else None)
    if url:
        text = ask_database(url, schema, lambda on, tables: _printed(question, on, tables, given))
    elif dialect is None:
        raise fail("SQL for which database? Pass --url or --dialect")
    else:
        database = URL.create(dialect)
        with explained(database):
            tables = default_tables(schema, user_id_type)
            text = printed(question.query(given, tables), database.get_dialect()())
    Printer().write(f"{text};\n")


def _printed(question: Question, connection: Connection, tables: Tables, given: Mapping[str, Any]) -> str:
    return printed(question.query(question.decided(connection, tables, given), tables), connection.dialect)


def ask(
    connection: Connection,
    tables: Tables,
    question: Question,
    given: Mapping[str, Any],
    at_most: int | None = None,
) -> Answer:
    """The answer to a question with these options, of so many rows. Raises UsageInstrumentError."""
    named = given.get("features") or [given.get("feature")]
    try:
        given = question.decided(connection, tables, given)
        question.check_history(connection, tables, given)
        query = question.query(given, tables)
        result = connection.execute(query if at_most is None else query.limit(at_most))
        names, rows = list(result.keys()), [dict(row) for row in result.mappings()]
        found = list(caveats(connection, tables, question, given, rows))
        nothing = is_empty(connection, tables) and (question is not UNUSED or NOTHING_DECLARED in found)
        answer = Answer(*with_display_names(names, rows, display_names(connection, tables)), found, nothing)
        features = () if named == [None] else known_features(connection, tables)
        unknown = [name for name in named if name is not None and name not in features]
    except exc.DBAPIError:
        connection.rollback()
        missing = missing_tables(connection, tables, tables.dimensions)
        if not missing:
            _check_host_columns(connection, tables, question, given)
            raise
        fix = "upgrade" if old_tables(connection, tables) else "create"
        raise SchemaError(f"there is no table {missing[0]}: run `usage-instrument db {fix}`") from None
    if unknown:
        raise unknown_feature(unknown[0], features)
    return answer


def _check_host_columns(connection: Connection, tables: Tables, question: Question, given: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a column that the users table does not have. A name may stand for any."""
    users = users_column(tables)
    names = [str(given[each.name]).rpartition(".")[2] for each in question.arguments if _is_host_column(each, given)]
    if users is None or not names:
        return
    known = [each["name"] for each in inspector_of(connection).get_columns(users.table.name, schema=users.table.schema)]
    for name in names:
        if name not in known:
            raise ConfigurationError(f"{users.table.fullname} has no column {name!r}{meant(name, known)}")


def _is_host_column(argument: Argument, given: Mapping[str, Any]) -> bool:
    return argument.is_of_command and given.get(argument.name) is not None


def known_features(connection: Connection, tables: Tables) -> list[str]:
    """Every feature that was used or declared."""
    names = union(*(select(each.c.feature_name) for each in (tables.usage, tables.catalog)))
    return [name for name in connection.scalars(names) if name is not None]


def unknown_feature(feature: str, features: Sequence[str]) -> ConfigurationError:
    """The error for a feature that was neither used nor declared."""
    hint = meant(feature, features) if features else f". {NOTHING_COUNTED}"
    return ConfigurationError(f"no feature {feature!r} was used or declared here{hint}")


def meant(name: str, names: Sequence[str]) -> str:
    """The end of an error message: the names that resemble the unknown one."""
    close = difflib.get_close_matches(name, names, 3, 0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _draw(answer: Answer) -> None:
    """Print the rows with a bar each, as wide as the terminal allows."""
    rows = [{**row, "": "so far" if row["is_running"] else ""} for row in answer.rows]
    drawn = table([name for name in rows[0] if name != "is_running"], rows)
    screen = console()
    room = screen.width - screen.measure(drawn, options=screen.options.update(max_width=UNBOUNDED)).maximum - PADDING
    most = max(row["uses"] for row in answer.rows) or 1
    if room >= _LEAST_BAR:
        drawn.add_column("")
        width, is_plain = min(room, _BAR), screen.options.ascii_only
        for uses in (row["uses"] for row in answer.rows):
            bar: RenderableType = Bar(most, 0, uses, width=width, color="cyan")
            drawn.columns[-1]._cells.append("#" * round(width * uses / most) if is_plain else bar)
    screen.print(drawn)
