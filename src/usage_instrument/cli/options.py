"""The options that commands share. The environment sets them too, by the names of the settings."""

from __future__ import annotations

import datetime as dt
import os
from typing import Annotated, Literal, TypeAlias

import typer

from usage_instrument.queries.windows import span_of
from usage_instrument.settings import DATABASE_VARIABLE, ENVIRONMENT_PREFIX, READ_VARIABLE, Settings
from usage_instrument.typing import HistoryPartitions, IdType, UserIdType

from .errors import fail

Format: TypeAlias = Literal["table", "json", "csv", "markdown"]
"""The format of printed rows."""
YesNo: TypeAlias = Literal["yes", "no"]
"""A choice whose default is what is there."""

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(envvar=DATABASE_VARIABLE, show_envvar=True, help="The database, by a sync or an async driver."),
]


ReadUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar=[READ_VARIABLE, DATABASE_VARIABLE],
        show_envvar=True,
        help="The database, by a sync or an async driver. It may be a hot standby: this command only reads.",
    ),
]


StandbyUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(envvar=READ_VARIABLE, show_envvar=True, help="The database to read, such as a hot standby."),
]
LastDay: TypeAlias = Annotated[str | None, typer.Option(metavar="TIME", help="The last day, in the same forms.")]
Zone: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="ZONE", help="The time zone of days, such as Europe/Berlin: it needs hours in the history."),
]


def _schema(text: str | None) -> str | None:
    """The schema of this text, which is empty or `none` for the connection's own, as the integrations set it."""
    return Settings.from_environment({f"{ENVIRONMENT_PREFIX}SCHEMA": text or ""}).schema


Schema: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar=f"{ENVIRONMENT_PREFIX}SCHEMA",
        callback=_schema,
        help="The schema of the tables. Default: the connection's own.",
    ),
]
Users: TypeAlias = Annotated[
    str,
    typer.Option(
        envvar=f"{ENVIRONMENT_PREFIX}USERS",
        help="The column that user_id refers to: 'auto', 'table.column', 'schema.table.column' or 'none'.",
    ),
]
UserIds: TypeAlias = Annotated[
    UserIdType,
    typer.Option(
        "--user-id-type",
        envvar=f"{ENVIRONMENT_PREFIX}USER_ID_TYPE",
        metavar="TYPE",
        help="The type of user ids: uuid, integer or string.",
    ),
]
Ids: TypeAlias = Annotated[
    IdType,
    typer.Option("--id-type", metavar="TYPE", help="The type of feature_usage.id: integer or bigint."),
]
Partitions: TypeAlias = Annotated[
    HistoryPartitions | None,
    typer.Option(
        "--history-partitions",
        metavar="month|none",
        help="On PostgreSQL: a partition of the history for each month, or one table. Default: as it is.",
    ),
]
HistoryRollups: TypeAlias = Annotated[
    YesNo | None,
    typer.Option(
        "--history-rollups",
        metavar="yes|no",
        help="On PostgreSQL: rollups of the history, for questions about many days. Default: as it is.",
    ),
]
Output: TypeAlias = Annotated[
    Format, typer.Option("--format", metavar="FORMAT", help="The output format: table, json, csv or markdown.")
]

USER = "6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55"
"""The user of the examples."""


def example(*words: str) -> str:
    """The end of a help page: a command to copy, on a line of its own."""
    return f"Example:\n\nusage-instrument {' '.join(' '.join(words).split())}"


def required(url: str | None) -> str:
    """The URL. Ends the command without one."""
    if not url:
        raise fail(f"which database? Pass --url, or set {DATABASE_VARIABLE}, for example to sqlite:///usage.db")
    return url


def settings(schema: str | None, users: str, user_id_type: UserIdType) -> Settings:
    """The settings that these options make, and those of the environment that are about the database's server."""
    given = {"SCHEMA": schema or "", "USERS": users, "USER_ID_TYPE": user_id_type}
    named = {f"{ENVIRONMENT_PREFIX}{name}": value for name, value in given.items()}
    return Settings.from_environment({name: os.environ[name] for name in _OF_SERVER if name in os.environ} | named)


_OF_SERVER = tuple(f"{ENVIRONMENT_PREFIX}{name}" for name in ("FLUSH_STATEMENTS", "READ_TIMEOUT"))


def span(text: str, option: str) -> dt.timedelta:
    """A number of hours, days or weeks. Ends the command for anything else."""
    found = span_of(text)
    if found is None:
        raise fail(f"{option} is 12h, 30d or 4w, not {text!r}")
    return found


def chosen_read_url(context: typer.Context, read_url: str | None) -> str | None:
    """`--read-url`, or that of the environment, which is of another database where `--url` is given alone."""

    def is_chosen(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    return None if is_chosen("url") and not is_chosen("read_url") else read_url
