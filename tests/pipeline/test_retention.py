"""Old rows go, hours become days, and no count that is kept changes by it, whatever happens on the way."""

from __future__ import annotations

import datetime as dt
import logging
import random
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import forked
from conftest import Database, writing_pipeline
from reading import all_of, balanced, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.database.dialects import Fault
from usage_instrument.database.engines import connect
from usage_instrument.database.ledger import utcnow
from usage_instrument.events import MAX_COUNT, bucket_start
from usage_instrument.pipeline import journal, maintenance, retention
from usage_instrument.pipeline.journal import Directory
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.schema import Tables

DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
USERS = [None, *(uuid.UUID(int=number + 2**100) for number in range(6))]
FEATURES = ["search", "Search", "export"]


class Kept:
    """A database with a history, and what keeps it small."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.engine = database.engine()
        self.tables = made(self.engine, users=None)
        self.store = Store(connect(self.engine), self.tables, Settings())
        self.store.open()
        self.today = self.store.retention.first_day(0 * DAY)

    def add(self, *rows: tuple[Any, str | None, dt.datetime, int | None]) -> None:
        names = ("user_id", "feature_name", "bucket_start", "usage_count")
        with self.engine.begin() as connection:
            connection.execute(self.tables.history.insert(), [dict(zip(names, row, strict=True)) for row in rows])

    def fill(self, seed: int = 1) -> None:
        """Hours and days of 60 days, some of both of the same day."""
        dice = random.Random(seed)
        starts = [self.today - number * DAY + hour * HOUR for number in range(60) for hour in (0, 7, 8, 23)]
        keys = [(user, feature, start) for user in USERS for feature in FEATURES for start in starts]
        self.add(*((*key, dice.choice([None, 1, 2, 9])) for key in dice.sample(keys, 700)))

    def listen(self, name: str, listener: Callable[..., None]) -> None:
        """To the statements of the store."""
        connector: Any = self.store._connector
        sa.event.listen(connector._engine, name, listener)

    @property
    def rows(self) -> Counter[tuple[Any, ...]]:
        """The uses by user, feature and bucket."""
        return Counter({(row.user_id, row.feature_name, row.bucket_start): row.usage_count or 0 for row in self.all})

    @property
    def all(self) -> list[Any]:
        return all_of(self.engine, self.tables.history)


@pytest.fixture
def kept(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr(retention, "ROWS", 40)
    it = Kept(database)
    yield it
    it.store.dispose()


def summed_up(rows: Counter[tuple[Any, ...]], before: dt.datetime) -> Counter[tuple[Any, ...]]:
    days: Counter[tuple[Any, ...]] = Counter()
    for (user, feature, start), uses in rows.items():
        days[user, feature, bucket_start(start, "day") if start < before else start] += uses
    return days


# ---- the history


@pytest.mark.parametrize("rows", [1, 3, 5_000])
def test_old_exposures_go_in_small_transactions(kept: Kept, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose last exposure is old, however old the first one is."""
    monkeypatch.setattr(retention, "ROWS", rows)
    moments = [(first, last) for first in range(1, 9) for last in range(1, first + 1)]
    key = {"experiment": "page", "variant": "new"}
    given = [
        {**key, "unit": f"{first} {last}", "first_exposed_at": kept.today - first * DAY,
         "last_exposed_at": kept.today - last * DAY}
        for first, last in moments
    ]  # fmt: skip
    with kept.engine.begin() as connection:
        connection.execute(kept.tables.exposures.insert(), given)
    before = kept.today - 4 * DAY
    old = {f"{first} {last}" for first, last in moments if last > 4}
    assert kept.store.retention.count_exposures(before) == len(old) == 10
    assert sum(parts := list(kept.store.retention.prune_exposures(before))) == 10
    assert max(parts) <= (10 if rows > 10 else rows + 3)  # rows of one moment go together
    left = {row.unit for row in all_of(kept.engine, kept.tables.exposures)}
    assert left == {f"{first} {last}" for first, last in moments} - old
    assert list(kept.store.retention.prune_exposures(before)) == []


def test_old_history_goes_and_all_else_stays(kept: Kept) -> None:
    kept.fill()
    kept.add((None, None, kept.today - 50 * DAY, 1), (USERS[1], None, kept.today - 10 * DAY, 1))
    before, rows = kept.today - 30 * DAY, kept.rows
    old = kept.store.retention.count(before)
    gone = list(kept.store.retention.prune(before))
    assert sum(gone) == old == sum(key[2] < before for key in rows) > 300
    assert len(gone) > 5, "all at once"
    assert kept.rows == Counter({key: uses for key, uses in rows.items() if key[2] >= before})
    assert list(kept.store.retention.prune(before)) == []


def test_it_is_kept_for_whole_days(kept: Kept) -> None:
    assert kept.store.retention.first_day(400 * DAY) == kept.today - 400 * DAY
    assert kept.store.retention.first_day(HOUR) in {kept.today, kept.today - DAY}
    assert kept.store.retention.first_day(10**6 * DAY) < kept.today - 36_000 * DAY


def test_hours_become_days_of_the_same_sums(kept: Kept) -> None:
    kept.fill()
    kept.add(*((USERS[0], "most", kept.today - 40 * DAY + hour * HOUR, MAX_COUNT) for hour in range(3)))
    before, rows = kept.today - 20 * DAY, kept.rows
    expected = summed_up(rows, before)
    expected[USERS[0], "most", kept.today - 40 * DAY] = MAX_COUNT
    hours = kept.store.retention.count(before, to="day")
    gone = list(kept.store.retention.roll_up(before))
    assert sum(gone) == hours == sum(start < before and start.hour > 0 for _, _, start in rows)
    assert len(gone) > 5, "all at once"
    assert kept.rows == expected
    assert len(kept.all) == len(expected)
    assert sum(kept.store.retention.roll_up(before)) == 0


def test_whatever_fails_on_the_way_no_use_is_lost_or_doubled(kept: Kept) -> None:
    kept.fill()
    before = kept.today - 5 * DAY
    expected = summed_up(kept.rows, before)
    left = 0

    def fail(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise ConnectionError("cut")

    kept.listen("before_cursor_execute", fail)
    kept.listen("after_cursor_execute", fail)
    for number in range(1, 60, 4):
        left = number
        with pytest.raises(WriteError, match="cut"):
            list(kept.store.retention.roll_up(before))
        left = 0
        assert summed_up(kept.rows, before) == expected
    assert sum(kept.store.retention.roll_up(before)) > 0
    assert kept.rows == expected


KILLED = """
import os, signal, sys, datetime as dt
import sqlalchemy as sa
from usage_instrument import Settings
from usage_instrument.pipeline import retention
from usage_instrument.database.engines import connect
from usage_instrument.schema import define_tables
from usage_instrument.pipeline.store import Store

engine, writes = sa.create_engine(sys.argv[1]), 0
retention.ROWS = 40

@sa.event.listens_for(sa.Engine, sys.argv[3])
def kill(connection, cursor, statement, *_):
    global writes
    writes += statement.lstrip().startswith(("INSERT", "SET STATEMENT")) and "INSERT" in statement
    if writes == 3:
        os.kill(os.getpid(), signal.SIGKILL)

store = Store(connect(engine), define_tables(sa.MetaData(), users=None), Settings())
store.open()
list(store.retention.roll_up(dt.datetime.fromisoformat(sys.argv[2])))
"""


@pytest.mark.parametrize("when", ["before_cursor_execute", "after_cursor_execute"])
def test_a_kill_between_delete_and_insert_loses_nothing(kept: Kept, when: str) -> None:
    kept.fill()
    before, rows = kept.today - 5 * DAY, kept.rows
    done = forked.run(KILLED, kept.database.url, before.isoformat(), when)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert kept.rows != rows, "killed too early"
    assert kept.rows != summed_up(rows, before), "killed too late"
    assert summed_up(kept.rows, before) == summed_up(rows, before)


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_a_late_use_of_an_hour_that_is_summed_up_counts(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(request.getfixturevalue(name))
    old, late = kept.today - 9 * DAY + HOUR, kept.today - 9 * DAY + 2 * HOUR
    kept.add((USERS[1], "search", old, 4))

    def come(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "DELETE" in statement and len(kept.all) == 1:
            kept.add((USERS[1], "search", late, 3))

    kept.listen("before_cursor_execute", come)
    with pytest.raises(WriteError) as raised:
        list(kept.store.retention.roll_up(kept.today))
    assert raised.value.fault is Fault.TRANSIENT
    assert kept.rows == {(USERS[1], "search", old): 4, (USERS[1], "search", late): 3}
    assert sum(kept.store.retention.roll_up(kept.today)) == 2
    assert kept.rows == {(USERS[1], "search", kept.today - 9 * DAY): 7}
    kept.store.dispose()


# ---- the ledger


def silent(kept: Kept, days: float) -> uuid.UUID:
    """The row of a writer that fell silent so many days ago."""
    writer, then = uuid.uuid4(), utcnow() - days * DAY
    with kept.engine.begin() as connection:
        connection.execute(
            kept.tables.writers.insert().values(writer_id=writer, started_at=then, heartbeat_at=then, last_batch=3)
        )
    return writer


def test_dead_writers_go_unless_a_journal_needs_them(kept: Kept, tmp_path: Path) -> None:
    long_dead, needed, silent_for_long = silent(kept, 401), silent(kept, 500), silent(kept, 399)
    Directory.create(str(tmp_path), needed, "a database").release()
    them = kept.store.retention.dead_writers(lambda: journal.writers(str(tmp_path)))
    assert them == [long_dead]
    with kept.engine.begin() as connection:  # it lives after all
        writers = kept.tables.writers
        connection.execute(writers.update().where(writers.c.writer_id == needed).values(heartbeat_at=utcnow()))
    assert kept.store.retention.forget([*them, needed]) == 1
    assert {row.writer_id for row in all_of(kept.engine, kept.tables.writers)} == {needed, silent_for_long}


def test_a_living_and_a_dead_process_are_known_by_their_journals(kept: Kept, tmp_path: Path) -> None:
    assert journal.writers(str(tmp_path / "none")) == set()
    tracker = Tracker(kept.engine, Settings(journal=str(tmp_path), flush_interval=3600), kept.tables)
    tracker.track("f")
    assert tracker.flush(30)
    (row,) = all_of(kept.engine, kept.tables.writers)
    assert journal.writers(str(tmp_path)) == {row.writer_id}
    assert tracker.shutdown()
    assert journal.writers(str(tmp_path)) == set()


# ---- the writer's part in it

Make = Callable[..., Tracker]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes trackers whose first look for old rows is due at once."""
    monkeypatch.setattr(maintenance, "_PRUNE_PHASE", 0.0)
    trackers: list[Tracker] = []

    def tracker(database: Any, tables: Tables, **settings: Any) -> Tracker:
        trackers.append(Tracker(database, Settings(flush_interval=3600, **settings), tables))
        return trackers[-1]

    yield tracker
    for each in trackers:
        each.shutdown(0.5)


def pause(tracker: Tracker) -> None:
    """What the writer does when its interval is over."""
    writing_pipeline(tracker).writer.write()


def test_the_writer_prunes_between_batches(
    kept: Kept, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "_PRUNE_TURN", 60.0)  # all in one turn, on a busy machine too
    kept.fill()
    old = kept.store.retention.count(kept.today - 30 * DAY)
    needed = silent(kept, 500)
    silent(kept, 500)
    home = Directory.create(str(tmp_path), needed, "a database")
    home.park("it needs a person")
    home.release()
    tracker = make(kept.engine, kept.tables, history_retention=30 * DAY, journal=str(tmp_path))
    tracker.track("f", user=USERS[1])
    assert tracker.flush(30)
    assert kept.store.retention.count(kept.today - 30 * DAY) == old, "a flush does not wait for it"
    pause(tracker)
    assert kept.store.retention.count(kept.today - 30 * DAY) == 0
    assert kept.store.retention.count(kept.today + DAY) == 700 - old + 1
    assert {row.writer_id for row in all_of(kept.engine, kept.tables.writers) if row.last_batch == 3} == {needed}
    kept.add((None, "f", kept.today - 31 * DAY, 1))
    pause(tracker)
    assert kept.store.retention.count(kept.today - 30 * DAY) == 1, "once a day"


def test_it_takes_turns_with_the_batches(kept: Kept, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_PRUNE_TURN", 0.0)
    kept.fill()
    before = kept.today - 30 * DAY
    left = [kept.store.retention.count(before)]
    tracker = make(kept.engine, kept.tables, history_retention=30 * DAY)
    while left[-1]:
        tracker.track("f", user=USERS[1])
        pause(tracker)
        tracker.flush()
        left.append(kept.store.retention.count(before))
        assert tracker.stats().written == len(left) - 1
    assert len(left) > 5


def test_no_history_is_pruned_by_a_clock_that_is_ahead(kept: Kept, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.add((None, "f", kept.today - 399 * DAY, 1))
    tracker = make(kept.engine, kept.tables)
    tracker.track("f", user=USERS[1])
    assert tracker.flush(30)
    monkeypatch.setattr("usage_instrument.database.ledger.utcnow", lambda: utcnow() + 3000 * DAY)
    pause(tracker)
    assert kept.store.retention.count(kept.today) == 1


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_locks_on_old_rows_delay_no_count(
    name: str, request: pytest.FixtureRequest, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(request.getfixturevalue(name))
    kept.fill()
    kept.add((USERS[1], "f", kept.today - 500 * DAY, 1), (USERS[2], "f", kept.today - 500 * DAY, 1))
    tracker = make(kept.engine, kept.tables, lock_timeout=0)
    tracker.track("g", user=USERS[3])
    assert tracker.flush(30)
    with kept.engine.execution_options(isolation_level="READ COMMITTED").begin() as host:
        host.execute(kept.tables.history.delete().where(kept.tables.history.c.user_id == USERS[1]))
        pause(tracker)
        tracker.track("g", user=USERS[3])
        assert tracker.flush(30)
        host.rollback()
    assert total(kept.engine, kept.tables) == 2
    assert balanced(tracker.stats())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    writing_pipeline(tracker).maintenance._next_pruning = 0.0  # as a quarter of an hour later
    pause(tracker)
    assert kept.store.retention.count(kept.today - 400 * DAY) == 0
    kept.store.dispose()


def test_a_role_that_may_not_delete_is_told_once(
    postgresql: Database, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(postgresql)
    kept.add((USERS[1], "f", kept.today - 500 * DAY, 1))
    role = f"app_{uuid.uuid4().hex[:8]}"
    with kept.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role}")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
        connection.exec_driver_sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}")
        connection.exec_driver_sql(f"REVOKE DELETE ON feature_usage_history FROM {role}")
    limited = postgresql.engine(connect_args={"options": f"-c role={role}"})
    try:
        tracker = make(limited, kept.tables)
        for _ in range(3):
            tracker.track("f", user=USERS[1])
            assert tracker.flush(30)
            writing_pipeline(tracker).maintenance._next_pruning = 0.0
            pause(tracker)
        assert (tracker.stats().written, tracker.stats().retries) == (3, 0)
        (said,) = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
        assert said.startswith("old rows were not pruned: ")
        assert said.endswith("Run `usage-instrument prune`")
        assert "permission denied" in said
        assert tracker.shutdown()
    finally:
        limited.dispose()
        kept.store.dispose()
        with kept.engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")
