"""`usage-instrument dump` and `db dbt`: what a warehouse takes."""

from __future__ import annotations

import csv
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from typer.testing import CliRunner

from conftest import Database
from reading import counts, made
from usage_instrument.cli.app import app
from usage_instrument.cli.transfer import dump
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.months import move_first_day
from usage_instrument.schema import create_all

DAY = dt.timedelta(days=1)


def run(database: Database, *arguments: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, [*arguments, "--url", database.url, "--format", "json"])
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def dumped(database: Database, directory: Path, *options: str, kind: str = "csv") -> dict[str, list[dict[str, str]]]:
    arguments = ["dump", str(directory), "--format", kind, "--url", database.url, *options]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = {}
    for path in sorted(directory.iterdir()):
        if kind == "csv":
            with path.open(newline="", encoding="utf-8") as file:
                found[path.name] = list(csv.DictReader(file))
    return found


def filled(database: Database, **options: Any) -> tuple[sa.Engine, Any, dt.datetime]:
    engine = database.engine()
    tables = made(engine, **options or {"user_id_type": "string"})
    today = utcnow().replace(hour=0, minute=0, second=0, microsecond=0)
    uses = {("ada", "search"): {0: 5, 1: 2, 3: 1}, (None, "search"): {1: 4}, ("bob", "=new"): {0: 9}}
    with engine.begin() as connection:
        for (user, feature), days in uses.items():
            key = {"user_id": user, "feature_name": feature}
            last = today - min(days) * DAY + dt.timedelta(minutes=1)
            connection.execute(tables.usage.insert().values(**key, usage_count=sum(days.values()), last_used=last))
            for ago, number in days.items():
                connection.execute(
                    tables.history.insert().values(**key, usage_count=number, bucket_start=today - ago * DAY)
                )
    return engine, tables, today


def test_counts_and_history_of_closed_days(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, today = filled(database)
    monkeypatch.setattr(dump, "utcnow", lambda: today + dt.timedelta(hours=3))
    found = dumped(database, tmp_path / "all")
    days = [f"{today - ago * DAY:%Y-%m-%d}" for ago in range(4)]
    assert [*found] == [f"counts-{days[1]}.csv", *(f"history-{day}.csv" for day in reversed(days[1:]))]
    totals = {(row["user_id"], row["feature_name"]): row["usage_count"] for row in found[f"counts-{days[1]}.csv"]}
    assert totals == {("ada", "search"): "3", ("", "search"): "4"}, "without the uses of today"
    last = {row["user_id"]: row["last_used"] for row in found[f"counts-{days[1]}.csv"]}
    assert last == {"ada": "", "": f"{days[1]}T00:01:00"}
    yesterday = found[f"history-{days[1]}.csv"]
    assert sorted((row["user_id"], row["usage_count"], row["day"]) for row in yesterday) == [
        ("", "4", days[1]), ("ada", "2", days[1])
    ]  # fmt: skip
    assert found[f"history-{days[2]}.csv"] == [], "a day without uses is a file without rows"
    assert [*dumped(database, tmp_path / "new", "--since", days[1])] == [
        f"{name}-{days[1]}.csv" for name in ("counts", "history")
    ]
    assert dumped(database, tmp_path / "none", "--since", days[0]) == {}
    monkeypatch.setattr(dump, "utcnow", lambda: today + dt.timedelta(minutes=30))
    assert f"counts-{days[2]}.csv" in dumped(database, tmp_path / "early"), "yesterday has not settled"
    so_far = dumped(database, tmp_path / "open", "--open-days")[f"counts-{days[0]}.csv"]
    assert {row["feature_name"]: row["usage_count"] for row in so_far if row["user_id"]} == {
        "search": "8",
        "'=new": "9",
    }


def test_parquet_streams_and_is_imported_again(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    _, _, today = filled(sqlite)
    monkeypatch.setattr(dump, "_TOGETHER", 1)
    dumped(sqlite, tmp_path / "files", kind="parquet")
    file = tmp_path / "files" / f"history-{today - DAY:%Y-%m-%d}.parquet"
    table = parquet.read_table(file)
    assert [str(kind) for kind in table.schema.types] == ["string", "string", "int64", "date32[day]", "timestamp[us]"]
    assert parquet.ParquetFile(file).num_row_groups == 2
    other = Database("sqlite", f"sqlite:///{tmp_path / 'other.db'}")
    engine = other.engine()
    tables = create_all(engine, user_id_type="string", users=None).tables
    assert [row["number"] for row in run(other, "import", str(file))] == [2, 6, 0, 0]
    assert counts(engine, tables) == {("search", "ada"): 2, ("search", None): 4}
    other.close()


def test_csv_is_imported_again_as_it_was(sqlite: Database, tmp_path: Path) -> None:
    names = ["=1+1", "'=1+1", "''=1", "+49170", " -x", "it's", "'", 'a,"b"\nc']
    engine = sqlite.engine()
    tables = made(engine, user_id_type="string")
    day = utcnow().replace(hour=0, minute=0, second=0, microsecond=0) - 2 * DAY
    keys = [{"user_id": name, "feature_name": name, "usage_count": 1} for name in names]
    with engine.begin() as connection:
        connection.execute(tables.usage.insert(), [{**key, "last_used": day} for key in keys])
        connection.execute(tables.history.insert(), [{**key, "bucket_start": day} for key in keys])
    dumped(sqlite, tmp_path / "files")
    other = Database("sqlite", f"sqlite:///{tmp_path / 'other.db'}")
    found = create_all(other.engine(), user_id_type="string", users=None).tables
    run(other, "import", str(tmp_path / "files" / f"history-{day:%Y-%m-%d}.csv"))
    assert counts(other.engine(), found) == {(name, name): 1 for name in names}
    other.close()


def test_a_file_is_there_as_a_whole_or_not_at_all(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(sqlite)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> Any:
        raise Killed

    monkeypatch.setattr(dump, "cell", killed)
    with pytest.raises(Killed):
        CliRunner().invoke(
            app, ["dump", str(tmp_path / "files"), "--format", "csv", "--url", sqlite.url], catch_exceptions=False
        )
    assert [path.suffix for path in (tmp_path / "files").iterdir()] == [".part"]


def test_an_empty_database_has_no_days(sqlite: Database, tmp_path: Path) -> None:
    made(sqlite.engine())
    assert [*dumped(sqlite, tmp_path / "files")] == [f"counts-{(utcnow() - dt.timedelta(hours=1)).date() - DAY}.csv"]


def test_a_source_for_dbt() -> None:
    done = CliRunner().invoke(app, ["db", "dbt", "--schema", "analytics"])
    (source,) = yaml.safe_load(done.stdout)["sources"]
    assert (source["name"], source["schema"]) == ("usage_instrument", "analytics")
    tables = {table["name"]: table for table in source["tables"]}
    defined = create_all(sa.create_engine("sqlite://")).tables
    assert {name: [column["name"] for column in table["columns"]] for name, table in tables.items()} == {
        table.name: table.c.keys() for table in defined
    }
    columns = {column["name"]: column for column in tables["feature_usage"]["columns"]}
    assert columns["id"]["data_tests"] == ["not_null", "unique"]
    assert columns["last_used"] == {
        "name": "last_used", "description": "The most recent use, UTC", "data_tests": ["not_null"]
    }  # fmt: skip
    (outcome,) = [each for each in tables["feature_usage_access"]["columns"] if each["name"] == "outcome"]
    assert outcome["data_tests"][1]["accepted_values"]["values"] == ["attempted", "success", "denied", "failed"]
    assert all(column["description"] for table in tables.values() for column in table["columns"])


def test_months_are_no_files_of_days(sqlite: Database, tmp_path: Path) -> None:
    engine, tables, today = filled(sqlite)
    first = (today + 40 * DAY).replace(day=1)
    with engine.begin() as connection:
        move_first_day(connection, tables, first)
    done = CliRunner().invoke(
        app, ["dump", str(tmp_path / "days"), "--format", "csv", "--open-days", "--url", sqlite.url]
    )
    assert done.exit_code == 2
    assert f"before {first:%Y-%m-%d} the history has months, which are no files of days: pass --since" in done.stderr
    assert list((tmp_path / "days").iterdir()) == []
