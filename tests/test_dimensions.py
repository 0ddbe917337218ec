"""Dimensions and numbers travel with their count: exactly once, through outages and kills, and gone with their user."""

from __future__ import annotations

import datetime as dt
import enum
import os
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

import usage_instrument as usage
from conftest import Database, Make, UsersDatabase, with_users, writing_pipeline
from pipeline.recovering import ADA, BOB, die, recover
from reading import all_of, balanced, counts, made
from usage_instrument.database.ledger import utcnow
from usage_instrument.errors import DimensionError
from usage_instrument.events import Use
from usage_instrument.schema import Tables
from usage_instrument.upgrade import plan_upgrade, upgrade

KEY = "k" * 32


def by_value(engine: sa.Engine, tables: Tables, feature: str = "export") -> dict[tuple[Any, str, str], int]:
    """Uses by user, dimension and value."""
    rows = all_of(engine, tables.dimensions)
    return {
        (row.user_id, row.dimension, row.dimension_value): row.usage_count
        for row in rows
        if row.feature_name == feature
    }


def numbers(engine: sa.Engine, tables: Tables) -> dict[tuple[Any, str, str], tuple[Any, ...]]:
    """Number, sum, sum of squares, least and greatest, by user, dimension and value."""
    return {
        (row.user_id, row.dimension, row.dimension_value): (
            row.value_count, row.value_sum, row.value_squares, row.value_minimum, row.value_maximum
        )
        for row in all_of(engine, tables.dimensions)
    }  # fmt: skip


@pytest.mark.parametrize(("history", "journal"), [("day", False), (None, True)], ids=["memory", "journal"])
def test_each_use_counts_by_each_value(
    database: Database, make: Make, tmp_path: Path, history: Any, journal: bool
) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database, history=history, journal=str(tmp_path) if journal else None)
    for _ in range(2):  # as new rows, and as known ones
        tracker.track("export", user=ADA, dimensions={"format": "csv", "large": True})
        tracker.track("export", user=ADA, dimensions={"format": "pdf"}, metadata={"page": 1})
        tracker.track("export", user=ADA)
        tracker.track("export", user=BOB, dimensions={"format": "csv"}, count=5)
        tracker.track("export", user=None, dimensions={"format": "csv", "none": None}, value=2)
        tracker.track("pay", user=ADA, value=Decimal("1.5"), count=2)
        tracker.track("pay", user=ADA, value=-4)
        assert tracker.flush(20), tracker.stats()
    assert by_value(engine, tables) == {
        (ADA, "format", "csv"): 2,
        (ADA, "large", "true"): 2,
        (ADA, "format", "pdf"): 2,
        (BOB, "format", "csv"): 10,
        (None, "format", "csv"): 2,
        (None, "", ""): 2,
    }
    assert {key: found for key, found in numbers(engine, tables).items() if found[0]} == {
        (None, "format", "csv"): (2, 4.0, 8.0, 2.0, 2.0),
        (None, "", ""): (2, 4.0, 8.0, 2.0, 2.0),
        (ADA, "", ""): (6, -2.0, 41.0, -4.0, 1.5),
    }
    today = utcnow().replace(hour=0, minute=0, second=0, microsecond=0)
    assert {row.bucket_start for row in all_of(engine, tables.dimensions)} <= {today, today - dt.timedelta(days=1)}
    assert counts(engine, tables) == {("export", ADA): 6, ("export", BOB): 10, ("export", None): 2, ("pay", ADA): 6}
    assert (tracker.stats().written, balanced(tracker.stats())) == (24, True)


def test_writers_in_a_race_add_up(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="integer")
    trackers = [make(database, user_id_type="integer", flush_rows=7) for _ in range(2)]
    for _ in range(3):
        for tracker in trackers:
            for user in (*range(20), None):
                tracker.track("export", user=user, dimensions={"format": "csv"}, value=1)
        requests = [tracker._request_flush(30) for tracker in trackers]
        assert all(request.wait() for request in requests), [tracker.stats() for tracker in trackers]
    users = (*range(20), None)
    assert by_value(engine, tables) == {(user, *key): 6 for user in users for key in (("format", "csv"), ("", ""))}
    assert {found[1] for found in numbers(engine, tables).values()} == {6.0}


class Color(enum.Enum):
    """Of a value."""

    RED = "red"


def test_values_of_any_kind_are_text(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database, user_id_type="string")
    day = dt.date(2026, 1, 31)
    given = ["a", "A", "ä", "a ", "", "'\"\\", "名前", "🎲" * 100, "\n", False, 7, 0.5, Color.RED, Decimal("1.50"), day]
    for _ in range(2):
        for value in given:
            tracker.track("export", user="a ", dimensions={"größe": value})
        tracker.track("export", user="A", dimensions={"Größe": "x" * 101})
        for wrong in ("a\0", "\ud800", b"x", [1], object()):
            tracker.track("export", user="b", dimensions={"größe": wrong})
        assert tracker.flush(20), tracker.stats()
    texts = [*given[:9], "false", "7", "0.5", "red", "1.50", "2026-01-31"]
    found = by_value(engine, tables)
    (long,) = (value for user, _, value in found if user == "A")
    assert (long[:89], len(long)) == ("x" * 89, 100)
    assert found == {**{("a ", "größe", text): 2 for text in texts}, ("A", "Größe", long): 2}
    assert counts(engine, tables)["export", "b"] == 10


_DIMENSIONS: list[Any] = [["format"], "format", {"": "a"}, {7: "a"}, {"a\0": "b"}, {"x" * 101: "a"}]
_VALUES: list[Any] = ["7", True, float("nan"), float("inf"), 1e16, 10**400, Decimal("sNaN"), [], np.ones(2)]


@pytest.mark.parametrize(
    "wrong",
    [*({"dimensions": each} for each in _DIMENSIONS), *({"value": each} for each in _VALUES)],
    ids=repr,
)
def test_a_mistake_loses_the_dimensions_and_never_the_use(sqlite: Database, make: Make, wrong: Any) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    tracker = make(sqlite)
    tracker.track("export", user=ADA, **wrong)
    assert tracker.flush(20)
    assert (counts(engine, tables), by_value(engine, tables)) == ({("export", ADA): 1}, {})
    assert tracker.stats().metadata_lost == 1
    with pytest.raises(DimensionError):
        make(sqlite, strict=True).track("export", user=ADA, **wrong)


# ---- the limit of different values


def test_values_beyond_the_limit_count_as_other(
    database: Database, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    engine = database.engine()
    tables = made(engine)
    first, second = (make(database, dimension_values=4) for _ in range(2))
    for tracker, values in ((first, "abc"), (second, "xydb"), (first, "zxa"), (second, "ayc")):
        for value in values:
            tracker.track("export", user=ADA, dimensions={"format": value, "kind": "one"}, value=1)
        assert tracker.flush(20), tracker.stats()
    # `second` saw the three values of `first` before it added one of its own.
    assert by_value(engine, tables) == {
        **{(ADA, "format", value): uses for value, uses in {"a": 3, "b": 2, "c": 2, "d": 1, "(other)": 5}.items()},
        (ADA, "kind", "one"): 13,
        (ADA, "", ""): 13,
    }
    assert len([text for text in caplog.messages if "'format' of feature 'export' has more than 4 diff" in text]) == 1
    other = make(database, dimension_values=4)  # which has seen nothing
    other.track("export", user=ADA, dimensions={"format": "new"})
    other.track("export", user=ADA, dimensions={"format": "d"})
    other.track("import", user=ADA, dimensions={"format": "new"})
    assert other.flush(20)
    assert by_value(engine, tables)[ADA, "format", "(other)"] == 6
    assert by_value(engine, tables, "import") == {(ADA, "format", "new"): 1}


def test_memory_is_bounded_in_values(sqlite: Database, make: Make) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    tracker = make(sqlite, max_pending_bytes=5_000)
    for number in range(20):
        tracker.track("export", user=ADA, dimensions={"id": number})
    assert tracker.flush(20)
    stats = tracker.stats()
    assert (stats.written, stats.dropped, stats.metadata_lost, balanced(stats)) == (20, 0, 10, True)
    assert len(by_value(engine, tables)) == 10
    tracker.track("export", user=ADA, dimensions={"id": 7})  # the memory is free again
    assert tracker.flush(20)
    assert by_value(engine, tables)[ADA, "id", "7"] == 2


# ---- on the way


def test_what_a_killed_process_captured_is_written(sqlite: Database, tmp_path: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    code = """
        for user in (ADA, ADA, BOB):
            tracker.track("export", user=user, dimensions={"format": "csv"}, value=2.5)
        tracker.flush(20)
        tracker.track("export", user=ADA, dimensions={"format": "pdf"})
        tracker.track("export", user=ADA, value=7, audit=True)
    """
    die(sqlite.url, tmp_path, code)
    recovered = recover(sqlite.url, tmp_path)
    assert (recovered.journals, recovered.written) == (1, 2)
    assert by_value(engine, tables) == {
        (ADA, "format", "csv"): 2,
        (BOB, "format", "csv"): 1,
        (ADA, "format", "pdf"): 1,
        (ADA, "", ""): 3,
        (BOB, "", ""): 1,
    }
    assert numbers(engine, tables)[ADA, "", ""] == (3, 12.0, 61.5, 2.5, 7.0)


def test_a_snapshot_keeps_dimensions_and_numbers(sqlite: Database, tmp_path: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    with engine.begin() as connection:  # the batch stays in the snapshot
        connection.exec_driver_sql("ALTER TABLE feature_usage RENAME TO hidden")
    code = """
        tracker.track("export", user=ADA, dimensions={"format": "csv"}, value=2.5)
        tracker.track("export", user=ADA, dimensions={"format": "csv"})
        assert not tracker.flush(1)
    """
    die(sqlite.url, tmp_path, code)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hidden RENAME TO feature_usage")
    assert recover(sqlite.url, tmp_path).written == 2
    assert by_value(engine, tables) == {(ADA, "format", "csv"): 2, (ADA, "", ""): 1}
    assert set(numbers(engine, tables).values()) == {(1, 2.5, 6.25, 2.5, 2.5)}


def test_an_outage_past_midnight_keeps_the_days(sqlite: Database, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    tracker = make(sqlite)
    for day in (9, 10, 10):
        stamp = int(dt.datetime(2026, 3, day, 12, tzinfo=dt.UTC).timestamp() * 1e9)
        monkeypatch.setattr("usage_instrument.pipeline.aggregator.time.time_ns", lambda stamp=stamp: stamp)
        tracker.track("export", user=ADA, dimensions={"format": "csv"}, value=day)
        writing_pipeline(tracker)._aggregator.aggregate()
        writing_pipeline(tracker).writer.batcher.take()
        writing_pipeline(tracker).writer.batcher.give_back()
    assert tracker.flush(20), tracker.stats()
    rows = {(row.bucket_start.day, row.dimension): row for row in all_of(engine, tables.dimensions)}
    assert {key: (row.usage_count, row.value_sum) for key, row in rows.items()} == {
        (9, ""): (1, 9.0), (9, "format"): (1, 9.0), (10, ""): (2, 20.0), (10, "format"): (2, 20.0)
    }  # fmt: skip


def test_before_track_sees_and_changes_them(sqlite: Database, make: Make) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    seen = []

    def rule(use: Use) -> Use | None:
        seen.append(use)
        return use._replace(dimensions={"format": "scrubbed"}, value=1)

    tracker = make(sqlite, before_track=rule)
    tracker.track("export", user=ADA, dimensions={"format": "csv"}, value=7)
    assert tracker.flush(20)
    assert (seen[0].dimensions, seen[0].value) == ({"format": "csv"}, 7.0)
    assert numbers(engine, tables)[ADA, "format", "scrubbed"][1] == 1.0


def test_the_configured_tracker_takes_them(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    usage.configure(sqlite.url)
    usage.track("export", user=ADA, dimensions={"format": "csv"})
    assert usage.flush(20)
    assert by_value(engine, tables) == {(ADA, "format", "csv"): 1}


# ---- users come and go


def test_deleting_a_user_deletes_their_dimensions(users_database: UsersDatabase, make: Make) -> None:
    engine = users_database.engine
    tables = made(engine)
    ada, bob, *_ = users_database.user_ids
    tracker = make(users_database.database)
    for user in (ada, bob):
        tracker.track("export", user=user, dimensions={"format": "csv"}, value=1)
    assert tracker.flush(20), tracker.stats()
    with engine.begin() as connection:
        connection.execute(users_database.users.delete().where(users_database.users.c.id == ada))
    assert {user for user, *_ in by_value(engine, tables)} == {bob}
    # The process knows the user from before: uses become anonymous, with their dimensions.
    tracker.track("export", user=ada, dimensions={"format": "csv"}, value=1)
    tracker.track("export", user=None, dimensions={"format": "csv"}, value=2)
    assert tracker.flush(20), tracker.stats()
    if users_database.database.name != "sqlite":  # which enforces foreign keys only where the host turns them on
        assert numbers(engine, tables)[None, "format", "csv"] == (2, 3.0, 5.0, 1.0, 2.0)
        assert balanced(tracker.stats())


def test_a_user_whom_the_database_does_not_know_yet(server: Database, make: Make) -> None:
    it = with_users(server)
    tables = made(it.engine)
    tracker = make(server)
    late = uuid.uuid4()
    tracker.track("export", user=late, dimensions={"format": "csv"})
    assert not tracker.flush(5)
    with it.engine.begin() as connection:
        connection.execute(it.users.insert().values(id=late, name="late"))
    assert tracker.flush(20), tracker.stats()
    assert by_value(it.engine, tables) == {(late, "format", "csv"): 1}


def test_suppressed_users_have_none(sqlite: Database, make: Make) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    tracker = make(sqlite, privacy_key=KEY)
    for user in (ADA, BOB):
        tracker.track("export", user=user, dimensions={"format": "csv"}, value=2.5)
    data = tracker.privacy.export(ADA)
    assert [row.pop("bucket_start")[10:] for row in data["dimensions"]] == ["T00:00:00"] * 2
    of_value = {"value_count": 1, "value_sum": 2.5, "value_squares": 6.25, "value_minimum": 2.5, "value_maximum": 2.5}
    assert data["dimensions"] == [
        {"feature_name": "export", "dimension": name, "dimension_value": value, "usage_count": 1, **of_value}
        for name, value in (("", ""), ("format", "csv"))
    ]
    tracker.privacy.opt_out(BOB)
    tracker.track("export", user=BOB, dimensions={"format": "csv"})
    assert tracker.flush(20), tracker.stats()
    assert by_value(engine, tables)[BOB, "format", "csv"] == 1
    receipt = tracker.privacy.forget(ADA)
    assert receipt.deleted["feature_usage_dimensions"] == 2
    tracker.track("export", user=ADA, dimensions={"format": "csv"})
    assert tracker.flush(20), tracker.stats()
    assert {user for user, *_ in by_value(engine, tables)} == {BOB}
    assert balanced(tracker.stats())


def test_a_guest_who_signs_in_keeps_them(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database, flush_rows=3)
    for value in "abcde":
        tracker.track("export", user=BOB, dimensions={"format": value}, value=2)
    tracker.track("export", user=ADA, dimensions={"format": "a"}, value=5)
    assert tracker.flush(20), tracker.stats()
    receipt = tracker.merge(guest=BOB, user=ADA)
    assert receipt.moved["feature_usage_dimensions"] == 6
    assert by_value(engine, tables) == {
        (ADA, "format", "a"): 2, **{(ADA, "format", value): 1 for value in "bcde"}, (ADA, "", ""): 6
    }  # fmt: skip
    found = numbers(engine, tables)
    assert (found[ADA, "", ""], found[ADA, "format", "a"]) == ((6, 15.0, 45.0, 2.0, 5.0), (2, 7.0, 29.0, 2.0, 5.0))
    assert tracker.merge(guest=BOB, user=ADA).moved["feature_usage_dimensions"] == 0


# ---- in the app's own transaction


def test_a_use_that_waits_for_its_commit_keeps_them(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database)
    host = database.engine()
    for commits in (True, False, True):
        with host.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
            tracker.track("export", user=ADA, dimensions={"format": "csv"}, value=2.5, count=2, commit=connection)
            tracker.track("export", user=ADA, commit=connection)
            (connection.commit if commits else connection.rollback)()
    if database.name != "sqlite":
        with engine.connect() as connection:
            waiting = connection.scalars(sa.select(tables.outbox.c.dimensions)).all()
        assert sorted(map(str, waiting)) == ["None"] * 2 + ['[{"format": "csv"}, 2.5]'] * 2
    assert tracker.flush(20), tracker.stats()
    assert by_value(engine, tables) == {(ADA, "format", "csv"): 4, (ADA, "", ""): 4}
    assert numbers(engine, tables)[ADA, "", ""] == (4, 10.0, 25.0, 2.5, 2.5)
    assert counts(engine, tables) == {("export", ADA): 6}


# ---- the schema of the release before


def test_without_the_table_counts_are_written_and_dimensions_are_not(
    database: Database, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    engine = database.engine()
    tables = made(engine)
    with engine.begin() as connection:
        tables.dimensions.drop(connection)
    tracker = make(database, privacy_key=KEY)
    tracker.track("export", user=ADA, dimensions={"format": "csv"}, value=7)
    assert tracker.flush(20), tracker.stats()
    assert counts(engine, tables) == {("export", ADA): 1}
    assert (tracker.stats().rejected, tracker.stats().metadata_lost, balanced(tracker.stats())) == (0, 1, True)
    said = "dimensions and values lost, and the uses are counted: table feature_usage_dimensions does not exist: run "
    assert [record for record in caplog.messages if record.startswith(said)]
    assert tracker.privacy.export(ADA)["dimensions"] == []
    assert tracker.merge(guest=ADA, user=BOB).uses == 1
    assert "feature_usage_dimensions" not in tracker.privacy.forget(BOB).deleted
    with engine.connect() as connection:
        assert plan_upgrade(connection, tables).sentences == ["Create the table feature_usage_dimensions."]
        connection.rollback()
        upgrade(connection, tables)
    tracker.track("export", user=ADA, dimensions={"format": "csv"})
    assert tracker.flush(20), tracker.stats()
    assert by_value(engine, tables) == {(ADA, "format", "csv"): 1}


def test_a_table_without_its_unique_index_gets_it(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    name = "uq_feature_usage_dimensions_user_feature_value_bucket"
    with engine.begin() as connection:
        on = " ON feature_usage_dimensions" if database.name == "mariadb" else ""
        connection.exec_driver_sql(f"DROP INDEX {name}{on}")
    tracker = make(database)
    tracker.track("export", user=ADA, dimensions={"format": "csv"})
    assert tracker.flush(20), tracker.stats()
    assert (counts(engine, tables), by_value(engine, tables)) == ({("export", ADA): 1}, {})
    with engine.connect() as connection:
        done = upgrade(connection, tables)
    assert done.sentences == [f"Add the unique index {name} to feature_usage_dimensions, NULLs included."]
    for _ in range(2):
        tracker.track("export", user=None, dimensions={"format": "csv"})
        assert tracker.flush(20), tracker.stats()
    assert by_value(engine, tables) == {(None, "format", "csv"): 2}


def test_children_of_a_fork_count_their_own(sqlite: Database, make: Make) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    tracker = make(sqlite)
    tracker.track("export", user=ADA, dimensions={"format": "csv"})
    child = os.fork()
    if not child:
        tracker.track("export", user=ADA, dimensions={"format": "csv"})
        os._exit(0 if tracker.shutdown(20) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert tracker.flush(20)
    assert by_value(engine, tables) == {(ADA, "format", "csv"): 2}
