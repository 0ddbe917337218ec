"""Names of features for people: from `display=` to the catalogue, the commands and the dashboard."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from typer.testing import CliRunner

import usage_instrument as usage
from conftest import Database
from dashboard.visitor import asgi
from reading import all_of, made
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.cli.app import app as commands
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.database.inspection import check
from usage_instrument.errors import DeclarationError
from usage_instrument.queries.display_names import display_names
from usage_instrument.upgrade import upgrade

SHARED = "=Share <b>it</b>"


async def share(request: Request) -> Response:
    return PlainTextResponse("done")


def count(url: str) -> None:
    """A process that declares names for people by the decorator and by the middleware."""
    tracker = usage.Tracker(url)

    @tracker.tracks("export_csv", display="Export as CSV")
    def export() -> None: ...

    @tracker.tracks("plain")
    def plain() -> None: ...

    export()
    plain()
    site = Starlette(routes=[Route("/share", share)])
    with TestClient(UsageMiddleware(site, tracker=tracker, display={"share": SHARED})) as client:
        client.get("/share")
    assert tracker.shutdown(30)


def answer(url: str, *command: str) -> str:
    done = CliRunner().invoke(commands, [*command, "--url", url])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_people_read_them_and_programs_find_both(database: Database) -> None:
    tables = made(database.engine())
    count(database.url)
    assert {row.feature_name: row.display_name for row in all_of(database.engine(), tables.catalog)} == {
        "export_csv": "Export as CSV", "plain": None, "share": SHARED,
    }  # fmt: skip
    top = json.loads(answer(database.url, "top", "--format", "json"))
    assert [(row["feature_name"], row["display_name"]) for row in top] == [
        ("export_csv", "Export as CSV"), ("plain", None), ("share", SHARED),
    ]  # fmt: skip
    if database.url.startswith("sqlite"):
        names, *rows = csv.reader(io.StringIO(answer(database.url, "top", "--format", "csv")))
        assert names[:2] == ["feature_name", "display_name"]
        assert rows[2][:2] == ["share", f"'{SHARED}"]
        assert "Export as CSV" in answer(database.url, "adoption") + answer(database.url, "top")
    site = Dashboard(database.url, authorize=lambda scope: True)
    overview = asgi(site, "/")
    assert "Export as CSV" in overview.page.said
    assert SHARED in overview.page.said, "escaped"
    assert 'title="export_csv"' in overview.text
    feature = asgi(site, "/feature", feature="export_csv").page.said
    assert "Export as CSV export_csv" in feature
    assert "Export as CSV" in asgi(site, "/search", q="as csv").page.said
    assert "Export as CSV" in asgi(site, "/search", q="export_").page.said
    assert b"'=Share" in asgi(site, "/top-features.csv").body


def test_a_name_that_the_code_no_longer_states_goes(sqlite: Database) -> None:
    tables = made(sqlite.engine())
    for display in ("First", "Second", None):
        tracker = usage.Tracker(sqlite.url)
        tracker.tracks("export", display=display)(lambda: None)()
        assert tracker.shutdown(30)
        (row,) = all_of(sqlite.engine(), tables.catalog)
        assert row.display_name == display


def test_a_catalogue_without_the_column_goes_on_and_an_upgrade_adds_it(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    engine = database.engine()
    tables = made(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE feature_usage_catalog DROP COLUMN display_name")
    count(database.url)
    (said,) = [record.getMessage() for record in caplog.records if "display_name" in record.getMessage()]
    assert "feature_usage_catalog" in said
    assert "db upgrade" in said
    assert "export_csv" in answer(database.url, "top")
    site = Dashboard(database.url, authorize=lambda scope: True)
    for page in ("/", "/search", "/feature"):
        found = asgi(site, page, q="export", feature="export_csv")
        assert (found.status, "export_csv" in found.page.said) == (200, True), page
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = '30s'")
            assert display_names(connection, tables) == {}
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "30s"
    with engine.connect() as connection:
        found_problems = [(each.message, each.blocks_writing) for each in check(connection, tables)]
    assert [blocks for message, blocks in found_problems if "display_name" in message] == [False]
    with engine.connect() as connection:
        upgrade(connection, tables)
        connection.commit()
    count(database.url)
    assert {row.feature_name: row.display_name for row in all_of(engine, tables.catalog)}["share"] == SHARED


@pytest.mark.parametrize("wrong", ["", "x" * 101, "two\nlines", "\x1b[31m", 7, "\ud800"])
def test_a_name_that_cannot_be_shown_raises_at_once(wrong: Any) -> None:
    with pytest.raises(DeclarationError, match="display="):
        usage.tracks("export", display=wrong)
    with pytest.raises(DeclarationError, match="display="):
        UsageMiddleware(Starlette(), display={"export": wrong})


def test_the_option_of_the_middleware_is_a_mapping() -> None:
    with pytest.raises(DeclarationError, match="maps the names of features"):
        UsageMiddleware(Starlette(), display="Export")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="100"):
        UsageMiddleware(Starlette(), display={"x" * 101: "Export"})
