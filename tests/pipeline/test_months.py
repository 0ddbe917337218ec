"""Days of old months become one row a month, and no use is lost or doubled by it."""

from __future__ import annotations

import datetime as dt
import random
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

import forked
from conftest import Database, UsersDatabase, writing_pipeline
from reading import all_of, made
from usage_instrument import Settings, Tracker
from usage_instrument.database.engines import connect
from usage_instrument.database.ledger import Ledger, utcnow
from usage_instrument.database.months import first_day
from usage_instrument.events import Batch, Count, bucket_start
from usage_instrument.pipeline import maintenance, retention
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.schema import Tables

DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
FEATURES = ["search", "Search", "export"]
Key = tuple[Any, str, dt.datetime]


class Past:
    """A database with users, and the uses that it should have, by user, feature and hour or day."""

    def __init__(self, engine: sa.Engine, tables: Tables, users: list[Any]) -> None:
        self.engine, self.tables, self.users = engine, tables, users
        self.store = Store(connect(engine), tables, Settings())
        self.store.open()
        self.ledger = Ledger(tables, "")
        self.store.register(self.ledger)
        self.today = self.store.retention.first_day(0 * DAY)
        self.expected: Counter[Key] = Counter()

    def flush(self, dice: random.Random, number: int, last_day: int = 0) -> None:
        """Write a batch of uses of two years, old ones among them: hours and days."""
        counts: dict[tuple[Any, str], Counter[dt.datetime]] = {}
        for _ in range(number):
            user, feature = dice.choice([None, *self.users]), dice.choice(FEATURES)
            start = self.today - dice.randint(last_day, 730) * DAY + dice.choice([0, 0, 5]) * HOUR
            uses = dice.randint(1, 9)
            counts.setdefault((user, feature), Counter())[start] += uses
            self.expected[user, feature, start] += uses
        self.write(
            [
                Count(feature, user, starts.total(), max(starts), None, tuple(starts.items()))
                for (user, feature), starts in counts.items()
            ]
        )

    def write(self, counts: list[Count]) -> None:
        counts.sort(key=lambda count: (count.user is not None, str(count.user), count.feature))
        self.store.write(self.ledger, Batch(self.ledger.number + 1, tuple(counts)))
        self.ledger.number += 1

    @property
    def rows(self) -> Counter[Key]:
        found = all_of(self.engine, self.tables.history)
        rows = Counter({(row.user_id, row.feature_name, row.bucket_start): row.usage_count for row in found})
        assert len(rows) == len(found), "a key has two rows"
        return rows

    @property
    def first_day(self) -> dt.datetime | None:
        with self.engine.connect() as connection:
            return first_day(connection, self.tables)

    def sum_up(self, before: dt.datetime) -> list[int]:
        return list(self.store.retention.roll_up_days(before))


def in_months(rows: Counter[Key], before: dt.datetime) -> Counter[Key]:
    """With one row a month where months end by a moment."""
    first, months = before.replace(day=1), Counter[Key]()
    for (user, feature, start), uses in rows.items():
        months[user, feature, bucket_start(start, "month") if start < first else start] += uses
    return months


@pytest.fixture
def past(users_database: UsersDatabase, monkeypatch: pytest.MonkeyPatch) -> Iterator[Past]:
    monkeypatch.setattr(retention, "ROWS", 40)
    made_tables = made(users_database.engine)
    it = Past(users_database.engine, made_tables, list(users_database.user_ids))
    yield it
    it.store.dispose()


@pytest.mark.parametrize("seed", range(3))
def test_every_month_has_the_sum_of_its_days(past: Past, seed: int, users_database: UsersDatabase) -> None:
    """Whatever comes in between: late uses, hours summed up to days, a user who is deleted, another limit."""
    dice, before = random.Random(seed), past.today
    past.flush(dice, 900)
    limits: list[dt.datetime] = []
    for _ in range(6):
        limits.append(past.today - dice.randint(90, 500) * DAY)
        before = max(limits)
        match dice.randint(0, 3):
            case 0:
                user = past.users.pop()
                with past.engine.begin() as connection:
                    users = users_database.users
                    connection.execute(users.delete().where(users.c.id == user))
                past.expected = Counter({key: uses for key, uses in past.expected.items() if key[0] != user})
            case 1:
                _ = list(past.store.retention.roll_up(before.replace(day=1)))
        past.sum_up(limits[-1])
        assert past.first_day == before.replace(day=1)
        assert in_months(past.rows, before) == in_months(past.expected, before)
        assert all(start.day == 1 or start >= before.replace(day=1) for _, _, start in past.rows)
        past.flush(dice, 30)
        assert in_months(past.rows, before) == in_months(past.expected, before)
    assert sum(past.sum_up(before))
    assert past.sum_up(before) == []


def test_it_is_done_in_small_transactions(past: Past) -> None:
    past.flush(random.Random(1), 900)
    before = past.today - 200 * DAY
    days = past.store.retention.count(before.replace(day=1), to="month")
    parts = past.sum_up(before)
    assert sum(parts) == days > 300
    assert max(parts) < 200
    assert len(parts) > 5


def test_a_few_late_uses_are_no_walk_through_the_table(past: Past) -> None:
    past.flush(random.Random(1), 900)
    before = past.today - 200 * DAY
    past.sum_up(before)
    past.flush(random.Random(2), 3, last_day=300)
    assert len(past.sum_up(before)) <= 3


def test_to_find_no_late_use_is_no_walk_through_the_table(mariadb: Database) -> None:
    """MariaDB reads all rows of a range for its least value, unless they are asked for in the order of the index."""
    engine = mariadb.engine()
    tables = made(engine, users=None)
    month, rows = utcnow().replace(day=1, hour=0, minute=0, second=0, microsecond=0), []
    for _ in range(30):
        month = (month - DAY).replace(day=1)
        rows += [{"feature_name": f"f{number}", "bucket_start": month} for number in range(200)]
    with engine.begin() as connection:
        connection.execute(tables.history.insert(), rows)
    store = Store(connect(engine), tables, Settings())
    store.open()
    asked: list[tuple[str, Any]] = []

    def note(connection: sa.Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "bucket_start" in statement:
            asked.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        assert list(store.retention.roll_up_days(utcnow() - 100 * DAY)) == []
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
        store.dispose()
    assert len(asked) > 25
    with engine.connect() as connection:
        connection.exec_driver_sql("FLUSH STATUS")
        for statement, parameters in asked:
            connection.exec_driver_sql(statement, parameters).all()
        read = connection.execute(sa.text("SHOW SESSION STATUS LIKE :names"), {"names": "Handler_read%"}).all()
    assert sum(int(number) for _, number in read) < 5 * len(asked)


def test_whatever_fails_on_the_way_no_use_is_lost_and_the_first_day_is_known(past: Past) -> None:
    past.flush(random.Random(1), 600)
    before, left = past.today - 100 * DAY, 0

    def fail(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise ConnectionError("cut")

    connector: Any = past.store._connector
    for moment in ("before_cursor_execute", "after_cursor_execute"):
        sa.event.listen(connector._engine, moment, fail)
    days = past.rows
    for number in range(1, 80, 5):
        left = number
        with pytest.raises(WriteError, match="cut"):
            past.sum_up(before)
        left = 0
        rows = past.rows
        assert in_months(rows, before) == in_months(past.expected, before)
        assert rows == days or past.first_day == before.replace(day=1), "rows are gone that questions take for days"
    past.sum_up(before)
    assert past.rows == in_months(past.expected, before)


KILLED = """
import os, signal, sys, datetime as dt
import sqlalchemy as sa
from usage_instrument import Settings
from usage_instrument.pipeline import retention
from usage_instrument.database.engines import connect
from usage_instrument.schema import define_tables
from usage_instrument.pipeline.store import Store

engine, commits = sa.create_engine(sys.argv[1]), 0
retention.ROWS = 40
store = Store(connect(engine), define_tables(sa.MetaData(), users=None), Settings())
store.open()
for number, rows in enumerate(store.retention.roll_up_days(dt.datetime.fromisoformat(sys.argv[2]))):
    if number == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("transactions", [0, 3])
def test_a_kill_between_transactions_leaves_exact_sums(
    past: Past, transactions: int, users_database: UsersDatabase
) -> None:
    past.flush(random.Random(1), 600)
    before, days = past.today - 100 * DAY, past.rows
    done = forked.run(KILLED, users_database.database.url, before.isoformat(), str(transactions))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert past.first_day == before.replace(day=1)
    assert (past.rows == days) == (transactions == 0)
    assert in_months(past.rows, before) == in_months(days, before)
    past.sum_up(before)
    assert past.rows == in_months(days, before)


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_flushes_beside_it_count_exactly_once(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the very months that are summed up, by two processes that sum up at once."""
    monkeypatch.setattr(retention, "ROWS", 20)
    database: Database = request.getfixturevalue(name)
    tables = made(database.engine(), users=None)
    users = [uuid.UUID(int=2**100 + number) for number in range(5)]
    past, others = Past(database.engine(), tables, users), [Past(database.engine(), tables, users) for _ in range(2)]
    past.flush(random.Random(0), 300)
    before, ended = past.today - 100 * DAY, threading.Event()
    failures: list[BaseException] = []

    def keep_summing_up(other: Past) -> None:
        while not ended.is_set():
            try:
                other.sum_up(before)
            except WriteError as error:
                if not error.fault.is_transient:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=keep_summing_up, args=(other,)) for other in others]
    for thread in threads:
        thread.start()
    dice, written = random.Random(1), 0
    while written < 60:
        known, number = past.expected.copy(), past.ledger.number
        try:
            past.flush(dice, 20, last_day=100)
            written += 1
        except WriteError as error:
            if error.in_doubt or not error.fault.is_transient:
                raise
            past.expected, past.ledger.number = known, number
    ended.set()
    for thread in threads:
        thread.join()
    assert failures == []
    past.sum_up(before)
    assert past.rows == in_months(past.expected, before)
    for each in (past, *others):
        each.store.dispose()


# ---- maintenance


def test_the_writer_sums_up_what_the_setting_says(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_PRUNE_PHASE", 0.0)
    monkeypatch.setattr(maintenance, "_PRUNE_TURN", 60.0)
    past.flush(random.Random(1), 600)
    kept, before = past.today - 400 * DAY, past.today - 100 * DAY
    settings = Settings(flush_interval=3600, history_months_after="100d", user_id_type=past.tables.user_id_type)
    tracker = Tracker(past.engine, settings, past.tables)
    try:
        tracker.track("f")
        assert tracker.flush(30)
        writing_pipeline(tracker).writer.write()
    finally:
        tracker.shutdown(5)
    expected = in_months(past.expected, before) + Counter({(None, "f", bucket_start(utcnow(), "day")): 1})
    # Of a month that is summed up, no part is deleted.
    assert past.rows == Counter({key: uses for key, uses in expected.items() if key[2] >= kept.replace(day=1)})
    assert past.first_day == before.replace(day=1)


def test_a_part_of_a_month_that_is_summed_up_does_not_go(past: Past) -> None:
    """Without the setting too, where another process sums up."""
    past.flush(random.Random(1), 300)
    day = (past.today - 300 * DAY).replace(day=15)
    assert past.store.retention.first_month(day) == day
    past.sum_up(past.today - 200 * DAY)
    assert past.store.retention.first_month(day) == day.replace(day=1)
    late = (past.today - 100 * DAY).replace(day=15)
    assert past.store.retention.first_month(late) == late
