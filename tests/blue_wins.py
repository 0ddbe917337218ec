"""A past with an experiment that blue wins, for tests of what shows it."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Engine

from conftest import Database
from reading import made
from usage_instrument.schema import Tables

DAY = dt.timedelta(days=1)
START = dt.datetime(2026, 3, 2)
CONVERTED = {"red": 100, "blue": 400}
"""Of 1,000 users each."""


def filled(database: Database) -> Tables:
    """A test that blue wins: a tenth of the users bought on the day of the exposure, two saw both, a visitor is none.
    All users have searched once."""
    engine = database.engine()
    tables = made(engine, user_id_type="integer")
    exposures: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    for first, (variant, converted) in enumerate(CONVERTED.items()):
        for number in range(1_000):
            user = first * 1_000 + number + 1
            exposures.append(exposure("button", variant, user, START + dt.timedelta(hours=9)))
            history.append(bucket(user, "search", START))
            if number < converted:
                history.append(bucket(user, "buy", START if number % 10 == 0 else START + DAY))
    for user in (9_001, 9_002):
        exposures += [exposure("button", variant, user, START) for variant in CONVERTED]
    exposures.append({**exposure("button", "red", 0, START), "unit": "visitor", "user_id": None})
    exposures.append(exposure("price", "new", 1, START + 40 * DAY))
    with engine.begin() as connection:
        connection.execute(tables.exposures.insert(), exposures)
        connection.execute(tables.history.insert(), history)
        usage = [
            {"user_id": 1, "feature_name": name, "usage_count": 1, "last_used": START} for name in ("buy", "search")
        ]
        connection.execute(tables.usage.insert(), usage)
    return tables


def paid(tables: Tables, engine: Engine) -> None:
    """Half the users of each variant have paid after the exposure, 10 to 12 those of red and 20 to 22 those of blue;
    one has paid much before it."""
    one = {"feature_name": "pay", "dimension": "", "dimension_value": "", "usage_count": 1, "value_count": 1}
    rows = [
        {**one, "user_id": first * 1_000 + number + 1, "bucket_start": START + DAY, "value_sum": amount + number % 3}
        for first, amount in enumerate((10.0, 20.0))
        for number in range(500)
    ]
    rows.append({**one, "user_id": 1, "bucket_start": START - DAY, "value_sum": 1e6})
    declared = {"feature_name": "pay", "declared_at": START, "last_declared_at": START}
    with engine.begin() as connection:
        connection.execute(tables.dimensions.insert(), rows)
        connection.execute(tables.catalog.insert().values(declared))


def exposure(experiment: str, variant: str, user: int, at: dt.datetime) -> dict[str, Any]:
    times = {"first_exposed_at": at, "last_exposed_at": at + DAY}
    return {"experiment": experiment, "unit": str(user), "variant": variant, "user_id": user, **times}


def bucket(user: int, feature: str, start: dt.datetime) -> dict[str, Any]:
    return {"user_id": user, "feature_name": feature, "bucket_start": start, "usage_count": 2}
