"""A history in partitions: made ahead, filled, dropped when old, and the way of an existing table there and back."""

from __future__ import annotations

import datetime as dt
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from conftest import Database, with_users
from reading import all_of, made, made_beside_users
from usage_instrument import Settings, Tracker
from usage_instrument.cli.app import app
from usage_instrument.database.dialects import Fault, get
from usage_instrument.database.engines import connect
from usage_instrument.database.inspection import check
from usage_instrument.database.partitions import Partitions, later
from usage_instrument.database.schema import reflected_options
from usage_instrument.errors import ConfigurationError, SchemaError
from usage_instrument.events import Batch, Count
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.schema import Tables, create_all
from usage_instrument.typing import HistoryPartitions, UserId
from usage_instrument.upgrade import plan_upgrade, upgrade
from usage_instrument.views import create_views

DAY = dt.timedelta(days=1)
Key = tuple[UserId, str, dt.datetime]


def partitions(engine: sa.Engine, tables: Tables) -> Partitions:
    with engine.connect() as connection:
        found = get("postgresql").partitioning.find(connection, tables.history)
    assert found is not None
    return found


def wanted(engine: sa.Engine, how: HistoryPartitions, **options: Any) -> Tables:
    options = {"schema": None, "users": "auto", "user_id_type": "uuid", **options}
    with engine.connect() as connection:
        return reflected_options(connection, history_partitions=how, **options).tables


def problems(engine: sa.Engine, tables: Tables) -> list[str]:
    with engine.connect() as connection:
        return [problem.message for problem in check(connection, tables)]


def upgraded(engine: sa.Engine, how: HistoryPartitions, **options: Any) -> Tables:
    tables = wanted(engine, how, **options)
    with engine.connect() as connection:
        upgrade(connection, tables)
    with engine.connect() as connection:
        assert plan_upgrade(connection, tables).steps == ()
    assert problems(engine, tables) == []
    return tables


def rows(engine: sa.Engine, tables: Tables) -> Counter[Key]:
    found = [(row.user_id, row.feature_name, row.bucket_start) for row in all_of(engine, tables.history)]
    assert len(found) == len(set(found))
    return Counter(
        {(row.user_id, row.feature_name, row.bucket_start): row.usage_count for row in all_of(engine, tables.history)}
    )


def fill(engine: sa.Engine, tables: Tables, *days: dt.datetime, user: UserId = None) -> None:
    with engine.begin() as connection:
        given = [{"user_id": user, "feature_name": "search", "bucket_start": day, "usage_count": 3} for day in days]
        connection.execute(tables.history.insert(), given)


@contextmanager
def opened(engine: sa.Engine, tables: Tables, **settings: Any) -> Iterator[Store]:
    store = Store(connect(engine), tables, Settings(**settings))
    try:
        store.open()
        yield store
    finally:
        store.dispose()


def test_months_are_made_ahead_and_dropped(postgresql: Database) -> None:
    """Rows of months without a partition move into theirs; old months go whole, and `prune` deletes to the day."""
    users = with_users(postgresql)
    engine, user = users.engine, users.user_ids[0]
    tables = create_all(engine, history_partitions="month").tables
    this = partitions(engine, tables).this_month
    assert [part.start for part in partitions(engine, tables).ranges] == [later(this, number) for number in range(4)]
    assert problems(engine, tables) == []
    with opened(engine, tables) as store:
        retention = store.retention
        day = retention.first_day(dt.timedelta(days=100))
        month = retention.first_month(day)
        assert month == day.replace(day=1)
        recent = [later(month, number) + 3 * DAY for number in range(3)]
        fill(engine, tables, month - DAY, month - 40 * DAY, month, *recent, later(this, 30), user=user)
        before = rows(engine, tables)
        with engine.begin() as connection:
            part = partitions(engine, tables).ranges[-1]
            connection.exec_driver_sql(f"DROP TABLE {part.name}")
        list(retention.make_partitions(later(month, -1)))
        assert rows(engine, tables) == before
        made = partitions(engine, tables)
        assert not made.missing([month.replace(day=1), later(this, 30)])
        assert made.missing([later(month, -2)])  # about to be deleted
        with engine.connect() as connection:
            left = get("postgresql").partitioning.months_in_default(connection, made)
        assert [each for each, _ in left] == [(month - 40 * DAY).replace(day=1)]
        assert sum(retention.prune(month)) == 2
        assert rows(engine, tables) == Counter({key: n for key, n in before.items() if key[2] >= month})
        assert all(part.start is not None and part.start >= month for part in partitions(engine, tables).ranges)
        sum(retention.prune(month + DAY))
        assert month not in {start for _, _, start in rows(engine, tables)}
    with engine.begin() as connection:
        connection.execute(users.users.delete().where(users.users.c.id == user))
    assert not rows(engine, tables)
    with engine.begin() as connection:
        (next_one,) = (part for part in partitions(engine, tables).ranges if part.start == later(this))
        connection.exec_driver_sql(f"DROP TABLE {next_one.name}")
    (problem,) = problems(engine, tables)
    assert problem.endswith(": run `usage-instrument prune`")
    assert CliRunner().invoke(app, ["prune", "--url", postgresql.url]).exit_code == 0
    assert problems(engine, tables) == []


def test_a_flush_that_waits_for_a_new_month_is_tried_again(postgresql: Database) -> None:
    """Its row was on the way into the default partition, which holds that month no more."""
    engine = postgresql.engine()
    tables = create_all(engine, history_partitions="month", users=None).tables
    month = later(partitions(engine, tables).this_month, 40)
    batch = Batch(1, (Count("search", None, 3, month, None, ((month, 3),)),))
    fill(engine, tables, month + DAY)
    failures: list[WriteError] = []
    with opened(engine, tables, lock_timeout=60, statement_timeout=60) as store:
        ledger = store.new_ledger()
        store.register(ledger)

        def write() -> None:
            try:
                store.write(ledger, batch)
            except WriteError as error:
                failures.append(error)

        thread = threading.Thread(target=write)
        with engine.begin() as connection:
            assert get("postgresql").partitioning.add_month(connection, tables.history, month, patiently=False)
            thread.start()
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            with engine.connect() as other:
                while not other.scalar(waiting):
                    time.sleep(0.01)
        thread.join()
        assert [error.fault for error in failures] == [Fault.TRANSIENT]
        write()
        assert len(failures) == 1
    assert sum(rows(engine, tables).values()) == 6


class _Killed(Exception):
    """The upgrade ends here."""


@contextmanager
def killed(engine: sa.Engine, number: int) -> Iterator[None]:
    """No statement of the upgrade from that number on reaches the server."""
    left = number

    def listener(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        nonlocal left
        left -= statement.startswith(("CREATE", "ALTER", "LOCK"))
        if left <= 0:
            raise _Killed

    sa.event.listen(engine, "before_cursor_execute", listener)
    try:
        yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", listener)


@contextmanager
def a_process(engine: sa.Engine, tables: Tables, user: UserId) -> Iterator[Tracker]:
    """A process that captures and writes all the time."""
    tracker, ended = Tracker(engine, Settings(flush_interval=0.01), tables), threading.Event()

    def use() -> None:
        while not ended.wait(0.001):
            tracker.track("search", user=user)

    thread = threading.Thread(target=use)
    thread.start()
    try:
        yield tracker
    finally:
        ended.set()
        thread.join()
        assert tracker.shutdown(60)


def test_an_existing_history_becomes_partitions_and_one_table_again(postgresql: Database) -> None:
    """While a process writes. The upgrade is killed at its statements, and goes on."""
    users = with_users(postgresql)
    engine, user = users.engine, users.user_ids[0]
    tables = made_beside_users(engine)
    create_views(engine)
    fill(engine, tables, *(dt.datetime(2026, 1, 1) - number * 20 * DAY for number in range(30)), user=user)
    before, month = sum(rows(engine, tables).values()), wanted(engine, "month")
    with a_role(engine) as role, a_process(engine, tables, user) as tracker:
        for number in (5, 7, 20):  # 1 to 3 are locks
            with killed(engine, number), engine.connect() as connection, pytest.raises(_Killed):
                upgrade(connection, month)
            assert problems(engine, month)
        upgraded(engine, "month")
        written = tracker.stats().written
        assert tracker.flush(60)
        assert tracker.stats().written > written
        with engine.connect() as connection:
            seen: Any = connection.exec_driver_sql("SELECT sum(uses) FROM feature_usage_daily").scalar()
        assert seen >= before + written
        whole = upgraded(engine, "none")
        with engine.connect() as connection:
            may = f"SELECT has_table_privilege('{role}', 'feature_usage_history', 'DELETE')"
            assert connection.exec_driver_sql(may).scalar()
    stats = tracker.stats()
    assert stats.written == stats.captured
    assert sum(rows(engine, whole).values()) == before + stats.captured
    with engine.begin() as connection:
        connection.execute(users.users.delete().where(users.users.c.id == user))
        connection.exec_driver_sql("CREATE VIEW mine AS SELECT * FROM feature_usage_history")
    assert not rows(engine, whole)
    with engine.connect() as connection, pytest.raises(SchemaError, match="mine would go on reading the old table"):
        plan_upgrade(connection, month)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP VIEW mine")


def test_an_interrupted_upgrade_is_reported_and_refuses_no_use_for_good(postgresql: Database) -> None:
    engine = postgresql.engine()
    tables = made(engine, users=None)
    prepare = get("postgresql").partitioning.preparations(tables.history)[1][0]
    with engine.begin() as connection:
        prepare(connection)
    (problem,) = problems(engine, tables)
    assert problem.endswith("was interrupted: run `usage-instrument db upgrade --history-partitions month`")
    late = dt.datetime(2099, 1, 1)
    with opened(engine, tables) as store:
        ledger = store.new_ledger()
        store.register(ledger)
        with pytest.raises(WriteError) as failure:
            store.write(ledger, Batch(1, (Count("search", None, 3, late, None, ((late, 3),)),)))
    assert failure.value.fault is Fault.TRANSIENT
    upgraded(engine, "month", users=None)


def test_only_postgresql_has_partitions(sqlite: Database) -> None:
    refused = "history_partitions='month' needs PostgreSQL, and this is sqlite: leave the option out"
    with pytest.raises(ConfigurationError, match=refused):
        create_all(sqlite.engine(), history_partitions="month")
    done = CliRunner().invoke(app, ["db", "create", "--url", sqlite.url, "--history-partitions", "month"])
    assert done.exit_code != 0
    assert refused in " ".join(done.output.split())
    create_all(sqlite.engine(), history_partitions="none")


def test_a_role_that_does_not_own_the_table_deletes_rows(
    postgresql: Database, caplog: pytest.LogCaptureFixture
) -> None:
    engine = postgresql.engine()
    tables = create_all(engine, history_partitions="month", users=None).tables
    with (
        a_role(engine) as role,
        opened(sa.create_engine(f"{postgresql.url}?options=-c%20role%3D{role}"), tables) as store,
    ):
        retention = store.retention
        day = retention.first_day(dt.timedelta(days=100))
        fill(engine, tables, day - DAY, day)
        assert retention.first_month(day) == day
        assert list(retention.make_partitions(day)) == []
        assert not caplog.records  # the next months have partitions
        assert sum(retention.prune(day)) == 1
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE {partitions(engine, tables).ranges[1].name}")
        assert list(retention.make_partitions(day)) == []
        assert "run `usage-instrument prune` as the owner of the table" in caplog.text


@contextmanager
def a_role(engine: sa.Engine) -> Iterator[str]:
    """A role that may read and write."""
    name = f"reader_{uuid.uuid4().hex}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name}")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}")
    try:
        yield name
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
            connection.exec_driver_sql(f"DROP ROLE {name}")
