"""A database that is emptied and filled over and over, and what it takes to compare its answers."""

from __future__ import annotations

import datetime as dt
import json
import random
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from conftest import Database
from queries.oracle import DAY, HOUR, Answer, Bucket, Declaration, Exposed, Rows, Sliced, Use, floor
from reading import made
from usage_instrument import queries as q
from usage_instrument.schema import define_tables

Asked = sa.Select[*tuple[Any, ...]]

USERS = [UUID(int=number + 2**64) for number in range(1, 6)]
FEATURES = ["search", "Search", "export", "käse'\"\\%(a)s :b", "share"]
KEYS = ["variant", "a b", '$."x"\\', "0", "100% :b"]


class Filled:
    """A database that is emptied and filled over and over."""

    def __init__(self, database: Database) -> None:
        self.database, self.engine = database, database.engine()
        self.people = sa.Table(
            "users",
            sa.MetaData(),
            sa.Column("id", sa.Uuid, primary_key=True),
            sa.Column("plan", sa.String(10)),
            sa.Column("created_at", sa.DateTime),
        )
        self.people.metadata.create_all(self.engine)
        made(self.engine, users=None)  # as a database that enforces no foreign keys: rows of the gone stay
        self.tables = define_tables(self.people.metadata, users="users.id")
        self.connection = self.engine.connect()

    def fill(self, rows: Rows) -> None:
        """Hold these rows and no others, in a transaction that is still open."""
        self.connection.rollback()
        for table in (*self.tables, self.people):
            self.connection.execute(table.delete())
        plans = (rows.plans or {}).items()
        people = [{"id": user, "plan": plan, "created_at": rows.created.get(user)} for user, plan in plans]
        self._insert(self.people, people)
        self._insert(self.tables.usage, [row._asdict() for row in rows.usage])
        self._insert(self.tables.history, [row._asdict() for row in rows.history])
        self._insert(self.tables.catalog, [row._asdict() for row in rows.catalog])
        seen = [{**row._asdict(), "last_exposed_at": row.first_exposed_at + HOUR} for row in rows.exposures]
        self._insert(self.tables.exposures, seen)
        self._insert(self.tables.dimensions, [row._asdict() for row in rows.dimensions])

    def _insert(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            self.connection.execute(table.insert(), rows)

    def ask(self, question: Asked) -> Answer:
        return [tuple(row) for row in self.connection.execute(question)]

    def paste(self, sql: str) -> Answer:
        """What the driver says to a statement as it stands, with nothing bound."""
        cursor = self.connection.connection.cursor()
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()]


def rich(now: dt.datetime) -> Rows:
    """Rows that every question has something to say about."""
    dice, today = random.Random(7), floor("day", now)
    keys = [(user, feature) for user in (None, *USERS) for feature in (None, *FEATURES) if dice.random() < 0.7]
    usage = [
        Use(
            *key,
            dice.randint(1, 99),
            now - dice.randint(0, 60) * DAY - HOUR,
            {key_: dice.choice("AB") for key_ in KEYS},
        )
        for key in keys
    ]
    history = [
        Bucket(*key, dice.randint(5, 9) + (key[1] == "search" and ago == 2) * 999, today - ago * DAY)
        for key in keys
        for ago in range(60)
        if dice.random() < 0.8
    ]
    catalog = [Declaration("web", name, today - 200 * DAY, today - DAY, "What it is") for name in ("idle", "search")]
    exposures = [
        Exposed("colour", str(user), "red" if number % 2 else "it's blue", user, now - 20 * DAY + number * HOUR)
        for number, user in enumerate(USERS)
    ]
    exposures.append(Exposed("colour", "visitor", "red", None, now - 5 * DAY))
    dimensions = [
        Sliced(user, FEATURES[3], name, value, today - ago * DAY, 7 + ago, 2, 3.0 - ago, 8.5, 1.0 - ago, 2.0)
        for user in (None, *USERS)
        for ago in (0, 5)
        for name, value in (("", ""), ("format", "csv"), ("format", "it's"))
    ]
    return Rows(now, usage, history, catalog, dict.fromkeys(USERS, "pro"), exposures, dimensions=dimensions)


def asked(filled: Filled) -> dict[str, Asked]:
    """Every question, on rows that are rich."""
    name, week = FEATURES[3], 7 * DAY
    beside = q.user_features(USERS[0], since=week, compare="previous")  # many were used last on the same day
    return {
        "top_features": q.top_features(),
        "top_features, a week": q.top_features(since=week),
        "user_features": q.user_features(USERS[0], 90 * DAY),
        "adoption": q.adoption(tables=filled.tables),
        "adoption by plan": q.adoption(by=filled.people.c.plan, since=dt.datetime(2020, 2, 29)),
        "unused_features": q.unused_features(),
        "unused_features, a week": q.unused_features(week),
        "power_users": q.power_users(name),
        "power_users, a week": q.power_users(since=week),
        "trend": q.trend(by="week", since=None),
        "trend of a feature": q.trend(name),
        "active_users": q.active_users(),
        "spikes": q.spikes(),
        "variants": q.variants(name, KEYS[4]),
        "variants, a month ago": q.variants(name, KEYS[4], since=60 * DAY, until=30 * DAY),
        "retention": q.retention(),
        "retention of a feature": q.retention(name, "search", "month", since=None),
        "lifecycle": q.lifecycle(by="day", since=7 * DAY),
        "funnel": q.funnel(["search", name], 3 * DAY),
        "stickiness": q.stickiness(),
        "time_to_adopt": q.time_to_adopt(name),
        "drops": q.drops(threshold=0.1),
        "spikes by user": q.spikes(by="user", threshold=1),
        "top_features, compared": q.top_features(since=week, compare="previous"),
        "user_features, compared": beside.where(beside.selected_columns.feature_name.is_not(None)),
        "active_users, compared": q.active_users(compare="previous"),
        "stickiness, compared": q.stickiness(compare="previous"),
        "funnel, compared": q.funnel(["search", name], since=week, compare="previous"),
        "lifecycle, compared": q.lifecycle(since=week, compare="previous"),
        "time_to_adopt, compared": q.time_to_adopt(name, since=60 * DAY, compare="previous"),
        "adoption by plan, compared": q.adoption(by=filled.people.c.plan, since=week, compare="previous"),
        "power_users, compared": q.power_users(since=week, compare="previous"),
        "trend, compared": q.trend(since="last month", until="last month", compare="previous"),
        "unused_features, a month ago": q.unused_features(since=60 * DAY, until=30 * DAY),
        "related_features": q.related_features(name),
        "recommend": q.recommend(USERS[3]),
        "experiment": q.experiment("colour", name, since=30 * DAY),
        "experiments": q.experiments(),
        "experiment, by value": q.experiment("colour", name, metric="value"),
        "dimensions": q.dimensions(name, since=30 * DAY),
        "dimensions, by user": q.dimensions(name, "format", by="user"),
    }


def agree(question: object, answer: Answer, expected: Answer) -> None:
    """The same values of the same types; floats up to what the order of additions makes of them."""
    assert answer == [tuple(map(near, row)) for row in expected], str(question)
    assert [[*map(type, row)] for row in answer] == [[*map(type, row)] for row in expected], str(question)


def near(value: Any) -> Any:
    return pytest.approx(value) if type(value) is float else value


def plain(value: Any) -> Any:
    """A value in the one form that all drivers' own forms of it can be brought to."""
    if isinstance(value, dt.datetime):
        return value.isoformat(" ", "microseconds").replace("-", "")
    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value)
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return str(value).replace("-", "") if isinstance(value, str | UUID | dt.date) else near(value)
