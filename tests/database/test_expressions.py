"""What each database writes in its own way: the clock, the calendar, real numbers, text out of JSON."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import ColumnElement, literal_column, select

from conftest import Database
from reading import made
from usage_instrument.database.expressions import Ago, Day, Instant, JSONText, Later, Real, StartOf
from usage_instrument.typing import Unit

SUNDAY = dt.datetime(2024, 3, 31, 23, 59, 59, 999999)
MONDAY = dt.datetime(2024, 4, 1)
STARTS: dict[Unit, list[dt.datetime]] = {
    "hour": [dt.datetime(2024, 3, 31, 23), MONDAY],
    "day": [dt.datetime(2024, 3, 31), MONDAY],
    "week": [dt.datetime(2024, 3, 25), MONDAY],
    "month": [dt.datetime(2024, 3, 1), MONDAY],
}
LATER: dict[Unit, dt.datetime] = {
    "hour": dt.datetime(2024, 4, 1, 2),
    "day": dt.datetime(2024, 4, 3),
    "week": dt.datetime(2024, 4, 15),
    "month": dt.datetime(2024, 6, 1),
}


def test_the_calendar(database: Database) -> None:
    with database.engine().connect() as connection:
        for unit, starts in STARTS.items():
            found = connection.execute(select(*(StartOf(unit, Instant(day)) for day in (SUNDAY, MONDAY)))).one()
            assert [*found] == starts, unit
        for unit, moment in LATER.items():
            two: ColumnElement[int] = literal_column("1") + literal_column("1")
            assert connection.scalar(select(Later(unit, Instant(MONDAY), two))) == moment, unit
        assert connection.scalar(select(Day(Instant(SUNDAY)))) == dt.date(2024, 3, 31)
        assert connection.scalar(select(Instant(SUNDAY))) == SUNDAY


def test_the_clock_is_in_utc(database: Database) -> None:
    spans = [dt.timedelta(days=2), dt.timedelta(hours=5), dt.timedelta(seconds=90), dt.timedelta(milliseconds=1)]
    with database.engine().connect() as connection:
        now, *times = connection.execute(select(Ago(), *map(Ago, spans))).one()
    assert abs(now - dt.datetime.now(dt.UTC).replace(tzinfo=None)) < dt.timedelta(minutes=1)
    assert [now - time for time in times] == [*spans[:3], dt.timedelta(seconds=1)]


def test_a_number_becomes_a_float(database: Database) -> None:
    with database.engine().connect() as connection:
        (number,) = connection.execute(select(Real(literal_column("1") + literal_column("2")))).one()
    assert (number, type(number)) == (3.0, float)


KEYS = ["plain", "", "0", "a.b", "$.a", '"', "\\", "it's", "100%", ":a", "käse", "[0]"]


def test_any_key_finds_its_text(database: Database) -> None:
    engine = database.engine()
    usage = made(engine).usage
    values = ["text", "", True, False, 7, -1.5, None]
    texts = ["text", "", "true", "false", "7", "-1.5", None]
    for key in KEYS:
        documents = [*({key: value, "other": "x"} for value in values), {"other": "x"}, None, ["x"]]
        rows = [{"feature_name": f"f{number}", "metadata": it} for number, it in enumerate(documents)]
        with engine.connect() as connection:
            connection.execute(usage.insert(), rows)
            found = select(JSONText(usage.c.metadata, key)).order_by(usage.c.feature_name)
            assert connection.scalars(found).all() == [*texts, None, None, None], key
            connection.rollback()
