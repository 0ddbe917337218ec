"""What is the matter, and what to do: a page each, never a traceback."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import servers
from conftest import Database
from reading import made
from usage_instrument.dashboard import reader
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.dashboard.errors import PageError
from usage_instrument.dashboard.reader import Reader
from usage_instrument.errors import ConfigurationError
from usage_instrument.schema import create_all

from .conftest import HOSTILE, Past
from .visitor import Answer, asgi


def yes(_: Any) -> bool:
    return True


def told(answer: Answer, status: int, *sentences: str) -> None:
    assert answer.status == status, answer.text
    said = answer.page.said
    for sentence in sentences:
        assert sentence in said, said
    assert "Traceback" not in answer.text
    assert servers.PASSWORD not in answer.text


def test_an_unknown_feature(small_past: Past) -> None:
    app = Dashboard(small_past.url, authorize=yes)
    answer = asgi(app, "/feature", feature="exprt")
    told(answer, 404, "No feature is called “exprt”", "Did you mean export")
    told(asgi(app, "/feature", feature="x" * 101), 404, "at most 100 characters")
    told(asgi(app, "/feature"), 400, "Which feature?")


def test_an_unknown_user(small_past: Past) -> None:
    app = Dashboard(small_past.url, authorize=yes)
    told(asgi(app, "/user", user=str(uuid.uuid4())), 404, "This user used nothing")
    told(asgi(app, "/user", user="7"), 404, "a user's id is a UUID", "“7” is not")
    told(asgi(app, "/user"), 400, "Which user?")


@pytest.mark.parametrize("period", ["9d", "28", "-7d", "'; DROP TABLE users", "<script>", "28d "])
def test_a_malformed_period(small_past: Past, period: str) -> None:
    app = Dashboard(small_past.url, authorize=yes)
    for path in ("/", "/feature", "/top-features.csv"):
        told(asgi(app, path, period=period, feature="export"), 400, "There is no period", "7d, 28d, 90d, 400d")


@pytest.mark.parametrize(
    ("first", "last", "reason"),
    [
        ("", "2026-01-01", "These are no days"),
        ("yesterday", "", "These are no days"),
        ("2026-02-30", "2026-03-01", "These are no days"),
        ("2026-02-02", "2026-02-01", "This period has no days"),
        ("1900-01-01", "2026-02-01", "10,000 days at most"),
        ("2999-01-01", "", "This period has no days"),
    ],
)
def test_malformed_dates(small_past: Past, first: str, last: str, reason: str) -> None:
    app = Dashboard(small_past.url, authorize=yes)
    given: dict[str, Any] = {"from": first, "to": last}
    for path in ("/", "/trend.csv"):
        told(asgi(app, path, **given), 400, reason)


@pytest.mark.parametrize(("first", "last"), [("0001-01-01", "0001-01-02"), ("9999-12-30", "9999-12-31")])
def test_dates_at_the_ends_of_time(past: Past, first: str, last: str) -> None:
    app = Dashboard(past.url, authorize=yes)
    given: dict[str, Any] = {"from": first, "to": last, "feature": "export"}
    for path in ("/", "/feature", "/spikes", "/active", "/trend.csv"):
        assert asgi(app, path, **given).status == 200, path


def test_an_unknown_page(small_past: Past) -> None:
    app = Dashboard(small_past.url, authorize=yes)
    for path in ("/nothing", "/top-features.json", "/feature/", "//", "/../etc/passwd", "/.csv", "/usage-000.css"):
        told(asgi(app, path), 404, "There is no such page")


def test_an_address_that_is_too_long_or_broken(small_past: Past) -> None:
    app = Dashboard(small_past.url, authorize=yes)
    told(asgi(app, "/search", q="x" * 3_000), 400, "too long, or broken")
    told(asgi(app, "/search", q="a\0b"), 400, "too long, or broken")
    many: dict[str, Any] = {f"p{n}": "" for n in range(30)}
    told(asgi(app, "/search", **many), 400, "too long, or broken")
    told(asgi(app, "/variants.csv", feature="export"), 400, "Which key?")
    told(asgi(app, "/variants", feature="export", key="x" * 101), 400, "Which key?")
    assert asgi(app, "/search", q="\ufffd\ud7ff").status == 200


@pytest.mark.parametrize(("threshold", "reason"), [("high", "is a number"), ("-1", "above 0"), ("nan", "above 0")])
def test_a_wrong_argument_is_named(small_past: Past, threshold: str, reason: str) -> None:
    app = Dashboard(small_past.url, authorize=yes)
    told(asgi(app, "/spikes", threshold=threshold), 400, "Threshold is a number", reason)
    assert asgi(app, "/spikes.csv", threshold=threshold).status == 400


def test_empty_tables(database: Database) -> None:
    made(database.engine())
    app = Dashboard(database.url, authorize=yes)
    told(asgi(app, "/"), 200, "Nothing was counted so far", "usage.configure(")
    told(asgi(app, "/top-features"), 200, "Nothing was used in the last 28 days.")
    told(asgi(app, "/search", q="x"), 200, "No feature’s name contains this text")
    assert asgi(app, "/trend.csv").status == 200


def test_declared_and_never_used(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    with engine.begin() as connection:
        connection.execute(
            tables.catalog.insert(), {"feature_name": "fax", "declared_at": now, "last_declared_at": now}
        )
    app = Dashboard(sqlite.url, authorize=yes)
    told(asgi(app, "/"), 200, "Code has declared 1 feature; none was used")
    told(asgi(app, "/feature", feature="fax"), 200, "Last used never")


def test_a_past_without_history(own_past: Past) -> None:
    with own_past.engine.begin() as connection:
        connection.execute(own_past.tables.history.delete())
    app = Dashboard(own_past.url, authorize=yes)
    told(asgi(app, "/"), 200, "There is no history here", "history")
    assert asgi(app, "/feature", feature="export").status == 200


def test_a_missing_companion_table(own_past: Past) -> None:
    app = Dashboard(own_past.url, authorize=yes)
    assert asgi(app, "/").status == 200
    for name in ("history", "catalog", "losses", "writers"):
        with own_past.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE feature_usage_{name}")
        told(asgi(app, "/"), 503, "The tables are not ready", f"feature_usage_{name}", "usage-instrument db create")


def test_no_tables_at_all(database: Database) -> None:
    with database.engine().begin() as connection:
        connection.exec_driver_sql("CREATE TABLE other (id INTEGER)")
    app = Dashboard(database.url, authorize=yes)
    told(asgi(app, "/"), 503, "There is no table feature_usage here", "usage-instrument db create")
    create_all(database.engine())
    assert asgi(app, "/").status == 200, "as soon as they are there"


def test_no_file(tmp_path: Path) -> None:
    file = tmp_path / "typo.db"
    app = Dashboard(f"sqlite:///{file}", authorize=yes)
    told(asgi(app, "/"), 503, "There is no such file", "usage-instrument db create")
    assert not file.exists()


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://u:secret@127.0.0.1:1/x", "mysql+pymysql://u:secret@127.0.0.1:1/x"]
)
def test_no_server(url: str) -> None:
    told(asgi(Dashboard(url, authorize=yes), "/"), 503, "The database cannot be reached", "u:***@127.0.0.1")


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_question_that_takes_too_long(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    database: Database = request.getfixturevalue(kind)
    made(database.engine())
    monkeypatch.setattr(reader, "STATEMENT_TIMEOUT", 1)
    hard = "SELECT count(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b WHERE a.seq * b.seq = -1"
    sleep = "SELECT pg_sleep(20)" if kind == "postgresql" else hard
    with pytest.raises(PageError) as caught:
        Reader(database.url, None, None).read(lambda connection, _: connection.exec_driver_sql(sleep))
    assert caught.value.title == "This takes too long"
    assert "within 1 seconds" in caught.value.advice[0]
    assert "Choose a shorter period." in caught.value.advice


@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("nonsense", "cannot be parsed"),
        ("sqlite://", "use a file"),
        ("postgresql+nosuch://u:secret@h/x", "no such database or driver"),
        (7, "an Engine or an AsyncEngine, not int"),
    ],
)
def test_a_database_that_cannot_be(database: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Dashboard(database, authorize=yes)


def test_tables_that_are_none(sqlite: Database) -> None:
    with pytest.raises(ConfigurationError, match="tables is what define_tables"):
        Dashboard(sqlite.url, authorize=yes, tables=sa.MetaData())  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "user", "wrong"), [("integer", "42", "forty"), ("string", "ada@home", "")])
def test_users_with_other_ids(database: Database, kind: Any, user: str, wrong: str) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type=kind)
    row = {"user_id": int(user) if kind == "integer" else user, "feature_name": HOSTILE[0], "usage_count": 3}
    with engine.begin() as connection:
        connection.execute(tables.usage.insert(), {**row, "last_used": dt.datetime(2026, 1, 2)})
    app = Dashboard(database.url, authorize=yes)
    told(asgi(app, "/user", user=user), 200, user, HOSTILE[0])
    told(asgi(app, "/search", q=user), 200, user)
    assert asgi(app, "/user", user=wrong).status in (400, 404)
    assert asgi(app, "/user", user="9" * 25).status == 404


def test_a_schema_of_its_own(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA analytics")
    create_all(engine, schema="analytics")
    told(asgi(Dashboard(engine, authorize=yes, schema="analytics"), "/"), 200, "Nothing was counted so far")
    told(asgi(Dashboard(engine, authorize=yes), "/"), 503, "There is no table feature_usage here")
