"""On the first days of an app, shares are of the days that there were."""

from __future__ import annotations

import datetime as dt
from uuid import uuid4

import pytest

from conftest import Database
from queries.clock import today
from reading import made
from usage_instrument.queries import active_users


@pytest.mark.parametrize(("ages", "days"), [((0, 1, 2), 3), ((0,), 1), ((0, 27), 28), ((0, 28), 28), ((3,), 4)])
def test_stickiness_is_of_the_days_since_the_history_began(
    database: Database, ages: tuple[int, ...], days: int
) -> None:
    engine = database.engine()
    tables = made(engine)
    user = uuid4()
    rows = [
        {"user_id": user, "feature_name": "f", "bucket_start": today() - dt.timedelta(days=age), "usage_count": 1}
        for age in ages
    ]
    with engine.begin() as connection:
        connection.execute(tables.history.insert(), rows)
        (row,) = connection.execute(active_users(tables=tables)).all()
    active = sum(age < 28 for age in ages)
    assert row.stickiness == pytest.approx(active / days)
    assert row.mau == 1
