"""Where days of the history are summed up to months, a question is answered as before, or refused."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from conftest import Database
from queries import clock
from reading import made
from usage_instrument import Settings
from usage_instrument import queries as q
from usage_instrument.database.engines import connect
from usage_instrument.database.months import first_day, move_first_day
from usage_instrument.errors import ConfigurationError
from usage_instrument.pipeline.store import Store
from usage_instrument.queries.questions import QUESTIONS, Question
from usage_instrument.schema import Tables

DAY = dt.timedelta(days=1)
USERS = [UUID(int=number + 2**96) for number in range(4)]
FEATURES = ["search", "export", "share"]
EXAMPLES = int(os.environ.get("USAGE_TEST_EXAMPLES", "6"))
"""Arguments with which each question is asked."""


@dataclass(frozen=True)
class Old:
    """Two years of days, and a connection to ask about them."""

    connection: sa.Connection
    tables: Tables
    store: Store
    first_day: dt.datetime
    """The first day that stays one."""

    def sum_up(self) -> None:
        self.connection.rollback()
        assert sum(self.store.retention.roll_up_days(self.first_day + 5 * DAY))
        renewed(self.store)

    def answer(self, question: Question, given: Mapping[str, Any]) -> Any:
        return [tuple(row) for row in self.connection.execute(question.query(given, self.tables))]


def renewed(store: Store) -> int:
    """Roll up the weeks, if the history has rollups."""
    return sum(store.retention.renew_rollups(clock.today() - 800 * DAY, patiently=True))


def month(moment: dt.datetime, later: int = 0) -> dt.datetime:
    months = moment.year * 12 + moment.month - 1 + later
    return dt.datetime.combine(dt.date(months // 12, months % 12 + 1, 1), dt.time())


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "rollups", "partitions"])
def old(request: pytest.FixtureRequest) -> Iterator[Old]:
    options: dict[str, dict[str, Any]] = {
        "rollups": {"history_rollups": True},
        "partitions": {"history_partitions": "month"},
    }
    its = options.get(request.param, {})
    database: Database = request.getfixturevalue("postgresql" if its else request.param)
    engine, dice, today = database.engine(), random.Random(22), clock.today()
    tables = made(engine, users=None, **its)
    # Some users begin late, some stop early, and `share` has days without a use.
    spans = {None: (730, 0), USERS[0]: (730, 0), USERS[1]: (500, 0), USERS[2]: (300, 20), USERS[3]: (720, 400)}
    uses: Counter[tuple[UUID | None, str, dt.datetime]] = Counter()
    for user, (begin, end) in spans.items():
        for ago in range(end, begin + 1):
            for feature, often in zip(FEATURES, (0.15, 0.1, 0.03), strict=True):
                if dice.random() < often:
                    uses[user, feature, today - ago * DAY] = dice.randint(1, 30)
    history = [
        {"user_id": user, "feature_name": feature, "bucket_start": day, "usage_count": number}
        for (user, feature, day), number in uses.items()
    ]
    counts: dict[tuple[UUID | None, str], dict[str, Any]] = {}
    for (user, feature, day), number in uses.items():
        row = counts.setdefault(
            (user, feature),
            {"user_id": user, "feature_name": feature, "usage_count": 0, "last_used": day, "metadata": {"key": "v"}},
        )
        row["usage_count"] += number
        row["last_used"] = max(row["last_used"], day + dt.timedelta(minutes=1))
    declared = [
        {"service": "", "feature_name": name, "declared_at": today - 700 * DAY, "last_declared_at": today}
        for name in FEATURES
    ]
    with engine.begin() as connection:
        connection.execute(tables.history.insert(), history)
        connection.execute(tables.usage.insert(), list(counts.values()))
        connection.execute(tables.catalog.insert(), declared)
    store = Store(connect(engine), tables, Settings())
    store.open()
    _ = list(store.retention.make_partitions(today - 800 * DAY, patiently=True))
    assert (renewed(store) > 100) == (request.param == "rollups")
    with engine.connect() as connection:
        yield Old(connection, tables, store, month(today - 200 * DAY))
    store.dispose()


def asked(first: dt.datetime) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Every question about many windows, in all steps, with the window before and without."""
    begins = [None, "28d", "400d", "2000d", *(str((first + days * DAY).date()) for days in (-1, 0, 1, 57))]
    begins += [str(month(first, later).date()) for later in (-1, -7, -40)]
    ends = [None, "150d", str((first - DAY).date()), str(first.date()), str((month(first, -3) - DAY).date())]
    of_type = {"features": ["search", "export"], "feature": "search", "user_id": str(USERS[0]), "key": "key"}
    for question in QUESTIONS:
        names = [argument.name for argument in question.arguments]
        defaults = {each.name: None if each.is_required else each.written_default for each in question.arguments}
        steps = ["day", "week", "month"]
        free = {
            "since": begins if "since" in names else [None],
            "until": ends,
            "by": steps if defaults.get("by") in steps else [defaults.get("by")],
            "compare": [None, "previous"] if "compare" in names else [None],
            "tz": [None, "Europe/Berlin"] if "tz" in names else [None],
            "feature": [None, "search"] if "feature" in names and defaults["feature"] is None else [None],
        }
        for values in itertools.product(*free.values()):
            chosen = dict(zip(free, values, strict=True))
            required = {each.name: of_type[each.name] for each in question.arguments if each.is_required}
            given = {**defaults, **{name: value for name, value in chosen.items() if name in names}, **required}
            if "limit" in names:
                given["limit"] = 9
            yield question, given


def refusal(old: Old, question: Question, given: Mapping[str, Any]) -> str | None:
    try:
        question.query(given, old.tables)
        question.check_history(old.connection, old.tables, given)
    except ConfigurationError as error:
        return str(error)
    return None


def test_a_question_is_answered_as_before_or_refused(old: Old) -> None:
    """As the same database answered before the days were summed up."""
    dice, by_name = random.Random(7), {question.name: question for question in QUESTIONS}
    every: dict[str, list[dict[str, Any]]] = {}
    for question, given in asked(old.first_day):
        every.setdefault(question.name, []).append(given)
    expected = []
    for name, of_question in every.items():
        dice.shuffle(of_question)
        accepted = (given for given in of_question if refusal(old, by_name[name], given) is None)
        for given in itertools.islice(accepted, EXAMPLES):
            expected.append((by_name[name], given, old.answer(by_name[name], given)))
    old.sum_up()
    answered: set[str] = set()
    refused: set[str] = set()
    for question, given, answer in expected:
        reason = refusal(old, question, given)
        if reason is None:
            answered.add(question.name)
            assert old.answer(question, given) == answer, (question.name, given)
        else:
            refused.add(question.name)
            assert reason.startswith(f"before {old.first_day:%Y-%m-%d} the history has months"), reason
    assert "dimensions" not in refused, "they keep their days"
    assert min(len(answered), len(refused)) > 8


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("top", {"since": "{cut}"}, "the window has a part of {cut:%Y-%m}: let it begin on the first of a month and"),
        ("top", {"since": "{months}", "until": "{cut}"}, "a part of {cut:%Y-%m}: .* end on the last of one$"),
        ("top", {"since": "{cut}", "until": "{late}"}, "or pass since={day:%Y-%m-%d}$"),
        (
            "top",
            {"since": "{day}", "until": "{late}", "compare": "previous"},
            "the window before has a part of .*: pass a later since, or no compare$",
        ),
        ("adoption", {"by": "month", "since": "{cut}"}, "the window has a part of {cut:%Y-%m}"),
        ("trend", {"by": "week", "since": "{months}"}, "needs days from .* on: ask by month, or pass a later since$"),
        ("trend", {"by": "hour", "since": "{months}"}, "ask by month, or pass a later since$"),
        ("stickiness", {"since": "{cut}"}, "needs days from {cut:%Y-%m-%d} on: pass a later since$"),
        ("stickiness", {"since": "{day}", "compare": "previous"}, "pass a later since, or no compare$"),
        ("active", {"until": "{months}"}, "ask about a later day$"),
        ("spikes", {"since": "{day}", "until": "{day}"}, "needs days from"),
        ("user", {"since": None, "until": "{day}"}, "needs days from"),
    ],
)
def test_the_reason_names_the_remedy(sqlite_old: Old, name: str, given: dict[str, Any], reason: str) -> None:
    old = sqlite_old
    first = old.first_day
    moments = {"day": first, "months": month(first, -7), "cut": month(first, -7) + 9 * DAY, "late": first + 9 * DAY}
    (question,) = (each for each in QUESTIONS if each.name == name)
    defaults = {each.name: str(USERS[0]) if each.is_required else each.written_default for each in question.arguments}
    shown = {key: f"{moment.date()}" for key, moment in moments.items()}
    chosen = {key: value and value.format(**shown) for key, value in given.items()}
    with pytest.raises(ConfigurationError, match=f"^before {first:%Y-%m-%d} the history has months.*") as raised:
        question.check_history(old.connection, old.tables, {**defaults, **chosen})
    raised.match(reason.format(**moments))


@pytest.fixture
def sqlite_old(request: pytest.FixtureRequest, sqlite: Database) -> Iterator[Old]:
    engine = sqlite.engine()
    tables = made(engine, users=None)
    first = month(clock.today() - 200 * DAY)
    with engine.begin() as connection:
        rows = [{"feature_name": "search", "bucket_start": month(first, later)} for later in (-20, -1, 0)]
        connection.execute(tables.history.insert(), rows)
        move_first_day(connection, tables, first)
    with engine.connect() as connection:
        yield Old(connection, tables, Store(connect(engine), tables, Settings()), first)


def test_the_first_day_never_moves_back(database: Database) -> None:
    engine = database.engine()
    tables = made(engine, users=None)
    moments = [dt.datetime.fromisoformat(text) for text in ("2025-11-01", "2026-02-01", "2025-12-01", "2026-02-01")]
    found = []
    for moment in moments:
        with engine.begin() as connection:
            move_first_day(connection, tables, moment)
        with engine.connect() as connection:
            found.append(first_day(connection, tables))
    assert found == [moments[0], moments[1], moments[1], moments[1]]


def test_recent_windows_cost_no_statement(sqlite_old: Old) -> None:
    """Those of four weeks, with the eight weeks before that spikes and drops compare with."""
    statements: list[str] = []
    sa.event.listen(sqlite_old.connection, "before_cursor_execute", lambda *given: statements.append(given[2]))
    for question in QUESTIONS:
        given = {each.name: None if each.is_required else each.written_default for each in question.arguments}
        if "since" in given:
            given["since"] = "28d"
        question.check_history(sqlite_old.connection, sqlite_old.tables, given)
    assert statements == []


def test_a_program_asks_first(sqlite_old: Old) -> None:
    first, connection, tables = sqlite_old.first_day, sqlite_old.connection, sqlite_old.tables
    q.check_days(connection, since=first.date(), tables=tables)
    q.check_days(connection, since=month(first, -3).date(), by="month", tables=tables)
    for given in ({"since": month(first, -3).date()}, {"since": None}, {"since": first.date(), "tz": "Asia/Tokyo"}):
        with pytest.raises(ConfigurationError, match="the history has months"):
            q.check_days(connection, **given, tables=tables)
    with pytest.raises(ConfigurationError, match="the window has a part of"):
        q.check_days(connection, since=(month(first, -1) + DAY).date(), by="month", tables=tables)
