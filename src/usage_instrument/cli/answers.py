"""The questions asked of a database: each a command, and each as SQL by `usage-instrument sql`."""

from __future__ import annotations

import difflib
import enum
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from rich.bar import Bar
from sqlalchemy import URL, Connection, MetaData, exc, select, union

from usage_instrument.database.reflection import missing_tables
from usage_instrument.database.schema import define_tables
from usage_instrument.database.tables import Tables
from usage_instrument.queries.printed import printed
from usage_instrument.settings import DATABASE_VARIABLE

from .caveats import NOTHING_DECLARED, notes, old_tables
from .database import read
from .errors import ERROR, PROBLEMS, explained, fail
from .options import Format, Output, Schema, Url, UserIdKind, UserIds
from .output import console, show, table
from .questions import QUESTIONS, Asked, Question

_BAR = 40  # characters
FailOver = Annotated[
    int | None, typer.Option(min=0, help="Leave with 1 if there are more than this, for a job that guards it.")
]


class Database(str, enum.Enum):
    """The databases, as SQLAlchemy names them."""

    POSTGRESQL = "postgresql"
    MARIADB = "mariadb"
    MYSQL = "mysql"
    SQLITE = "sqlite"


class Answer(NamedTuple):
    """What a database said."""

    names: list[str]
    rows: Sequence[Mapping[str, Any]]
    notes: list[str]


sql = typer.Typer(
    help="Print a question as SQL, for Metabase, Grafana and whoever else takes a statement.", no_args_is_help=True
)


def add_to(app: typer.Typer) -> None:
    """Give the application a command a question."""
    for name, (question, empty) in QUESTIONS.items():
        app.command(name)(_asking(name, question, empty))
        sql.command(name)(_printing(question))
    app.add_typer(sql, name="sql")


def _asking(name: str, question: Question, empty: str) -> Callable[..., None]:
    def command(
        url: Url = None, schema: Schema = None, output: Output = Format.TABLE, fail_over: FailOver = None, **own: Any
    ) -> None:
        answer = read(
            url, schema, lambda connection, tables: _ask(connection, tables, name, question(tables, **own), own)
        )
        for note in answer.notes:
            typer.echo(f"usage-instrument: {note}", err=True)
        if name == "trend" and output is Format.TABLE and answer.rows:
            _draw(answer)
        else:
            when = "since then" if own.get("since") else "yet"
            show(answer.rows, output, empty=empty.format(when=when), names=answer.names)
        if fail_over is not None and NOTHING_DECLARED in answer.notes:
            raise typer.Exit(ERROR)
        if fail_over is not None and len(answer.rows) > fail_over:
            typer.echo(f"usage-instrument: {len(answer.rows)} are unused, more than {fail_over}", err=True)
            raise typer.Exit(PROBLEMS)

    return _signed(command, question, () if name == "unused" else ("fail_over",))


def _printing(question: Question) -> Callable[..., None]:
    def command(
        url: Annotated[
            str | None, typer.Option(help=f"The database, if not that of ${DATABASE_VARIABLE} or any --dialect.")
        ] = None,
        dialect: Annotated[Database | None, typer.Option(help="For any database of this kind.")] = None,
        schema: Schema = None,
        user_id_type: UserIds = UserIdKind.UUID,
        **own: Any,
    ) -> None:
        if url and dialect is not None:
            raise fail("SQL for which database? Pass --url or --dialect, not both")
        url = url or (os.environ.get(DATABASE_VARIABLE) if dialect is None else None)
        if url:
            typer.echo(
                read(url, schema, lambda connection, tables: printed(question(tables, **own), connection.dialect)) + ";"
            )
            return
        if dialect is None:
            raise fail("SQL for which database? Pass --url or --dialect")
        database = URL.create(dialect.value)
        with explained(database):
            tables = define_tables(MetaData(), schema=schema, users=None, user_id_type=user_id_type.value)
            typer.echo(printed(question(tables, **own), database.get_dialect()()) + ";")

    return _signed(command, question)


def _signed(command: Callable[..., None], question: Question, without: Sequence[str] = ()) -> Callable[..., None]:
    """The command with the question's own options first, then those that all share: what typer reads."""
    own = [each for each in _parameters(question) if each.name != "tables"]
    shared = [each for each in _parameters(command) if each.name not in {"own", *without}]
    names = {parameter.name for parameter in (*own, *shared)}

    @functools.wraps(question)
    def signed(**given: Any) -> None:
        command(**{name: value for name, value in given.items() if name in names})

    del signed.__wrapped__
    signed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *shared)]
    )
    signed.__annotations__ = {each.name: each.annotation for each in (*own, *shared)}
    return signed


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def _ask(connection: Connection, tables: Tables, name: str, question: Asked, said: Mapping[str, Any]) -> Answer:
    feature = said.get("feature")
    try:
        found = connection.execute(question)
        names, rows = list(found.keys()), [dict(row) for row in found.mappings()]
        answer = Answer(names, rows, list(notes(connection, tables, name, said, rows)))
        known = feature is None or (answer.rows and feature in _features(connection, tables))
    except exc.DBAPIError:
        connection.rollback()
        missing = missing_tables(connection, tables)
        if not missing:
            raise
        fix = "upgrade" if old_tables(connection, tables) else "create"
        raise fail(f"there is no table {missing[0]}: run `usage-instrument db {fix}`") from None
    if not known:
        raise _unknown(str(feature), _features(connection, tables))
    return answer


def _features(connection: Connection, tables: Tables) -> list[str]:
    """Every feature that was used or declared."""
    names = union(*(select(each.c.feature_name) for each in (tables.usage, tables.catalog)))
    return [name for name in connection.scalars(names) if name is not None]


def _unknown(feature: str, features: Sequence[str]) -> typer.Exit:
    close = difflib.get_close_matches(feature, features, 3, 0.5)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    return fail(f"there is no feature {feature!r} here, used or declared{meant}")


def _draw(answer: Answer) -> None:
    """A bar a row, as long as its uses."""
    drawn = table(answer.names, answer.rows)
    drawn.add_column("")
    most = max(row["uses"] for row in answer.rows)
    cells = drawn.columns[-1]._cells
    cells.extend(Bar(most or 1, 0, row["uses"], width=_BAR, color="cyan") for row in answer.rows)
    console().print(drawn)
