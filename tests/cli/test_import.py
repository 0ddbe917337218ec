"""`usage-instrument import`: counts of the past, added once, whatever happens in between."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from conftest import Database, UsersDatabase
from reading import all_of, counts, made, made_beside_users
from usage_instrument import Settings, Tracker, queries
from usage_instrument.cli.app import app
from usage_instrument.cli.transfer import rows
from usage_instrument.database.ledger import utcnow
from usage_instrument.pipeline.store import Store

PAST = """user_id,feature_name,usage_count,last_used,day
ada,search,3,2026-01-02T08:00:00,2026-01-02
ada,search,2,2026-01-03T09:30:00+01:00,2026-01-03
,search,7,,2026-01-02
bob,"a ""name"", so",1,,2026-01-04
"""


def bring_in(database: Database, file: Path, *options: str, **variables: str) -> Result:
    return CliRunner().invoke(app, ["import", str(file), "--url", database.url, *options], env=variables)


def numbers(done: Result) -> dict[str, tuple[int, str]]:
    return {row["what"]: (row["number"], row["status"]) for row in json.loads(done.stdout)}


def written(directory: Path, text: str, name: str = "past.csv") -> Path:
    file = directory / name
    file.write_text(text, encoding="utf-8")
    return file


def history(engine: sa.Engine, tables: Any) -> dict[Any, int]:
    return {
        (row.user_id, row.feature_name, row.bucket_start.date().isoformat()): row.usage_count
        for row in all_of(engine, tables.history)
    }


def test_adds_counts_and_history_once(database: Database, tmp_path: Path) -> None:
    engine, file = database.engine(), written(tmp_path, PAST)
    tables = made(engine, user_id_type="string")
    done = bring_in(database, file, "--dry-run", "--format", "json")
    assert (numbers(done)["uses"], counts(engine, tables)) == ((13, "would be added"), {})
    done = bring_in(database, file, "--format", "json")
    assert (done.exit_code, numbers(done)["rows"]) == (0, (4, "added"))
    expected = {("search", "ada"): 5, ("search", None): 7, ('a "name", so', "bob"): 1}
    assert counts(engine, tables) == expected
    assert history(engine, tables) == {
        ("ada", "search", "2026-01-02"): 3,
        ("ada", "search", "2026-01-03"): 2,
        (None, "search", "2026-01-02"): 7,
        ("bob", 'a "name", so', "2026-01-04"): 1,
    }
    last = {row.user_id: row.last_used for row in all_of(engine, tables.usage)}
    assert last == {
        "ada": dt.datetime(2026, 1, 3, 8, 30), None: dt.datetime(2026, 1, 2), "bob": dt.datetime(2026, 1, 4)
    }  # fmt: skip
    again = bring_in(database, file, "--format", "json")
    assert (numbers(again)["rows"], counts(engine, tables)) == ((4, "was added before"), expected)


def test_totals_without_a_time_are_of_before_the_history(database: Database, tmp_path: Path) -> None:
    engine, today = database.engine(), dt.datetime.combine(utcnow(), dt.time())
    tables = made(engine, user_id_type="string")
    totals = "user_id,feature_name,usage_count\nada,search,3\n"
    assert bring_in(database, written(tmp_path, totals)).exit_code == 0
    (row,) = all_of(engine, tables.usage)
    assert row.last_used == today - dt.timedelta(seconds=1)
    with engine.begin() as connection:
        connection.execute(tables.usage.delete())
    begin = today - dt.timedelta(days=9)
    dated = f"user_id,feature_name,usage_count,last_used,day\nbob,search,2,2020-01-01,{begin:%Y-%m-%d}\n"
    assert bring_in(database, written(tmp_path, dated)).exit_code == 0
    assert bring_in(database, written(tmp_path, totals.replace("ada", "cem"))).exit_code == 0
    last = {row.user_id: row.last_used for row in all_of(engine, tables.usage)}
    assert last["bob"] == begin, "a use of a day is not before it"
    assert last["cem"] == begin - dt.timedelta(seconds=1)
    with engine.connect() as connection:
        month = queries.adoption(since=dt.timedelta(days=28), tables=tables)
        assert [row[:3] for row in connection.execute(month)] == [("search", 1, 2)], "totals change no window"


def test_a_killed_import_goes_on_where_it_stopped(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    lines = [f"u{number % 3},f{number % 2},{number + 1}" for number in range(9)]
    file = written(tmp_path, "user_id,feature_name,usage_count\n" + "\n".join(lines) + "\n")
    monkeypatch.setattr(rows, "_CHUNK", 2)
    write, attempts = Store.write, []

    class Killed(BaseException):
        pass

    def killed(self: Any, ledger: Any, batch: Any) -> Any:
        attempts.append(batch.number)
        outcome = write(self, ledger, batch)
        if batch.number == 3:  # committed, and nobody knows
            raise Killed
        return outcome

    monkeypatch.setattr(Store, "write", killed)
    with pytest.raises(Killed):
        CliRunner().invoke(app, ["import", str(file), "--url", database.url], catch_exceptions=False)
    monkeypatch.setattr(Store, "write", write)
    assert attempts == [1, 2, 3]
    assert sum(counts(engine, tables).values()) == sum(range(1, 7))
    done = bring_in(database, file)
    assert done.exit_code == 0, done.output
    assert sum(counts(engine, tables).values()) == sum(range(1, 10))
    assert history(engine, tables) == {}
    (row,) = all_of(engine, tables.writers)
    assert (row.last_batch, row.service[:7]) == (5, "import:")


def test_bad_rows_are_named_and_nothing_is_written(sqlite: Database, tmp_path: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    good = "6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55"
    tomorrow = (utcnow() + dt.timedelta(days=2)).date()
    lines = [
        (f"{good},search,1,2026-01-02", None),
        ("ada,search,1,2026-01-02", "user_id: a user id of type uuid"),
        (f"{good},,1,2026-01-02", "feature_name: a feature name has 1 to 100 characters"),
        (f"{good},search,0,2026-01-02", "usage_count is a whole number from 1 to 2147483647, not '0'"),
        (f"{good},search,many,2026-01-02", "usage_count is a whole number"),
        (f"{good},search,1,", "day is a date such as 2026-01-31, not ''"),
        (f"{good},search,1,{tomorrow}", "is in the future"),
        (f"{good},search", "usage_count is a whole number"),
        (f"{good},search,1,2026-01-02,9", "there are more values than columns"),
    ]
    file = written(tmp_path, "user_id,feature_name,usage_count,day\n" + "\n".join(line for line, _ in lines) + "\n")
    done = bring_in(sqlite, file)
    assert done.exit_code == 2
    assert "nothing was written: correct these rows, or pass --skip-bad" in done.output
    for number, (_, reason) in enumerate(lines, 2):
        assert reason is None or f"line {number}: {reason}" in done.output or reason in done.output, done.output
        assert (f"line {number}:" in done.output) == (reason is not None)
    assert (counts(engine, tables), all_of(engine, tables.writers)) == ({}, [])
    done = bring_in(sqlite, file, "--skip-bad", "--format", "json")
    assert (done.exit_code, counts(engine, tables)) == (1, {("search", uuid.UUID(good)): 1})


def test_unknown_users_are_bad_rows(users_database: UsersDatabase, tmp_path: Path) -> None:
    engine, ids = users_database.engine, users_database.user_ids
    tables = made_beside_users(engine)
    text = f"user_id,feature_name,usage_count\n{ids[0]},search,1\n{uuid.uuid4()},search,1\n"
    file = written(tmp_path, text)
    done = bring_in(users_database.database, file)
    assert (done.exit_code, counts(engine, tables)) == (2, {})
    assert "line 3: user_id: there is no such user in the users table" in done.output
    done = bring_in(users_database.database, file, "--skip-bad")
    assert (done.exit_code, counts(engine, tables)) == (1, {("search", ids[0]): 1})


def test_users_who_opted_out_are_left_out(sqlite: Database, tmp_path: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine, user_id_type="string")
    tracker = Tracker(sqlite.url, Settings(privacy_key="p" * 32, user_id_type="string", users=None))
    tracker.privacy.opt_out("ada")
    assert tracker.shutdown(30)
    key = {"USAGE_INSTRUMENT_PRIVACY_KEY": "p" * 32}
    refused = bring_in(sqlite, written(tmp_path, PAST))
    assert refused.exit_code == 2
    assert "privacy_key" in refused.output
    done = bring_in(sqlite, tmp_path / "past.csv", "--format", "json", **key)
    assert done.exit_code == 0, done.output
    assert numbers(done)["rows of users who are erased or opted out"] == (2, "left out")
    assert counts(engine, tables) == {("search", None): 7, ('a "name", so', "bob"): 1}


def test_an_id_stands_for_one_file(sqlite: Database, tmp_path: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine, user_id_type="string")
    with engine.begin() as connection:
        declared = {"service": "web", "feature_name": "search", "declared_at": utcnow(), "last_declared_at": utcnow()}
        connection.execute(tables.catalog.insert().values(declared))
    file = written(tmp_path, PAST)
    done = bring_in(sqlite, file, "--id", "2026")
    assert done.exit_code == 0
    assert "no code declares 'a \"name\", so': check the names" in done.output
    file.write_text(PAST + "bob,search,1,,2026-01-05\n", encoding="utf-8")
    done = bring_in(sqlite, file, "--id", "2026")
    assert (done.exit_code, "the import '2026' added another file" in done.output) == (2, True)
    assert bring_in(sqlite, file, "--id", "2027").exit_code == 0
    assert counts(engine, tables)["search", None] == 14
    done = bring_in(sqlite, file)
    assert (done.exit_code, "this file was added before, as '2027', and would count twice" in done.output) == (2, True)
    # The row of an import is no silent process, and stays as long as the counts do.
    with engine.begin() as connection:
        connection.execute(tables.writers.update().values(heartbeat_at=utcnow() - dt.timedelta(days=900)))
    doctor = CliRunner().invoke(app, ["doctor", "--url", sqlite.url])
    assert "0 active writers" in doctor.output
    assert "silent" not in doctor.output
    CliRunner().invoke(app, ["prune", "--url", sqlite.url])
    assert len(all_of(engine, tables.writers)) == 2


def test_parquet_and_wrong_files(sqlite: Database, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    engine = sqlite.engine()
    tables = made(engine, user_id_type="integer")
    file = tmp_path / "past.parquet"
    table = pa.table(
        {
            "user_id": [7, None],
            "feature_name": ["search", "search"],
            "usage_count": [2, 5],
            "day": [dt.date(2026, 1, 2), dt.date(2026, 1, 3)],
            "other": ["x", "y"],
        }
    )
    parquet.write_table(table, file)
    done = bring_in(sqlite, file)
    assert (done.exit_code, counts(engine, tables)) == (0, {("search", 7): 2, ("search", None): 5}), done.output
    wrong = {
        "no.csv": ("", "has no column user_id, feature_name, usage_count"),
        "no.parquet": ("x", "is no Parquet file"),
        "quoted.csv": ('user_id,feature_name,usage_count\n7,"a"b,1\n', "after line 1: is no CSV"),
        "long.csv": ("x" * 200_000, "line 1: is no CSV"),
        "other.csv": ("user_id;feature_name;usage_count\n", "with commas between them; it has 'user_id;feature_name"),
        "time.csv": (
            "user_id,feature_name,usage_count,last_used\n7,a,1,0001-01-01T00:00:00+14:00\n",
            "line 2: last_used is beyond the years 1 to 9999 in UTC",
        ),
        "many.csv": ("user_id,feature_name,usage_count\n" + "7,a,0\n" * 25, "and 5 more bad rows"),
    }
    for name, (text, message) in wrong.items():
        done = bring_in(sqlite, written(tmp_path, text, name))
        assert (done.exit_code, message in done.output) == (2, True), done.output
    assert "there is no file" in bring_in(sqlite, tmp_path / "none.csv").output


def test_ids_and_numbers_of_other_types_are_the_same_or_refused(sqlite: Database, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    engine = sqlite.engine()
    tables = made(engine, user_id_type="string")
    ada = uuid.uuid4()

    def brought(name: str, users: Any, uses: Any, *options: str) -> Result:
        columns = {"user_id": users, "feature_name": ["f"] * len(users), "usage_count": uses}
        columns["last_used"] = pa.array([1_767_340_800_000_000_001] * len(users), pa.timestamp("ns"))
        parquet.write_table(pa.table(columns), tmp_path / name)
        return bring_in(sqlite, tmp_path / name, *options)

    assert brought("float.parquet", pa.array([42.0, None]), pa.array([3.0, 4.0])).exit_code == 0
    assert brought("bytes.parquet", pa.array([ada.bytes], pa.binary(16)), pa.array([Decimal(5)])).exit_code == 0
    expected = {("f", "42"): 3, ("f", None): 4, ("f", str(ada)): 5}
    assert counts(engine, tables) == expected
    for users in ([1.5], [float("nan")], [2.0**60], [True], [b"ada"]):
        done = brought("wrong.parquet", pa.array(users), pa.array([1]))
        assert (done.exit_code, "line 1: user_id: a text, a whole number or a UUID, not" in done.output) == (2, True)
    assert counts(engine, tables) == expected
