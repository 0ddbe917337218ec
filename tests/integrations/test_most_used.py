"""The template filter: the most used first, by Jinja and by Django, and no page waits for the database."""

from __future__ import annotations

import datetime as dt
import importlib
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jinja2
import pytest

from conftest import Database
from reading import made
from usage_instrument import _default
from usage_instrument.integrations import most_used
from usage_instrument.integrations.most_used import most_used_first
from usage_instrument.queries.windows import DAY
from usage_instrument.runtime import threads


class Entry(NamedTuple):
    """A line of a menu."""

    feature: str


MENU = [Entry("never"), Entry("search"), Entry("export")]
Reads = list[Callable[[], object]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """What would run in the background."""
    found: Reads = []
    monkeypatch.setattr(threads, "start", found.append)
    monkeypatch.setattr(most_used, "_uses", {})
    monkeypatch.setattr(most_used, "_read_at", -most_used.REFRESH)
    return found


def used(database: Database, **uses: int) -> None:
    engine = database.engine()
    tables = made(engine)
    with engine.begin() as connection:
        for feature, count in uses.items():
            for table, more in ((tables.usage, {}), (tables.history, {"bucket_start": dt.datetime.now(dt.UTC)})):
                values: dict[str, Any] = {"feature_name": feature, "usage_count": count, **more}
                connection.execute(table.insert().values(values))


def test_jinja(database: Database, reads: Reads) -> None:
    used(database, search=2, export=5)
    _default.configure(database.url)
    environment = jinja2.Environment()
    environment.filters["most_used_first"] = most_used_first
    template = environment.from_string("{{ menu | most_used_first('feature') | map(attribute='feature') | join(' ') }}")
    assert template.render(menu=MENU) == "never search export", "the first page does not wait"
    (read,) = reads
    read()
    assert template.render(menu=MENU) == "export search never"
    assert len(reads) == 1, "once a minute"
    assert most_used_first(["never", "search", "export"]) == ["export", "search", "never"]
    assert most_used_first(({"f": name} for name in ("search", "export")), "f") == [{"f": "export"}, {"f": "search"}]


def test_django(sqlite: Database, reads: Reads) -> None:
    pytest.importorskip("django")
    importlib.import_module("django_site")  # configures the settings
    from django.template import Context, Template

    used(sqlite, search=2, export=5)
    _default.configure(sqlite.url)
    most_used.read()
    template = Template(
        '{% load usage_instrument %}{% for entry in menu|most_used_first:"feature" %}{{ entry.feature }} {% endfor %}'
    )
    assert template.render(Context({"menu": MENU})) == "export search never "


def test_an_unreachable_database_leaves_the_order(sqlite: Database, caplog: pytest.LogCaptureFixture) -> None:
    _default.configure(sqlite.url)  # without tables
    with caplog.at_level(logging.WARNING, "usage_instrument"):
        most_used.read()
    assert most_used_first(["b", "a"]) == ["b", "a"]
    assert "the most used features cannot be read: SchemaError" in caplog.text
    assert most_used.PERIOD == 28 * DAY


def test_a_page_does_without_a_thread_that_cannot_start(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Callable[[], object]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "start", fail)
    assert most_used_first(MENU, "feature") == MENU
