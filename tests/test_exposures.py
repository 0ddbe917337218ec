"""Exposures travel as uses do: exactly once, through outages and kills, and gone with their user."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import usage_instrument as usage
from conftest import Database, Make, UsersDatabase, with_users, writing_pipeline
from pipeline.recovering import ADA, BOB, die, recover
from reading import all_of, balanced, counts, made
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.schema import reflected_options
from usage_instrument.events import Use
from usage_instrument.schema import Tables
from usage_instrument.upgrade import plan_upgrade, upgrade

COLORS = ["red", "blue"]
SECOND = dt.timedelta(seconds=1)


def exposed(engine: sa.Engine, tables: Tables) -> dict[tuple[str, str, str], tuple[Any, int]]:
    """User and number of exposures, by experiment, unit and variant."""
    rows = all_of(engine, tables.exposures)
    return {(row.experiment, row.unit, row.variant): (row.user_id, row.exposures) for row in rows}


@pytest.mark.parametrize(("history", "journal"), [("day", False), (None, True)], ids=["memory", "journal"])
def test_exposures_are_rows_of_units(
    database: Database, make: Make, tmp_path: Path, history: Any, journal: bool
) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database, history=history, journal=str(tmp_path) if journal else None)
    begin = utcnow()
    got = {user: tracker.variant("button", COLORS, user=user) for user in (ADA, BOB, ADA)}
    tracker.variant("button", COLORS, user=ADA)
    tracker.expose("page", "new", user=BOB)
    tracker.expose("page", "new", unit="visitor 7")
    tracker.track("search", user=ADA)
    assert tracker.flush(20), tracker.stats()
    first = {row[:3]: (row.first_exposed_at, row.last_exposed_at) for row in all_of(engine, tables.exposures)}
    for seen in first.values():
        assert begin - SECOND <= seen[0] <= seen[1] <= utcnow() + SECOND
    tracker.variant("button", COLORS, user=ADA)
    tracker.expose("page", "old", user=BOB)
    with tracker.as_user(BOB):
        tracker.expose("page", "new", unit="visitor 7")
    tracker.expose("page", "new", user=ADA, unit="visitor 7")
    assert tracker.flush(20), tracker.stats()
    assert exposed(engine, tables) == {
        ("button", str(ADA), got[ADA]): (ADA, 4),
        ("button", str(BOB), got[BOB]): (BOB, 1),
        ("page", str(BOB), "new"): (BOB, 1),
        ("page", str(BOB), "old"): (BOB, 1),
        ("page", "visitor 7", "new"): (ADA, 3),
    }
    for row in all_of(engine, tables.exposures):
        known = first.get(row[:3])
        if known is not None:
            assert row.first_exposed_at == known[0]
            assert (row.last_exposed_at > known[1]) == (row.exposures > 1 and row.unit != str(BOB))
    assert counts(engine, tables) == {("search", ADA): 1}
    assert len(all_of(engine, tables.history)) == (1 if history else 0)
    assert [feature.name for feature in tracker.catalog] == []
    stats = tracker.stats()
    assert (stats.captured, stats.written, balanced(stats)) == (11, 11, True)


def test_racing_writers_add_up(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="integer")
    trackers = [make(database, user_id_type="integer", flush_rows=7) for _ in range(2)]
    for _ in range(3):
        for tracker in trackers:
            for user in range(30):
                tracker.expose("page", "new", user=user)
                tracker.expose("page", "new", unit=f"visitor {user}")
        requests = [tracker._request_flush(30) for tracker in trackers]
        assert all(request.wait() for request in requests), [tracker.stats() for tracker in trackers]
    users: dict[Any, Any] = {("page", str(user), "new"): (user, 6) for user in range(30)}
    assert exposed(engine, tables) == users | {("page", f"visitor {user}", "new"): (None, 6) for user in range(30)}


def test_names_and_units_of_any_script_are_told_apart(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database, user_id_type="string")
    units = ["a", "A", "ä", "a ", "'\"\\", "名前", "🎲" * 255, '{"x":1}', "\n"]
    names = ["größe", "Größe", "größe "]
    for _ in range(2):  # as new rows, and as known ones
        for unit in units:
            tracker.expose("größe", "groß", unit=unit)
            tracker.expose("size", "big", user=unit)
        for name in names:
            tracker.expose(name, name, unit="b")
        assert tracker.flush(20), tracker.stats()
    assert exposed(engine, tables) == {
        **{("größe", unit, "groß"): (None, 2) for unit in units},
        **{("size", unit, "big"): (unit, 2) for unit in units},
        **{(name, "b", name): (None, 2) for name in names},
    }


def test_the_number_stops_at_the_largest_int(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database)
    for unit in ("new", "known"):
        tracker.expose("page", "new", unit=unit)
    assert tracker.flush(20)
    with engine.begin() as connection:
        connection.execute(sa.update(tables.exposures).values(exposures=2**31 - 2))
        connection.execute(sa.delete(tables.exposures).where(tables.exposures.c.unit == "new"))
    for unit in ("new", "known"):
        for _ in range(3):
            tracker.expose("page", "new", unit=unit)
    assert tracker.flush(20), tracker.stats()
    assert {row.unit: row.exposures for row in all_of(engine, tables.exposures)} == {"new": 3, "known": 2**31 - 1}


def test_a_clock_that_runs_ahead_does_not_reach_the_table(
    database: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database)
    ahead = utcnow() + dt.timedelta(days=400)
    monkeypatch.setattr(
        "usage_instrument.pipeline.aggregator.time.time_ns", lambda: int(ahead.replace(tzinfo=dt.UTC).timestamp() * 1e9)
    )
    tracker.expose("page", "new", user=ADA)
    assert tracker.flush(20), tracker.stats()
    (row,) = all_of(engine, tables.exposures)
    assert row.last_exposed_at < utcnow() + dt.timedelta(minutes=5) > row.first_exposed_at


def test_an_outage_keeps_the_first_and_the_last_time(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database)
    begin = utcnow()
    for _ in range(3):
        tracker.expose("page", "new", user=ADA)
        writing_pipeline(tracker)._aggregator.aggregate()
        writing_pipeline(tracker).writer.batcher.take()
        writing_pipeline(tracker).writer.batcher.give_back()
    middle = utcnow()
    tracker.expose("page", "new", user=ADA)
    assert tracker.flush(20), tracker.stats()
    (row,) = all_of(engine, tables.exposures)
    assert begin - SECOND <= row.first_exposed_at <= middle <= row.last_exposed_at + SECOND
    assert (row.exposures, row.first_exposed_at < row.last_exposed_at) == (4, True)


def test_what_a_killed_process_captured_is_written(database: Database, tmp_path: Path) -> None:
    engine = database.engine()
    tables = made(engine)
    code = """
        for user in (ADA, ADA, BOB):
            tracker.expose("page", "new", user=user)
        tracker.expose("page", "new", unit="visitor 7")
        tracker.track("search", user=ADA)
        tracker.flush(20)
        tracker.expose("page", "new", user=ADA)
        tracker.expose("page", "new", unit="visitor 7", user=BOB)
    """
    die(database.url, tmp_path, code)
    recovered = recover(database.url, tmp_path)
    assert (recovered.journals, recovered.written) == (1, 2)
    assert exposed(engine, tables) == {
        ("page", str(ADA), "new"): (ADA, 3),
        ("page", str(BOB), "new"): (BOB, 1),
        ("page", "visitor 7", "new"): (BOB, 2),
    }
    assert counts(engine, tables) == {("search", ADA): 1}


def test_a_snapshot_keeps_the_time_of_the_first_exposure(sqlite: Database, tmp_path: Path) -> None:
    engine = sqlite.engine()
    made(engine)
    with engine.begin() as connection:  # the batch stays in the snapshot
        connection.exec_driver_sql("ALTER TABLE feature_usage_exposures RENAME TO hidden")
        connection.exec_driver_sql("ALTER TABLE feature_usage RENAME TO hidden_usage")
    code = """
        tracker.expose("page", "new", user=ADA)
        tracker._pipeline._aggregator.aggregate()
        import time
        time.sleep(1.1)
        tracker.expose("page", "new", user=ADA)
        assert not tracker.flush(1)
    """
    begin = utcnow()
    die(sqlite.url, tmp_path, code)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hidden RENAME TO feature_usage_exposures")
        connection.exec_driver_sql("ALTER TABLE hidden_usage RENAME TO feature_usage")
    assert recover(sqlite.url, tmp_path).written == 2
    (row,) = all_of(engine, made(engine).exposures)
    assert row.last_exposed_at - row.first_exposed_at >= SECOND
    assert row.first_exposed_at - begin < 10 * SECOND


def test_children_of_a_fork_count_their_own(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database)
    name = tracker.variant("button", COLORS, user=ADA)
    child = os.fork()
    if not child:
        tracker.variant("button", COLORS, user=ADA)
        tracker.variant("button", COLORS, user=BOB)
        os._exit(0 if tracker.shutdown(20) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert tracker.flush(20)
    rows = exposed(engine, tables)
    assert rows["button", str(ADA), name] == (ADA, 2)
    assert sum(number for _, number in rows.values()) == 3


def test_a_tracker_that_is_not_enabled_assigns_and_records_nothing(sqlite: Database, make: Make) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    got, off = make(sqlite).variant("button", COLORS, user=str(ADA).upper()), make(sqlite, enabled=False)
    assert off.variant("button", COLORS, user=ADA) == got
    assert off.variant("button", COLORS, user=7) == "red"  # of a wrong type
    off.expose("button", "blue", unit="v")
    assert (off.flush(5), off.stats().captured, exposed(engine, tables)) == (True, 0, {})


def test_the_configured_tracker_takes_over_what_was_declared_before(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    usage.variant("button", COLORS, user=ADA)  # not configured: not recorded
    usage.configure(sqlite.url)
    name = usage.variant("button", COLORS, user=ADA)
    usage.expose("button", "blue", unit="v")
    assert usage.flush(20)
    assert exposed(engine, tables) == {("button", str(ADA), name): (ADA, 1), ("button", "v", "blue"): (None, 1)}


def test_what_a_user_has_used_holds_no_exposure(sqlite: Database, make: Make) -> None:
    made(sqlite.engine())
    tracker = make(sqlite)
    tracker.track("search", user=ADA)
    tracker.expose("page", "new", user=ADA)
    assert [use.feature_name for use in tracker.user_features(ADA)] == ["search"]


def test_memory_is_bounded_in_exposures(sqlite: Database, make: Make) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    tracker = make(sqlite, max_pending=5)
    for number in range(20):
        tracker.expose("page", "new", unit=f"visitor {number}")
    assert tracker.flush(20)
    stats = tracker.stats()
    assert (stats.written, stats.dropped, balanced(stats)) == (5, 15, True)
    assert len(exposed(engine, tables)) == 5


# ---- the app's own rule


def test_before_track_scrubs_and_drops_exposures(sqlite: Database, make: Make) -> None:
    engine = sqlite.engine()
    tables = made(engine, user_id_type="string")
    seen = []

    def rule(use: Use) -> Use | None:
        seen.append(use)
        if use.user == "bot":
            return None
        return use._replace(user=None) if use.user == "boss" else use

    tracker = make(sqlite, user_id_type="string", before_track=rule)
    for user in ("ada", "bot", "boss"):
        tracker.expose("page", "new", user=user)
    tracker.expose("page", "new", user="boss", unit="v")
    assert tracker.flush(20)
    assert seen[0] == Use("page", "ada", {"variant": "new"})
    assert exposed(engine, tables) == {("page", "ada", "new"): ("ada", 1), ("page", "v", "new"): (None, 1)}
    assert tracker.stats().captured == 2


# ---- users come and go


def test_deleting_a_user_deletes_their_exposures(users_database: UsersDatabase, make: Make) -> None:
    engine = users_database.engine
    tables = made(engine)
    ada, bob, *_ = users_database.user_ids
    tracker = make(users_database.database)
    for user in (ada, bob):
        tracker.expose("page", "new", user=user)
        tracker.expose("page", "new", user=user, unit=f"visitor of {user}")
    tracker.expose("page", "new", unit="visitor 7")
    assert tracker.flush(20), tracker.stats()
    with engine.begin() as connection:
        connection.execute(users_database.users.delete().where(users_database.users.c.id == ada))
    assert {unit for _, unit, _ in exposed(engine, tables)} == {str(bob), f"visitor of {bob}", "visitor 7"}
    # The process knows the user from before. Uses become anonymous, exposures go.
    tracker.track("search", user=ada)
    tracker.expose("page", "new", user=ada)
    tracker.expose("page", "new", user=ada, unit="visitor 8")
    tracker.expose("page", "new", user=bob)
    assert tracker.flush(20), tracker.stats()
    if users_database.database.name != "sqlite":  # which enforces foreign keys only where the host turns them on
        assert {unit for _, unit, _ in exposed(engine, tables)} == {str(bob), f"visitor of {bob}", "visitor 7"}
        assert counts(engine, tables) == {("search", None): 1}
        stats = tracker.stats()
        assert (stats.rejected, balanced(stats)) == (2, True)


def test_the_exposures_of_a_deleted_user_alone_in_a_batch_go(server: Database, make: Make) -> None:
    it = with_users(server)
    tables = made(it.engine)
    tracker = make(server)
    tracker.expose("page", "new", user=it.user_ids[0])
    assert tracker.flush(20)
    with it.engine.begin() as connection:
        connection.execute(it.users.delete().where(it.users.c.id == it.user_ids[0]))
    tracker.expose("page", "new", user=it.user_ids[0])
    assert tracker.flush(20), tracker.stats()
    assert (exposed(it.engine, tables), tracker.stats().rejected, balanced(tracker.stats())) == ({}, 1, True)


def test_a_user_whom_the_database_does_not_know_yet(server: Database, make: Make) -> None:
    it = with_users(server)
    tables = made(it.engine)
    tracker = make(server)
    late = uuid.uuid4()
    tracker.expose("page", "new", user=late)
    tracker.expose("page", "new", user=it.user_ids[0])
    assert not tracker.flush(5)
    assert {unit for _, unit, _ in exposed(it.engine, tables)} == {str(it.user_ids[0])}
    with it.engine.begin() as connection:
        connection.execute(it.users.insert().values(id=late, name="late"))
    assert tracker.flush(20), tracker.stats()
    assert exposed(it.engine, tables)["page", str(late), "new"] == (late, 1)


KEY = "k" * 32


def test_suppressed_users_are_not_exposed(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database, privacy_key=KEY)
    for user in (ADA, BOB):
        tracker.expose("page", "new", user=user)
    tracker.expose("page", "new", user=ADA, unit="visitor 7")
    data = tracker.privacy.export(ADA)
    assert [row.pop("first_exposed_at") <= row.pop("last_exposed_at") for row in data["exposures"]] == [True, True]
    assert sorted(data["exposures"], key=lambda row: str(row["unit"])) == [
        {"experiment": "page", "unit": unit, "variant": "new", "exposures": 1} for unit in (str(ADA), "visitor 7")
    ]
    tracker.privacy.opt_out(BOB)
    tracker.expose("page", "new", user=BOB)
    tracker.expose("page", "new", user=BOB, unit="visitor 8")
    assert tracker.flush(20), tracker.stats()
    assert exposed(engine, tables)["page", str(BOB), "new"] == (BOB, 1)
    receipt = tracker.privacy.forget(ADA)
    assert receipt.deleted["feature_usage_exposures"] == 2
    tracker.expose("page", "new", user=ADA)
    assert tracker.flush(20), tracker.stats()
    assert exposed(engine, tables) == {("page", str(BOB), "new"): (BOB, 1)}
    assert (tracker.stats().rejected, balanced(tracker.stats())) == (3, True)


def test_a_user_with_exposures_alone_is_known(sqlite: Database, make: Make) -> None:
    made(sqlite.engine())
    tracker = make(sqlite, privacy_key=KEY)
    tracker.expose("page", "new", user=ADA)
    assert tracker.flush(20)
    assert tracker.privacy.forget(ADA).deleted["feature_usage_exposures"] == 1


# ---- the schema of the release before


def test_without_the_table_counts_are_written_and_exposures_rejected(
    database: Database, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    engine = database.engine()
    tables = made(engine)
    with engine.begin() as connection:
        tables.exposures.drop(connection)
    tracker = make(database, privacy_key=KEY)
    for number in range(50):
        tracker.expose("page", "new", unit=f"visitor {number}")
    tracker.track("search", user=ADA)
    assert tracker.flush(20), tracker.stats()
    assert counts(engine, tables) == {("search", ADA): 1}
    assert tracker.stats().rejected == 50
    said = "50 uses rejected, refused by the database: table feature_usage_exposures does not exist: run "
    assert [record for record in caplog.messages if record.startswith(said)]
    assert tracker.privacy.export(ADA)["exposures"] == []
    assert tracker.privacy.forget(ADA).deleted == {
        "feature_usage_outbox": 0, "feature_usage": 1, "feature_usage_history": 1, "feature_usage_dimensions": 0
    }  # fmt: skip
    with engine.connect() as connection:
        assert plan_upgrade(connection, tables).sentences == ["Create the table feature_usage_exposures."]
        connection.rollback()
        upgrade(connection, tables)
    tracker.expose("page", "new", unit="visitor 7")
    assert tracker.flush(20), tracker.stats()
    assert exposed(engine, tables) == {("page", "visitor 7", "new"): (None, 1)}
    assert balanced(tracker.stats())


def test_upgrade_adds_a_foreign_key_and_indexes(users_database: UsersDatabase) -> None:
    engine = users_database.engine
    tables = made(engine, users=None)
    with engine.begin() as connection:
        for index in tables.exposures.indexes:
            index.drop(connection)
        connection.execute(
            tables.exposures.insert().values(
                experiment="page", unit="x", variant="new", user_id=users_database.user_ids[0],
                first_exposed_at=utcnow(), last_exposed_at=utcnow(),
            )
        )  # fmt: skip
    with engine.connect() as connection:
        wanted = reflected_options(connection, schema=None, users="auto", user_id_type="uuid").tables
        connection.rollback()
        done = upgrade(connection, wanted)
    about = [sentence for sentence in done.sentences if "feature_usage_exposures" in sentence]
    assert about[0].startswith("Add a foreign key from feature_usage_exposures.user_id to users.id")
    assert "Add the index ix_feature_usage_exposures_first_exposed_at to feature_usage_exposures." in about
    with engine.begin() as connection:
        assert plan_upgrade(connection, wanted).steps == ()
        connection.execute(users_database.users.delete().where(users_database.users.c.id == users_database.user_ids[0]))
    assert all_of(engine, tables.exposures) == []


def test_a_key_that_compares_otherwise_takes_no_exposures_until_the_upgrade(mariadb: Database, make: Make) -> None:
    """Two names that the database takes for one row would block the batch for ever."""
    engine = mariadb.engine()
    tables = made(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE feature_usage_exposures MODIFY unit VARCHAR(255) CHARACTER SET utf8mb4 "
            "COLLATE utf8mb4_general_ci NOT NULL"
        )
    tracker = make(mariadb)
    for _ in range(2):
        for unit in ("a", "A", "a "):
            tracker.expose("page", "new", unit=unit)
        tracker.track("search", user=ADA)
        assert tracker.flush(20), tracker.stats()
    assert (counts(engine, tables), exposed(engine, tables)) == ({("search", ADA): 2}, {})
    assert tracker.stats().rejected == 6
    with engine.connect() as connection:
        done = upgrade(connection, tables)
    assert [sentence[:54] for sentence in done.sentences] == ["Change a column: feature_usage_exposures.unit is VARCH"]
    for _ in range(2):
        for unit in ("a", "A", "a "):
            tracker.expose("page", "new", unit=unit)
        assert tracker.flush(20), tracker.stats()
    assert {unit: number for (_, unit, _), (_, number) in exposed(engine, tables).items()} == {"a": 2, "A": 2, "a ": 2}
