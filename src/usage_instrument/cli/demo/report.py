"""Prints the result of the demo: rows, three answers, and commands to try next."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from usage_instrument.cli.output import table
from usage_instrument.database.schema import default_tables
from usage_instrument.queries import adoption, top_features, user_features

from .past import Truths
from .traffic import Person

ROWS = 10
"""Printed rows of `feature_usage`."""
NEVER_USED = (
    "SELECT feature_name FROM feature_usage_catalog WHERE feature_name NOT IN (SELECT feature_name FROM feature_usage)"
)
_TOP = """\
SELECT feature_name, sum(usage_count) AS total_usage
FROM feature_usage
GROUP BY feature_name
ORDER BY total_usage DESC, feature_name
LIMIT 5"""
_USER = """\
SELECT feature_name, usage_count, last_used, metadata
FROM feature_usage
WHERE user_id = '{}'
  AND last_used >= datetime('now', '-7 days')
ORDER BY last_used DESC, feature_name"""
_ADOPTION = """\
SELECT feature_name,
  count(user_id) AS unique_users,
  sum(usage_count) AS uses,
  count(user_id) * 1.0
    / (SELECT count(DISTINCT user_id) FROM feature_usage) AS share
FROM feature_usage
GROUP BY feature_name
ORDER BY unique_users DESC, uses DESC, feature_name"""


def rows(console: Console, engine: sa.Engine) -> None:
    """Print the rows of the table with the most uses, in the width of a small terminal."""
    usage = default_tables().usage
    with engine.connect() as connection:
        found = connection.execute(sa.select(usage).order_by(usage.c.usage_count.desc(), usage.c.id).limit(ROWS))
        shown = [dict(row) for row in found.mappings()]
    for row in shown:
        row.update(user_id=row["user_id"] and row["user_id"].hex[:8], last_used=f"{row['last_used']:%H:%M:%S}")
    _heading(console, f"The {len(shown)} rows of feature_usage with the most uses (ids and times are cut)")
    _print(console, shown)


def answers(console: Console, engine: sa.Engine, person: Person) -> None:
    """Print three questions with their answers, each in Python and in SQL."""
    questions: list[tuple[str, str, sa.Select[*tuple[Any, ...]], str]] = [
        ("Which features are used most?", "top_features(limit=5)", top_features(limit=5), _TOP),
        (
            f"What did {person.name} do in the last 7 days?",
            f'user_features(UUID("{person.id}"))',
            user_features(person.id),
            _USER.format(person.id.hex),
        ),
        ("How many users use each feature?", "adoption()", adoption(), _ADOPTION),
    ]
    for number, (question, python, select, sql) in enumerate(questions, 1):
        _heading(console, f"{number}. {question}")
        with engine.connect() as connection:
            _print(console, [dict(row) for row in connection.execute(select).mappings()])
        for line in (f"Python: queries.{python}", "SQL:", *(f"  {line}" for line in sql.splitlines())):
            console.print(Text(f"  {line}", style="dim"), soft_wrap=True)


def truths(console: Console, rows: int, found: Truths) -> None:
    """Print the facts in a generated past, and the commands that find them."""
    feature, day = found.spike
    user, rush = found.rush
    fell, fallen = found.fell
    varied, key, winner = found.variant
    first, second = found.related
    experiment, goal, leader = found.experiment
    facts = {
        "spikes": f"{feature} was used far more than usual on {day}",
        "spikes --by user": f"{str(user)[:8]}… did far more than usual on {rush}",
        "drops": f"almost nobody used {fell} on {fallen}",
        "silent": f"{found.silent} was used regularly until last week",
        "unused --since 60d": f"{found.dead} is dead, {found.retired} is retired, {found.never} was never used",
        "power-users": f"{str(found.power_user)[:8]}… has the most uses",
        f"variants {varied} {key}": f"users with variant {winner} use it twice as often",
        f"related {second}": f"its users use {first} too",
        f"experiment {experiment} --goal {goal}": f"{leader} leads more users to it (extra experiments)",
        f"experiment {found.check} --goal {goal}": "no difference: both variants are equal",
        "audit anomalies": ", ".join(f"{each.what} ({str(each.user_id)[:8]}…)" for each in found.trail),
        "trend": "uses and users by day",
    }
    _heading(console, f"{rows:,} rows with known facts; each command finds one")
    _print(console, [{"usage-instrument": command, "finds": fact} for command, fact in facts.items()])


def next_steps(console: Console, database: Path) -> None:
    """Print where the data is, and three commands. These lines are never wrapped."""
    _heading(console, "Next steps")
    console.print(Text(f"The data is in {database.resolve()}", overflow="fold"))
    url = sa.URL.create("sqlite", database=str(database)).render_as_string()
    has_shell = shutil.which("sqlite3") is not None or sys.version_info < (3, 12)
    shell = "sqlite3" if has_shell else "python3 -m sqlite3"
    steps = {
        "Ask in SQL, for example which features were never used:": f'{shell} {_quoted(database)} "{NEVER_USED}"',
        "Ask by a command:": f"{_quoted(_command())} unused --url {_quoted(url)}",
        "Check the tables:": f"{_quoted(_command())} db check --url {_quoted(url)}",
    }
    for title, command in steps.items():
        console.print(f"\n{title}")
        console.print(Text(f"  {command}", style="bold"), soft_wrap=True)
    console.print("\nTo track your own app, follow the README.")


def _command() -> str:
    """The command, as this shell finds it: the environment of `scripts/demo` is not on its path."""
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


def _print(console: Console, found: list[dict[str, Any]]) -> None:
    console.print(Padding(table(list(found[0]), found), (0, 0, 0, 2), expand=False) if found else "  (no rows)")
