"""What stands out in a trail is found, and what is usual is not."""

from __future__ import annotations

import datetime as dt
import json
import random
import uuid
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from conftest import Database
from reading import made
from usage_instrument.audit.anomalies import Anomaly, Search, anomalies
from usage_instrument.cli.app import app
from usage_instrument.schema import Tables

ADA, BOB, EVE, NEW, NIGHT = (uuid.UUID(int=2**64 + number) for number in range(1, 6))
BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = dt.date(2026, 10, 26)
"""The day after Berlin's clock went back: the trail before it is of summer time."""
DAY = dt.timedelta(days=1)


class Trail:
    """Rows of a trail, by the local time of Berlin."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(
        self, day: dt.date, hour: float, user: Any, feature: str, outcome: str = "success", number: int = 1
    ) -> None:
        local = dt.datetime.combine(day, dt.time(), BERLIN) + dt.timedelta(hours=hour)
        time = local.astimezone(dt.UTC).replace(tzinfo=None)
        for _ in range(number):
            self.rows.append(
                {
                    "chain_id": uuid.UUID(int=1), "number": len(self.rows) + 1, "occurred_at": time,
                    "access_id": uuid.uuid4(), "user_id": user, "actor_id": None, "feature_name": feature,
                    "outcome": outcome, "service": "", "seal": "{}", "link": "0" * 64,
                }
            )  # fmt: skip

    def write(self, database: Database, tables: Tables) -> None:
        with database.engine().begin() as connection:
            connection.execute(tables.access.insert(), self.rows)


def usual_days(dice: random.Random) -> Iterator[tuple[dt.date, int]]:
    """The twelve weeks before, with their ages in days."""
    for ago in range(84, 0, -1):
        yield MONDAY - ago * DAY, dice.randint(1, 3)


@pytest.fixture
def tables(database: Database) -> Tables:
    """A trail with known truths on one day, and twelve weeks without any before it."""
    trail, dice = Trail(), random.Random(7)
    for day, number in usual_days(dice):
        trail.add(day, 2, NIGHT, "report", number=4)  # every night
        if day.weekday() < 5:
            trail.add(day, 9, ADA, "record", number=5)
            trail.add(day, 18.5, BOB, "record", number=number)
            trail.add(day, 10, EVE, "record")
            weeks = (MONDAY - day).days // 7
            trail.add(day, 12, ADA, "search", "denied", number=20 + 2 * (12 - weeks))  # it grows
        if day.weekday() == 0:
            trail.add(day, 11, BOB, "search", "denied", number=60)  # each Monday
    trail.add(MONDAY, 12, ADA, "search", "denied", number=46)
    trail.add(MONDAY, 11, BOB, "search", "denied", number=66)
    trail.add(MONDAY, 2, NIGHT, "report", number=4)
    trail.add(MONDAY, 18.5, BOB, "record", number=4)  # 17:30 UTC
    trail.add(MONDAY, 9, NEW, "record")  # a new colleague
    trail.add(MONDAY, 9, ADA, "brand new")  # a new feature
    # The truths.
    trail.add(MONDAY, 14, EVE, "record", "denied", number=25)
    trail.add(MONDAY, 15, EVE, "report")
    trail.add(MONDAY, 20.5, ADA, "record", number=3)
    trail.add(MONDAY, 16, BOB, "payroll", "attempted", number=2)
    tables = made(database.engine())
    trail.write(database, tables)
    return tables


def test_the_truths_are_found_and_nothing_else(database: Database, tables: Tables) -> None:
    def found(first: dt.date, tz: dt.tzinfo = BERLIN, **options: Any) -> list[Anomaly]:
        with database.engine().connect() as connection:
            return anomalies(connection, tables, Search(first, MONDAY + DAY, tz, **options))

    assert found(MONDAY) == [
        ("denials", MONDAY, EVE, None, 25, 0.0, 25.0),
        ("first access", MONDAY, EVE, "report", 1, None, None),
        ("out of hours", MONDAY, ADA, None, 3, 0.0, None),
        ("no outcome", MONDAY, BOB, "payroll", 2, None, None),
    ]
    assert found(MONDAY - 13 * DAY) == found(MONDAY), "the two weeks before have none"
    assert found(MONDAY)[0] in found(dt.date.min)
    assert [one.what for one in found(MONDAY, threshold=26.0)] == ["first access", "out of hours", "no outcome"]
    assert "out of hours" not in [one.what for one in found(MONDAY, dt.UTC, to_hour=21)]


def test_the_command_prints_them(database: Database, tables: Tables) -> None:
    def asked(*options: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, ["audit", "anomalies", "--url", database.url, *options])
        assert done.exit_code == code, done.output
        return done

    that_day = ("--since", str(MONDAY), "--until", str(MONDAY), "--tz", "Europe/Berlin")
    rows = json.loads(asked(*that_day, "--format", "json").stdout)
    assert [(row["what"], row["user_id"], row["accesses"]) for row in rows] == [
        ("denials", str(EVE), 25), ("first access", str(EVE), 1), ("out of hours", str(ADA), 3),
        ("no outcome", str(BOB), 2),
    ]  # fmt: skip
    assert asked("--since", "2024-01-01", "--until", "2024-01-02").stdout == "Nothing stands out in these days.\n"
    assert "--hours is the first and the last full hour of a working day" in asked("--hours", "19", code=2).stderr
    assert "tz is the name of a time zone" in asked("--tz", "Berlin", code=2).stderr
