"""What the demo shows once the table is full: its rows, three answers, and what to try next."""

from __future__ import annotations

import datetime as dt
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from usage_instrument.database.schema import define_tables
from usage_instrument.queries import adoption, top_features, user_features

from .past import Truths
from .traffic import Person

ROWS = 10
"""How many rows of `feature_usage` are shown."""
NEVER_USED = (
    "SELECT feature_name FROM feature_usage_catalog WHERE feature_name NOT IN (SELECT feature_name FROM feature_usage)"
)


def rows(console: Console, engine: sa.Engine) -> None:
    """The busiest rows of the table, in the width of a small terminal."""
    usage = define_tables(sa.MetaData(), users=None).usage
    with engine.connect() as connection:
        found = connection.execute(sa.select(usage).order_by(usage.c.usage_count.desc(), usage.c.id).limit(ROWS)).all()
    _heading(console, f"feature_usage, its {len(found)} busiest rows (ids and times cut short)")
    shown = [
        (
            row.id,
            None if row.user_id is None else row.user_id.hex[:8],
            row.feature_name,
            None if row._mapping["metadata"] is None else json.dumps(row._mapping["metadata"]),
            row.usage_count,
            f"{row.last_used:%H:%M:%S}",
        )
        for row in found
    ]
    _table(console, [column.name for column in usage.columns], shown)


def answers(console: Console, engine: sa.Engine, person: Person) -> None:
    """The three questions, each with its answer and with what it takes to ask it."""
    questions: list[tuple[str, str, sa.Select[*tuple[Any, ...]]]] = [
        ("Which features are used most?", "top_features(limit=5)", top_features(limit=5)),
        (
            f"What did {person.name} do in the last 7 days?",
            f'user_features(UUID("{person.id}"))',
            user_features(person.id),
        ),
        ("How many people use each feature?", "adoption()", adoption()),
    ]
    for number, (question, python, select) in enumerate(questions, 1):
        _heading(console, f"{number}. {question}")
        with engine.connect() as connection:
            result = connection.execute(select)
            _table(console, list(result.keys()), [tuple(row) for row in result])
        sql = str(select.compile(engine, compile_kwargs={"literal_binds": True}))
        _aside(console, f"Python: queries.{python}")
        _aside(console, f"SQL: {sql}")


def truths(console: Console, rows: int, found: Truths) -> None:
    """What was put into a past, and the commands that find it."""
    feature, day = found.spike
    varied, key, winner = found.variant
    first, second = found.related
    _heading(console, f"{rows:,} rows, with some truths in them; each command finds one")
    shown = [
        ("spikes", f"{feature} was used far more than usual on {day}"),
        ("unused --since 60d", f"{found.dead} is dead, {found.retired} is retired, {found.never} was never used"),
        ("power-users", f"{str(found.power_user)[:8]}… uses the app most"),
        (f"variants {varied} {key}", f"who has variant {winner} uses it twice as often"),
        (f"related {second}", f"who uses it uses {first}"),
        ("trend", "how it all went"),
    ]
    _table(console, ["usage-instrument", "what it finds"], shown)


def next_steps(console: Console, database: Path) -> None:
    """Where the data is, and three things to do with it. Lines to copy are never wrapped."""
    _heading(console, "Now you")
    console.print(Text(f"Everything is in {database.resolve()}", overflow="fold"))
    url = sa.URL.create("sqlite", database=str(database)).render_as_string()
    steps = (
        ("Ask it yourself, for example what nobody ever used:", f'{_shell()} {_quoted(database)} "{NEVER_USED}"'),
        ("See what nobody uses:", f"{_quoted(_command())} unused --url {_quoted(url)}"),
        ("See whether the tables are as they should be:", f"{_quoted(_command())} db check --url {_quoted(url)}"),
    )
    for what, command in steps:
        console.print(f"\n{what}")
        console.print(Text(f"  {command}", style="bold"), soft_wrap=True)
    console.print("\nTo track an app of your own, follow the README: its first page takes a minute.")


def _shell() -> str:
    if shutil.which("sqlite3") is None and sys.version_info >= (3, 12):
        return "python3 -m sqlite3"
    return "sqlite3"


def _command() -> str:
    """Ours, as this shell finds it: an environment that `scripts/demo` made is not on its path."""
    command = Path(sys.executable).with_name("usage-instrument")
    found = shutil.which(command.name)
    if not command.exists() or (found is not None and Path(found) == command):
        return command.name
    return str(command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command)


def _quoted(value: object) -> str:
    return shlex.quote(str(value))


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def _aside(console: Console, text: str) -> None:
    console.print(Padding(Text(text, style="dim"), (0, 0, 0, 2), expand=False))


def _table(console: Console, names: list[str], found: list[tuple[Any, ...]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline")
    for position, name in enumerate(names):
        numeric = bool(found) and all(isinstance(row[position], int | float) for row in found)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in found:
        table.add_row(*(Text(_cell(value)) for value in row))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)
