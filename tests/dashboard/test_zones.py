"""A dashboard in a time zone: its days are local."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import made
from usage_instrument.dashboard import asgi as by_asgi
from usage_instrument.dashboard.results import BY_PAGE, parameters_of
from usage_instrument.errors import ConfigurationError

from .conftest import Past
from .test_site import yes
from .visitor import asgi

AUCKLAND = ZoneInfo("Pacific/Auckland")
"""Its days begin at 11 or 12 o'clock UTC."""


@pytest.fixture
def hourly(sqlite: Database) -> Database:
    """A use in each hour of the last 70 days."""
    engine = sqlite.engine()
    tables = made(engine)
    hour = dt.datetime.now(dt.UTC).replace(tzinfo=None, minute=0, second=0, microsecond=0)
    key: dict[str, Any] = {"user_id": None, "feature_name": "search", "usage_count": 1}
    hours = [{**key, "bucket_start": hour - dt.timedelta(hours=ago)} for ago in range(24 * 70)]
    with engine.begin() as connection:
        connection.execute(tables.history.insert(), hours)
        connection.execute(tables.usage.insert().values(**key | {"usage_count": len(hours)}, last_used=hour))
    return sqlite


def test_days_are_local(hourly: Database) -> None:
    app = by_asgi.Dashboard(hourly.url, authorize=yes, tz="Pacific/Auckland")
    now = dt.datetime.now(AUCKLAND)
    days = [row.replace('"', "").split(",")[:2] for row in asgi(app, "/trend.csv", period="7d").text.splitlines()[1:]]
    assert [day[:10] for day, _ in days] == [f"{now.date() - dt.timedelta(days=ago)}" for ago in range(6, -1, -1)]
    assert days[-1][1] == str(now.hour + 1)
    page = asgi(app, "/", period="7d").page
    assert "Days are those of Pacific/Auckland, times are UTC." in page.said
    assert f"Uses {sum(int(uses) for _, uses in days)}" in page.said, "the total has the same days"
    first, last = now.date() - dt.timedelta(days=3), now.date() - dt.timedelta(days=1)
    dates: dict[str, Any] = {"from": str(first), "to": str(last)}
    chosen = asgi(app, "/trend.csv", **dates).text.splitlines()
    assert len(chosen) == 4
    given = {"feature": "search", "user": "anonymous", "key": "page", "features": "search,search"}
    for question in BY_PAGE.values():
        needed: dict[str, Any] = {
            name: given[name] for name, is_required in parameters_of(question).items() if is_required
        }
        if question.name not in ("user", "recommend"):
            assert asgi(app, f"/{question.page}", period="7d", **needed).status == 200, question.name
    assert "in Pacific/Auckland" in asgi(app, "/rhythm").page.said


def test_days_of_the_history_are_not_divided(small_past: Past) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=yes, tz="Europe/Berlin")
    answer = asgi(app, "/trend")
    assert answer.status == 400
    assert "The history has a day instead of hours on" in answer.page.said
    assert "Europe/Berlin divides: pass a later since, or no tz" in answer.page.said


@pytest.mark.parametrize("tz", ["Asia/Kolkata", "Nowhere", 7])
def test_another_zone_is_refused_at_once(tz: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"whole hours|tz is"):
        by_asgi.Dashboard(sa.make_url("sqlite:///usage.db"), authorize=yes, tz=tz)
