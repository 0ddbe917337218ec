"""A dashboard over a history whose old days are summed up to months."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import made
from usage_instrument import Settings
from usage_instrument.dashboard import asgi as by_asgi
from usage_instrument.dashboard.results import BY_PAGE, parameters_of
from usage_instrument.database.engines import connect
from usage_instrument.pipeline.store import Store

from .test_site import yes
from .visitor import asgi

DAY = dt.timedelta(days=1)
GIVEN = {"feature": "search", "user": f"{UUID(int=1)}", "key": "page", "features": "search,search"}
BY_MONTHS = {
    *("top-features", "adoption", "power-users", "trend", "retention", "lifecycle", "groups", "variants", "related"),
    *("recommend", "user-features", "unused", "dimensions", "spikes", "drops", "active"),
}
"""The pages that answer about 400 days: some are about all time, or about the last days of the period."""


@dataclass(frozen=True)
class Old:
    database: Database
    today: dt.datetime
    first_day: dt.datetime
    """The first day that stays one."""


@pytest.fixture
def old(sqlite: Database) -> Old:
    """A use on each of the last 500 days."""
    engine = sqlite.engine()
    tables = made(engine, users=None)
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None, microsecond=0)
    today = now.replace(hour=0, minute=0, second=0)
    key: dict[str, Any] = {"user_id": None, "feature_name": "search", "usage_count": 1}
    with engine.begin() as connection:
        connection.execute(tables.history.insert(), [{**key, "bucket_start": today - ago * DAY} for ago in range(500)])
        connection.execute(tables.usage.insert().values(**key | {"usage_count": 500}, last_used=now))
    store = Store(connect(engine), tables, Settings())
    store.open()
    first_day = (today - 120 * DAY).replace(day=1)
    assert sum(store.retention.roll_up_days(first_day))
    store.dispose()
    return Old(sqlite, today, first_day)


def test_the_longest_period_begins_with_a_month(old: Old) -> None:
    """Its charts are by month, and its numbers are exact."""
    app = by_asgi.Dashboard(old.database.url, authorize=yes)
    first = (old.today - 399 * DAY).replace(day=1)
    days = (old.today - first).days + 1
    page = asgi(app, "/", period="400d")
    assert page.status == 200
    assert f"The last {days} days" in page.page.said
    assert f"Uses {days}" in page.page.said
    assert "Uses per month" in page.page.said
    rows = [row.replace('"', "").split(",") for row in asgi(app, "/trend.csv", period="400d").text.splitlines()[1:]]
    assert rows[0][0][:10] == f"{first.date()}"
    assert sum(int(row[1]) for row in rows) == days
    assert len(rows) in (14, 15)


def test_each_page_is_exact_or_names_the_first_day(old: Old) -> None:
    app = by_asgi.Dashboard(old.database.url, authorize=yes)
    answered = set()
    for question in BY_PAGE.values():
        needed: dict[str, Any] = {name: GIVEN[name] for name, required in parameters_of(question).items() if required}
        page = asgi(app, f"/{question.page}", period="400d", **needed)
        if page.status == 200:
            answered.add(question.page)
        else:
            assert page.status == 400
            assert f"Before {old.first_day:%Y-%m-%d} the history has months" in page.page.said, question.name
        assert asgi(app, f"/{question.page}", period="28d", **needed).status == 200
    assert answered == BY_MONTHS


def test_dates_within_a_month_are_refused(old: Old) -> None:
    app = by_asgi.Dashboard(old.database.url, authorize=yes)
    cut = old.first_day - 40 * DAY
    cut = cut.replace(day=20)
    chosen: dict[str, Any] = {"from": str(cut.date()), "to": str(old.today.date())}
    for path in ("/", "/feature", "/top-features"):
        page = asgi(app, path, feature="search", **chosen)
        assert page.status == 400
        assert f"the window has a part of {cut:%Y-%m}" in page.page.said
    chosen["from"] = str(cut.date().replace(day=1))
    for path in ("/", "/feature", "/top-features"):
        assert asgi(app, path, feature="search", **chosen).status == 200


def test_a_window_before_that_has_a_part_of_a_month_has_no_numbers(old: Old) -> None:
    """The figures of a period stand beside those of the period before only where those are exact."""
    app = by_asgi.Dashboard(old.database.url, authorize=yes)
    last = old.first_day + 99 * DAY
    assert (old.first_day - 100 * DAY).day > 1
    chosen: dict[str, Any] = {"from": str(old.first_day.date()), "to": str(last.date())}
    page = asgi(app, "/", **chosen).page.said
    assert "Uses 100" in page
    assert "before" not in page.partition("Uses 100")[2][:40]


def test_experiments_need_the_days_since_their_exposures(old: Old) -> None:
    engine = old.database.engine()
    tables = made(engine, users=None)
    exposed = [old.first_day - 60 * DAY, old.first_day + 5 * DAY]
    rows = [
        {"experiment": "page", "unit": f"{number}", "variant": variant, "first_exposed_at": at, "last_exposed_at": at}
        for number, (variant, at) in enumerate((variant, at) for variant in ("new", "old") for at in exposed)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(tables.exposures), rows)
    app = by_asgi.Dashboard(old.database.url, authorize=yes)
    page = asgi(app, "/experiment", experiment="page", goal="search")
    assert page.status == 400
    assert "the history has months, and this experiment needs days from" in page.page.said
    chosen: dict[str, Any] = {"from": str(old.first_day.date()), "to": str(old.today.date())}
    assert asgi(app, "/experiment", experiment="page", goal="search", **chosen).status == 200
