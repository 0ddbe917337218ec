"""A guest who signs in: what was counted for the guest becomes the user's, once, whatever else is written meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import usage_instrument as usage
from conftest import Database, UsersDatabase
from reading import all_of, balanced, counts, made, total
from usage_instrument import MergeReceipt, Settings, Tracker
from usage_instrument.audit.verify import verify
from usage_instrument.database import suppressions
from usage_instrument.database.dialects import Fault
from usage_instrument.database.suppressions import FORGOTTEN, Key
from usage_instrument.errors import ConfigurationError, IdentifiedUserError, UnknownUserError, UserIdError
from usage_instrument.events import MAX_COUNT
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.privacy import api, erasure
from usage_instrument.privacy.merge import Merge
from usage_instrument.schema import Tables

GUEST, ADA, BOB = "guest:5d0c", "ada", "bob"
KEY = "a secret of thirty-two characters, or more"
OLD, NEW = dt.datetime(2026, 3, 1, 9), dt.datetime(2026, 3, 2, 9)

Make = Callable[..., Tracker]


@pytest.fixture
def make() -> Iterator[Make]:
    trackers: list[Tracker] = []

    def tracker(database: Any, tables: Tables | None = None, **settings: Any) -> Tracker:
        said: dict[str, Any] = {"flush_interval": 3600, "user_id_type": "string", **settings}
        trackers.append(Tracker(database, Settings(**said), tables))
        return trackers[-1]

    yield tracker
    for tracker_ in trackers:
        tracker_.shutdown(0.5)


def insert(engine: sa.Engine, table: sa.Table, *rows: dict[str, Any]) -> None:
    with engine.begin() as connection:
        for row in rows:
            connection.execute(table.insert().values(**row))


def history(engine: sa.Engine, tables: Tables) -> dict[tuple[str, Any, dt.datetime], int]:
    found = all_of(engine, tables.history)
    by_key = {(row.feature_name, row.user_id, row.bucket_start): row.usage_count for row in found}
    assert len(by_key) == len(found), "a key stands twice"
    return by_key


def moved(receipt: MergeReceipt) -> tuple[int, ...]:
    """Rows of usage and history, and uses."""
    return (*list(receipt.moved.values())[:2], receipt.uses)


# ---- what moves


@pytest.mark.parametrize("kind", ["uuid", "integer", "string"])
def test_a_guest_becomes_the_user_and_nobody_else_does(database: Database, make: Make, kind: Any) -> None:
    ids: dict[str, tuple[Any, Any, Any]] = {
        "uuid": (uuid.UUID(int=2**64 + 3), uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)),
        "integer": (7003, 7001, 7002),
        "string": (GUEST, ADA, BOB),
    }
    guest, ada, bob = ids[kind]
    engine = database.engine()
    tables = made(engine, user_id_type=kind)
    tracker = make(database.url, user_id_type=kind)
    for user in (guest, guest, ada, bob, None):
        tracker.track("search", user=user)
    tracker.track("export", user=guest, metadata={"format": "csv"})
    receipt = tracker.merge(guest=guest, user=ada)  # writes first what this process has not
    assert receipt.moved == {
        tables.usage.fullname: 2,
        tables.history.fullname: 2,
        tables.exposures.fullname: 0,
        tables.dimensions.fullname: 0,
        tables.outbox.fullname: 0,
    }
    assert (receipt.uses, receipt.suppressed) == (3, False)
    assert str(guest) not in repr(receipt)
    expected = {("search", ada): 3, ("export", ada): 1, ("search", bob): 1, ("search", None): 1}
    assert counts(engine, tables) == expected
    assert {key[:2]: uses for key, uses in history(engine, tables).items()} == expected
    assert [use.metadata for use in tracker.user_features(ada) if use.feature_name == "export"] == [{"format": "csv"}]
    again = tracker.merge(guest=guest, user=ada)
    assert (again.moved.keys(), moved(again)) == (receipt.moved.keys(), (0, 0, 0))
    assert counts(engine, tables) == expected
    assert balanced(tracker.stats())


@pytest.mark.parametrize(("guests", "adas"), [(OLD, NEW), (NEW, OLD)])
def test_newer_metadata_wins_and_times_stay_the_latest(
    database: Database, make: Make, guests: dt.datetime, adas: dt.datetime
) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    rows = [(GUEST, 2, guests, {"page": "guest's", "theme": None}), (ADA, 3, adas, {"page": "Ada's", "lang": "en"})]
    for user, uses, used, metadata in rows:
        row = {"user_id": user, "feature_name": "search", "usage_count": uses, "last_used": used}
        insert(engine, tables.usage, {**row, "metadata": metadata})
    for user, start, uses in [(GUEST, OLD, 1), (GUEST, NEW, 1), (ADA, NEW, 3)]:
        row = {"user_id": user, "feature_name": "search", "bucket_start": start, "usage_count": uses}
        insert(engine, tables.history, row)
    assert moved(make(database.url).merge(guest=GUEST, user=ADA)) == (1, 2, 2)
    (row_,) = all_of(engine, tables.usage)
    assert (row_.user_id, row_.usage_count, row_.last_used) == (ADA, 5, NEW)
    latest = "guest's" if guests == NEW else "Ada's"
    assert row_.metadata == {"page": latest, "theme": None, "lang": "en"}
    assert history(engine, tables) == {("search", ADA, OLD): 1, ("search", ADA, NEW): 4}


def test_counts_stop_at_the_largest_int(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    for user, uses in [(GUEST, MAX_COUNT), (ADA, 7)]:
        row = {"user_id": user, "feature_name": "search", "usage_count": uses}
        insert(engine, tables.usage, {**row, "last_used": OLD})
        insert(engine, tables.history, {**row, "bucket_start": OLD})
    assert moved(make(database.url).merge(guest=GUEST, user=ADA)) == (1, 1, MAX_COUNT)
    assert counts(engine, tables) == {("search", ADA): MAX_COUNT}
    assert history(engine, tables) == {("search", ADA, OLD): MAX_COUNT}


def test_rows_that_the_package_does_not_write(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    named: dict[str, Any] = {"user_id": GUEST, "last_used": OLD}
    insert(
        engine,
        tables.usage,
        {**named, "feature_name": None, "usage_count": 4},
        {**named, "feature_name": "a list", "usage_count": None, "metadata": ["no", "object"]},
    )
    tracker = make(database.url)
    assert moved(tracker.merge(guest=GUEST, user=ADA)) == (1, 0, 0)
    assert counts(engine, tables) == {(None, GUEST): 4, ("a list", ADA): 0}
    assert {row.feature_name: row.metadata for row in all_of(engine, tables.usage)}["a list"] is None
    assert moved(tracker.merge(guest=GUEST, user=ADA)) == (0, 0, 0)


def test_a_long_history_moves_in_parts(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    starts = [OLD + dt.timedelta(days=number) for number in range(7)]
    for user in (GUEST, ADA):
        for start in starts:
            for feature in ("search", "export"):
                row = {"user_id": user, "feature_name": feature, "bucket_start": start, "usage_count": 2}
                insert(engine, tables.history, row)
    assert moved(make(database.url, flush_rows=3).merge(guest=GUEST, user=ADA)) == (0, 14, 0)
    assert history(engine, tables) == {(name, ADA, start): 4 for name in ("search", "export") for start in starts}


@pytest.mark.parametrize("guest", ["ADA", "ada ", "adá"])
def test_ids_that_look_alike_are_other_guests(database: Database, make: Make, guest: str) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    if database.name == "mariadb":  # as a table made by hand may be
        with engine.begin() as connection:
            for table in ("feature_usage", "feature_usage_history"):
                connection.exec_driver_sql(
                    f"ALTER TABLE {table} MODIFY user_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
                )
    tracker = make(database.url)
    for user in (guest, guest, ADA):
        tracker.track("search", user=user)
    assert moved(tracker.merge(guest=guest, user=ADA)) == (1, 1, 2)
    assert counts(engine, tables) == {("search", ADA): 3}
    assert [row.usage_count for row in all_of(engine, tables.history)] == [3]
    assert moved(tracker.merge(guest=guest, user=ADA)) == (0, 0, 0)
    assert moved(tracker.merge(guest=ADA, user=ADA)) == (0, 0, 0)
    assert counts(engine, tables) == {("search", ADA): 3}


def test_uses_of_committed_transactions_that_wait_become_the_users(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database.url)
    with engine.connect() as connection:
        connection.begin()
        for user, uses in [(GUEST, 2), (GUEST, 3), (GUEST.upper(), 1), (BOB, 1)]:
            tracker.track("purchase", commit=connection, user=user, count=uses)
        connection.commit()
    other = make(database.url)  # which has no reason to look for rows
    receipt = other.merge(guest=GUEST, user=ADA)
    assert (receipt.moved[tables.outbox.fullname], moved(receipt)) == (2, (0, 0, 0))
    assert sorted(row.user_id for row in all_of(engine, tables.outbox)) == sorted((GUEST.upper(), ADA, ADA, BOB))
    assert sum(other.merge(guest=GUEST, user=ADA).moved.values()) == 0
    assert tracker.flush(30)
    assert counts(engine, tables) == {("purchase", ADA): 5, ("purchase", GUEST.upper()): 1, ("purchase", BOB): 1}


def test_waiting_uses_of_a_user_who_is_erased_stay(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database.url, privacy_key=KEY)
    tracker.privacy.forget(ADA, force=True)
    with engine.connect() as connection:
        connection.begin()
        tracker.track("purchase", commit=connection, user=GUEST)
        connection.commit()
    receipt = make(database.url, privacy_key=KEY).merge(guest=GUEST, user=ADA)
    assert (receipt.suppressed, sum(receipt.moved.values())) == (True, 0)
    assert [row.user_id for row in all_of(engine, tables.outbox)] == [GUEST]


def test_the_outbox_of_an_older_schema_is_not_missed(sqlite: Database, make: Make) -> None:
    engine = sqlite.engine()
    tables = made(engine, user_id_type="string")
    tables.outbox.drop(engine)
    tracker = make(sqlite.url)
    tracker.track("search", user=GUEST)
    assert moved(tracker.merge(guest=GUEST, user=ADA)) == (1, 1, 1)
    assert counts(engine, tables) == {("search", ADA): 1}


def test_the_audit_trail_stays(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database.url)
    tracker.track("open_vault", user=GUEST, audit=True)
    assert tracker.flush(30)
    before = all_of(engine, tables.access)
    assert moved(tracker.merge(guest=GUEST, user=ADA)) == (1, 1, 1)
    assert all_of(engine, tables.access) == before
    assert [row.user_id for row in before] == [GUEST]
    with engine.connect() as connection:
        assert verify(connection, tables, None).findings == ()


def test_no_writer_is_left_behind(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database.url)
    tracker.track("search", user=GUEST)
    assert moved(tracker.merge(guest=GUEST, user=ADA)) == (1, 1, 1)
    assert tracker.shutdown(30)
    assert all_of(engine, tables.writers) == []


# ---- exposures


def exposed(engine: sa.Engine, tables: Tables) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    """User, first and last time, and number of exposures, by experiment, unit and variant."""
    return {tuple(row)[:3]: tuple(row)[3:] for row in all_of(engine, tables.exposures)}


def expose(unit: str, variant: str, user: object, at: dt.datetime, exposures: int) -> dict[str, Any]:
    times = {"first_exposed_at": at, "last_exposed_at": at + dt.timedelta(hours=1)}
    return {"experiment": "page", "unit": unit, "variant": variant, "user_id": user, **times, "exposures": exposures}


@pytest.mark.parametrize("kind", ["uuid", "integer", "string"])
@pytest.mark.parametrize("is_guest_first", [True, False])
def test_exposures_of_one_person_become_those_of_one_unit(
    database: Database, make: Make, kind: Any, is_guest_first: bool
) -> None:
    ids: dict[str, tuple[Any, Any, Any]] = {
        "uuid": (uuid.UUID(int=2**64 + 3), uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)),
        "integer": (7003, 7001, 7002),
        "string": (GUEST, ADA, BOB),
    }
    guest, ada, bob = ids[kind]
    early, late = (OLD, NEW) if is_guest_first else (NEW, OLD)
    engine = database.engine()
    tables = made(engine, user_id_type=kind)
    rows = [
        expose(str(guest), "new", guest, early, 2),
        expose(str(ada), "new", ada, late, 3),  # the same variant: one row
        expose(str(guest), "old", guest, early, 5),  # another one: the person has seen both
        expose("visitor 7", "old", guest, early, 1),  # a unit of the host's stays one
        expose("visitor 8", "old", None, early, 1),
        expose(str(bob), "old", bob, early, 1),
    ]
    insert(engine, tables.exposures, *rows)
    receipt = make(database.url, user_id_type=kind).merge(guest=guest, user=ada)
    assert receipt.moved == {
        tables.usage.fullname: 0,
        tables.history.fullname: 0,
        tables.exposures.fullname: 3,
        tables.dimensions.fullname: 0,
        tables.outbox.fullname: 0,
    }
    hour = dt.timedelta(hours=1)
    assert exposed(engine, tables) == {
        ("page", str(ada), "new"): (ada, OLD, NEW + hour, 5),
        ("page", str(ada), "old"): (ada, early, early + hour, 5),
        ("page", "visitor 7", "old"): (ada, early, early + hour, 1),
        ("page", "visitor 8", "old"): (None, early, early + hour, 1),
        ("page", str(bob), "old"): (bob, early, early + hour, 1),
    }
    again = make(database.url, user_id_type=kind).merge(guest=guest, user=ada)
    assert sum(again.moved.values()) == 0


def test_a_unit_of_nobody_under_the_users_id_becomes_the_users(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    insert(
        engine,
        tables.exposures,
        expose(GUEST, "new", GUEST, NEW, MAX_COUNT),
        expose(ADA, "new", None, OLD, 1),
    )
    assert make(database.url).merge(guest=GUEST, user=ADA).moved[tables.exposures.fullname] == 1
    assert exposed(engine, tables) == {("page", ADA, "new"): (ADA, OLD, NEW + dt.timedelta(hours=1), MAX_COUNT)}


def test_counts_and_exposures_of_one_guest_move_together(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database.url)
    units = [f"visitor {number}" for number in range(230)]  # in several statements
    for unit in units:
        tracker.expose("page", "new", user=GUEST, unit=unit)
    tracker.track("search", user=GUEST)
    receipt = tracker.merge(guest=GUEST, user=ADA)
    assert receipt.moved[tables.exposures.fullname] == len(units)
    assert moved(receipt) == (1, 1, 1)
    assert {key[1]: row[0] for key, row in exposed(engine, tables).items()} == dict.fromkeys(units, ADA)
    assert balanced(tracker.stats())


def test_exposures_beside_a_writing_process_add_up(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    writing, merging = make(database.url), make(database.url)
    rounds, found = 20, 0

    def write() -> None:
        for number in range(rounds):
            for user in (GUEST, ADA):
                for variant in ("new", "old"):
                    writing.expose("page", variant, user=user)
            writing.expose(f"experiment {number}", "new", user=GUEST)
            assert writing.flush(30)

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        found += merging.merge(guest=GUEST, user=ADA).moved[tables.exposures.fullname]
    thread.join()
    found += merging.merge(guest=GUEST, user=ADA).moved[tables.exposures.fullname]
    assert found >= rounds + 2
    rows = exposed(engine, tables)
    assert {row[0] for row in rows.values()} == {ADA}
    assert {key: row[3] for key, row in rows.items()} == {
        ("page", ADA, "new"): 2 * rounds,
        ("page", ADA, "old"): 2 * rounds,
        **{(f"experiment {number}", ADA, "new"): 1 for number in range(rounds)},
    }


def test_without_the_table_of_exposures_counts_move(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    with engine.begin() as connection:
        tables.exposures.drop(connection)
    tracker = make(database.url)
    assert sum(tracker.merge(guest=GUEST, user=ADA).moved.values()) == 0
    tracker.track("search", user=GUEST)
    assert moved(tracker.merge(guest=GUEST, user=ADA)) == (1, 1, 1)
    assert counts(engine, tables) == {("search", ADA): 1}


# ---- other processes


def test_later_uses_of_another_process_are_moved_by_the_next_merge(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    one, other = make(database.url), make(database.url)
    for tracker in (one, other):
        tracker.track("search", user=GUEST)
    assert moved(one.merge(guest=GUEST, user=ADA)) == (1, 1, 1)
    assert other.flush(30)
    assert counts(engine, tables) == {("search", ADA): 1, ("search", GUEST): 1}
    assert moved(one.merge(guest=GUEST, user=ADA)) == (1, 1, 1)
    assert counts(engine, tables) == {("search", ADA): 2}


WRITING = """
import random, sys
from usage_instrument import Settings, Tracker

url, seed, flushes, uses = sys.argv[1], *map(int, sys.argv[2:])
tracker = Tracker(url, Settings(flush_interval=3600, user_id_type="string", history="hour"))
tracker.track("ready", user="process")
assert tracker.flush(60)
print("ready", flush=True)
sys.stdin.readline()
choose = random.Random(seed)
for _ in range(flushes):
    for _ in range(uses):
        user = choose.choice(["guest:5d0c", "ada", "bob", None])
        tracker.track(f"feature {choose.randrange(30)}", user=user, metadata={"by": seed})
    assert tracker.flush(60)
assert tracker.shutdown(60)
"""


def test_nothing_is_lost_or_doubled_beside_writing_processes(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    flushes, uses = 25, 40
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITING), database.url, str(seed), str(flushes), str(uses)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    merged = 0
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
        tracker = make(database.url, history="hour")
        while any(writer.poll() is None for writer in writers):
            merged += tracker.merge(guest=GUEST, user=ADA).uses
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
        assert merged > 0, "no merge met a writer"
        merged += tracker.merge(guest=GUEST, user=ADA).uses
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert total(engine, tables) == len(writers) * (flushes * uses + 1)
    assert sum(row.usage_count for row in all_of(engine, tables.history)) == total(engine, tables)
    found = counts(engine, tables)
    assert GUEST not in {user for _, user in found}
    assert GUEST not in {row.user_id for row in all_of(engine, tables.history)}
    by_user = {user: sum(n for (_, u), n in found.items() if u == user) for user in (ADA, BOB)}
    assert by_user[ADA] > merged > by_user[BOB] / 2  # half of hers were hers at once


def test_a_row_that_another_process_inserts_meanwhile_is_not_lost(
    postgresql: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = postgresql.engine()
    tables = made(engine, user_id_type="string")
    one, other = make(postgresql.url), make(postgresql.url)
    one.track("search", user=GUEST)
    assert one.flush(30)
    other.track("export", user=GUEST)
    delete = Merge._delete
    flushed: list[bool] = []

    def deletes_late(merge: Merge, *arguments: Any) -> None:
        if not flushed:
            flushed.append(other.flush(30))
        delete(merge, *arguments)

    monkeypatch.setattr(Merge, "_delete", deletes_late)
    assert moved(one.merge(guest=GUEST, user=ADA)) == (2, 2, 2)
    assert flushed == [True]
    assert counts(engine, tables) == {("search", ADA): 1, ("export", ADA): 1}


def test_two_merges_at_once_move_each_use_once(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    trackers = [make(database.url) for _ in range(4)]
    for number in range(20):
        trackers[0].track(f"feature {number}", user=GUEST, count=3)
    assert trackers[0].flush(30)
    receipts: list[MergeReceipt] = []
    threads = [
        threading.Thread(target=lambda tracker=tracker: receipts.append(tracker.merge(guest=GUEST, user=ADA)))
        for tracker in trackers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(receipt.uses for receipt in receipts) == 60
    assert counts(engine, tables) == {(f"feature {number}", ADA): 3 for number in range(20)}
    assert {key[:2]: n for key, n in history(engine, tables).items()} == counts(engine, tables)


def test_a_commit_whose_answer_is_lost_moves_once(
    database: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database.url)
    tracker.track("search", user=GUEST, count=5)
    assert tracker.flush(30)
    transact = Store.transact
    lost: list[object] = []

    def answers_late(store: Store, work: Any) -> Any:
        result = transact(store, work)
        if getattr(work, "__func__", None) is Merge._move and not lost:
            lost.append(result)
            raise WriteError(Fault.TRANSIENT, "the connection broke at COMMIT", in_doubt=True)
        return result

    monkeypatch.setattr(Store, "transact", answers_late)
    assert moved(tracker.merge(guest=GUEST, user=ADA)) == (1, 1, 5)
    assert len(lost) == 1
    assert counts(engine, tables) == {("search", ADA): 5}


# ---- erased, opted out


@pytest.mark.parametrize("right", ["forget", "opt_out"])
@pytest.mark.parametrize("who", [GUEST, ADA])
def test_nobody_who_is_not_counted_is_merged(
    database: Database, make: Make, monkeypatch: pytest.MonkeyPatch, right: str, who: str
) -> None:
    for module in (erasure, api):
        monkeypatch.setattr(module, "PATIENCE", 5.0)
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database.url, privacy_key=KEY)
    for user in (GUEST, ADA):
        tracker.track("search", user=user)
    assert tracker.flush(30)
    getattr(tracker.privacy, right)(who)
    left = counts(engine, tables)
    receipt = tracker.merge(guest=GUEST, user=ADA)
    assert moved(receipt) == (0, 0, 0)
    assert receipt.suppressed is (("search", GUEST) in left)
    assert counts(engine, tables) == left
    tracker.privacy.opt_in(who)
    again = tracker.merge(guest=GUEST, user=ADA)
    assert (again.suppressed, again.uses) == (False, left.get(("search", GUEST), 0))


def test_an_erasure_at_the_same_time_leaves_nothing_of_the_user(
    database: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "_MARGIN", 0.0)
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker, other = make(database.url, privacy_key=KEY), make(database.url, privacy_key=KEY)
    for number in range(6):
        guest, user = f"guest:{number}", f"user:{number}"
        for feature in range(5):
            tracker.track(f"feature {feature}", user=guest)
            tracker.track(f"feature {feature}", user=user)
        assert tracker.flush(30)
        together = threading.Barrier(2)

        def erase(user: str = user, together: threading.Barrier = together) -> None:
            together.wait()
            other.privacy.forget(user, force=True)

        thread = threading.Thread(target=erase)
        thread.start()
        together.wait()
        tracker.merge(guest=guest, user=user)
        thread.join(60)
        assert user not in {row.user_id for row in (*all_of(engine, tables.usage), *all_of(engine, tables.history))}


def test_an_erasure_within_the_transaction_is_seen(
    postgresql: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = postgresql.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(postgresql.url, privacy_key=KEY)
    tracker.track("search", user=GUEST)
    assert tracker.flush(30)
    asked, look = [], suppressions.any_suppressed

    def looks_too_early(connection: sa.Connection, *others: Any) -> bool:
        found = look(connection, *others)
        asked.append(found)
        if len(asked) == 1:
            with engine.begin() as another:
                suppressions.suppress(another, tables, Key(KEY), ADA, FORGOTTEN)
            with engine.begin() as another:
                suppressions.announce(another, tables)
        return found

    monkeypatch.setattr(suppressions, "any_suppressed", looks_too_early)
    assert tracker.merge(guest=GUEST, user=ADA).suppressed
    assert asked == [False, True]
    assert counts(engine, tables) == {("search", GUEST): 1}


@pytest.mark.parametrize("key", [None, "another secret of thirty-two characters"])
def test_without_the_key_nobody_can_tell_who_is_erased(database: Database, make: Make, key: str | None) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database.url, privacy_key=KEY)
    tracker.track("search", user=GUEST)
    assert tracker.flush(30)
    tracker.privacy.opt_out(BOB)
    with pytest.raises(WriteError, match="set the same privacy_key in every process"):
        make(database.url, privacy_key=key).merge(guest=GUEST, user=ADA)
    assert counts(engine, tables) == {("search", GUEST): 1}


# ---- who may be merged


def test_a_guest_in_the_users_table_is_merged_by_force_only(users_database: UsersDatabase, make: Make) -> None:
    database, engine = users_database.database, users_database.engine
    tables = made(engine, users=users_database.users)
    one, ada, *_ = users_database.user_ids
    tracker = make(database.url, tables, user_id_type="uuid")
    tracker.track("search", user=one)
    with pytest.raises(IdentifiedUserError, match="pass force=True"):
        tracker.merge(guest=one, user=ada)
    with pytest.raises(UnknownUserError, match="commit the user first"):
        tracker.merge(guest=one, user=uuid.uuid4(), force=True)
    assert counts(engine, tables) == {("search", one): 1}
    assert moved(tracker.merge(guest=one, user=ada, force=True)) == (1, 1, 1)
    assert counts(engine, tables) == {("search", ada): 1}


@pytest.mark.parametrize("users", ["auto", None, "people.id"])
def test_so_is_one_in_a_users_table_without_a_foreign_key(database: Database, make: Make, users: Any) -> None:
    engine = database.engine()
    name = "people" if users == "people.id" else "users"
    people = sa.Table(name, sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    people.metadata.create_all(engine)
    insert(engine, people, {"id": 7}, {"id": 8})
    tables = made(engine, user_id_type="string", users=None)
    tracker = make(database.url, users=users)
    for user in ("7", "guest:1", "9"):
        tracker.track("search", user=user)
    assert tracker.flush(30)
    with pytest.raises(IdentifiedUserError):
        tracker.merge(guest="7", user="8")
    assert moved(tracker.merge(guest="guest:1", user="8")) == (1, 1, 1)
    assert moved(tracker.merge(guest="9", user="8")) == (1, 1, 1)
    assert moved(tracker.merge(guest="7", user="8", force=True)) == (1, 1, 1)
    assert counts(engine, tables) == {("search", "8"): 3}


def test_the_anonymous_user_is_no_guest(sqlite: Database, make: Make) -> None:
    made(sqlite.engine(), user_id_type="string")
    tracker = make(sqlite.url)
    for guest, user in ((None, ADA), (GUEST, None)):
        with pytest.raises(UserIdError, match="pass a user"):
            tracker.merge(guest=guest, user=user)


# ---- where it is called


def test_within_an_event_loop(database: Database, make: Make) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(database.async_url)

    async def log_in() -> MergeReceipt:
        tracker.track("search", user=GUEST)
        return await tracker.amerge(guest=GUEST, user=ADA)

    assert moved(asyncio.run(log_in())) == (1, 1, 1)
    assert counts(engine, tables) == {("search", ADA): 1}


def test_through_a_pooler(pooler: sa.URL, postgresql: Database, make: Make) -> None:
    engine = postgresql.engine()
    tables = made(engine, user_id_type="string")
    tracker = make(pooler.render_as_string(hide_password=False))
    tracker.track("search", user=GUEST)
    assert moved(tracker.merge(guest=GUEST, user=ADA)) == (1, 1, 1)
    assert counts(engine, tables) == {("search", ADA): 1}


def test_the_functions_of_the_configured_tracker(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine, user_id_type="string")
    nothing = usage.merge(guest=GUEST, user=ADA)  # a login in the app's tests, which configure nothing
    assert (nothing.moved, nothing.uses) == ({}, 0)
    assert asyncio.run(usage.amerge(guest=GUEST, user=ADA)).moved == {}
    usage.configure(sqlite.url, user_id_type="string", enabled=False)
    assert usage.merge(guest=GUEST, user=ADA).moved == {}
    usage.configure(sqlite.url, user_id_type="string", enabled=True)
    usage.track("search", user=GUEST)
    assert moved(usage.merge(guest=GUEST, user=ADA)) == (1, 1, 1)
    usage.track("search", user=GUEST)
    assert moved(asyncio.run(usage.amerge(guest=GUEST, user=ADA))) == (1, 1, 1)
    assert counts(engine, tables) == {("search", ADA): 2}


def test_a_database_without_the_tables_is_named(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usage_instrument.privacy.merge.PATIENCE", 0.1)
    monkeypatch.setattr(api, "MERGE_PATIENCE", 0.1)
    path = tmp_path / "empty.db"
    path.touch()
    tracker = make(f"sqlite:///{path}", shutdown_timeout=0.1)
    with pytest.raises(WriteError, match="feature_usage"):
        tracker.merge(guest=GUEST, user=ADA)


def test_a_key_is_needed_for_forget_only(sqlite: Database, make: Make) -> None:
    made(sqlite.engine(), user_id_type="string")
    tracker = make(sqlite.url)
    tracker.track("search", user=GUEST)
    assert moved(tracker.merge(guest=GUEST, user=ADA)) == (1, 1, 1)
    with pytest.raises(ConfigurationError, match="privacy_key"):
        tracker.privacy.forget(GUEST)
