"""The host and the flush want the same rows: the flush gives way and counts all the same; the host is not refused."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable

import sqlalchemy as sa

from captures import USERS, assert_exact, assert_left_nothing
from conftest import Database
from reading import balanced, counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.schema import Tables

ADA, BOB = USERS[1], USERS[2]
KEPT = [uuid.UUID(int=number) for number in range(1, 60, 2)]
REPLACED = [uuid.UUID(int=number) for number in range(2, 61, 2)]
DELETIONS = int(os.environ.get("USAGE_TEST_DELETIONS", "120"))


def touch(tables: Tables, user: uuid.UUID | None) -> sa.Update:
    """Lock a user's rows, as a statement of the host's would."""
    return tables.usage.update().where(tables.usage.c.user_id == user).values(feature_name="f")


def test_a_flush_gives_way_to_a_lock_of_the_hosts(server: Database) -> None:
    engine = server.engine()
    tables = made(engine)
    tracker = Tracker(server.url, Settings(flush_interval=3600, lock_timeout=0.1))
    for user in USERS:
        tracker.track("f", user=user)
    assert tracker.flush(60)
    with engine.begin() as host:
        host.execute(touch(tables, ADA))
        for user in USERS:
            tracker.track("f", user=user, count=2)
        while "lock" not in str(tracker.stats().last_error).lower():
            assert not tracker.flush(1)
        stats = tracker.stats()  # after some attempts, only the locked user's uses wait
        assert len(USERS) <= stats.written <= 3 * len(USERS) - 2
        assert balanced(stats)
    assert_exact(engine, tables, tracker, 3 * len(USERS))
    assert set(counts(engine, tables).values()) == {3}
    assert_left_nothing(engine, tables, tracker)


def test_locks_in_the_opposite_order_are_no_deadlock_for_the_host(server: Database) -> None:
    engine = server.engine()
    tables = made(engine)
    tracker = Tracker(server.url, Settings(flush_interval=3600))
    for round_ in range(1, 6):
        for user in (ADA, BOB):
            tracker.track("f", user=user)
        if round_ == 1:
            assert tracker.flush(60)
            continue
        with engine.begin() as host:
            host.execute(touch(tables, BOB))
            flushing = threading.Thread(target=tracker.flush, args=(60,))
            flushing.start()
            while tracker.stats().retries < round_ - 1 and not _waits(engine):
                assert flushing.is_alive()
            host.execute(touch(tables, ADA))
        flushing.join()
    assert tracker.stats().retries > 0
    assert_exact(engine, tables, tracker, 10)
    assert_left_nothing(engine, tables, tracker)


def _waits(engine: sa.Engine) -> bool:
    """Whether somebody waits for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        if engine.name == "postgresql"
        else "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    )
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql(waiting).scalar())


def test_a_deadlock_loses_nothing(postgresql: Database) -> None:
    """On PostgreSQL alone: on MariaDB, a flush that holds a row never waits for one."""
    engine = postgresql.engine()
    tables = made(engine)
    tracker = Tracker(postgresql.url, Settings(flush_interval=3600, lock_timeout=20))
    met = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    with engine.connect() as connection:
        before = connection.exec_driver_sql(met).scalar()
    for user in (ADA, BOB):
        tracker.track("f", user=user)
    assert tracker.flush(60)
    with engine.begin() as host:
        host.exec_driver_sql("SET LOCAL deadlock_timeout = '1h'")  # so that the writer looks first
        host.execute(touch(tables, BOB))
        for user in (ADA, BOB):
            tracker.track("f", user=user)
        flushing = threading.Thread(target=tracker.flush, args=(60,))
        flushing.start()  # in the order of the keys: it has one row and waits for the other
        while not _waits(engine):
            assert flushing.is_alive()
        host.execute(touch(tables, ADA))
    flushing.join()
    with engine.connect() as connection:
        while connection.exec_driver_sql(met).scalar() == before:
            connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
    assert_exact(engine, tables, tracker, 4)
    assert_left_nothing(engine, tables, tracker)


# ---- the host's users


class Host:
    """Threads that rename some users, and delete and insert others, until the block is left."""

    def __init__(self, engine: sa.Engine, users: sa.Table) -> None:
        self._engine, self._users = engine, users
        self._done = threading.Event()
        self.refused: list[str] = []
        self.deleted = 0

    def __enter__(self) -> Host:
        tasks = [(self._rename, KEPT), (self._replace, REPLACED[::2]), (self._replace, REPLACED[1::2])]
        self._threads = [threading.Thread(target=self._work, args=task) for task in tasks]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _work(self, change: Callable[[uuid.UUID], None], ids: list[uuid.UUID]) -> None:
        for id_ in itertools.cycle(ids):
            try:
                change(id_)
            except sa.exc.DBAPIError as error:
                self.refused.append(str(error.orig))
            if self._done.wait(0.001):
                return

    def _rename(self, id_: uuid.UUID) -> None:
        self._execute(self._users.update().where(self._users.c.id == id_).values(name="another"))

    def _replace(self, id_: uuid.UUID) -> None:
        try:
            self._execute(self._users.delete().where(self._users.c.id == id_))
            self.deleted += 1
        finally:
            with contextlib.suppress(sa.exc.IntegrityError):  # the DELETE was refused
                self._execute(self._users.insert().values(id=id_, name="new"))

    def _execute(self, statement: sa.Executable) -> None:
        with self._engine.begin() as connection:
            connection.execute(statement)


def test_changes_of_users_are_never_refused(server: Database) -> None:
    engine = server.engine()
    users = sa.Table(
        "users", sa.MetaData(), sa.Column("id", sa.Uuid, primary_key=True), sa.Column("name", sa.String(50))
    )
    users.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(users.insert(), [{"id": id_, "name": "new"} for id_ in (*KEPT, *REPLACED)])
    tables = made(engine)
    tracker = Tracker(server.url, Settings(flush_interval=3600))
    uses = Counter[str]()
    with Host(engine, users) as host:
        while host.deleted < DELETIONS and not host.refused:
            for feature, user in itertools.product("abc", (*KEPT, *REPLACED)):
                tracker.track(feature, user=user)
            uses.update("abc")
            tracker.flush(5)
    assert host.refused == []
    assert tracker.flush(60), tracker.stats()
    stats = tracker.stats()
    assert stats.captured == stats.written == uses.total() * len((*KEPT, *REPLACED))
    assert balanced(stats)
    found = counts(engine, tables)
    assert {key: found[key] for key in itertools.product("abc", KEPT)} == {
        (feature, user): uses[feature] for feature, user in itertools.product("abc", KEPT)
    }
    assert_left_nothing(engine, tables, tracker)


def test_a_role_that_may_not_read_the_users_writes_all_the_same(mariadb: Database) -> None:
    engine = mariadb.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id BIGINT PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO users VALUES (1), (2)")
    tables = made(engine, user_id_type="integer")
    role = f"role_of_{engine.url.database}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE USER {role} IDENTIFIED BY 'secret'")
        for table in tables:
            connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table.name} TO {role}")
    try:
        tracker = Tracker(engine.url.set(username=role, password="secret"), Settings(user_id_type="integer"))
        for user in (1, 2, None):
            tracker.track("f", user=user)
        assert_exact(engine, tables, tracker, 3)
        assert_left_nothing(engine, tables, tracker)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP USER {role}")
