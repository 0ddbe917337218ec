"""The writer against real databases: what it does when a database refuses, is away, or forgot it."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from conftest import Database, UsersDatabase, writing_pipeline
from reading import all_of, balanced, counts, made, total
from servers import free_port
from usage_instrument import Settings, Tracker
from usage_instrument.database import dialects
from usage_instrument.database.dialects import Fault
from usage_instrument.database.ledger import Ledger
from usage_instrument.pipeline.aggregator import Aggregator
from usage_instrument.pipeline.buffer import Buffer
from usage_instrument.pipeline.flush_request import FlushRequest
from usage_instrument.pipeline.known_users import KnownUsers
from usage_instrument.pipeline.maintenance import Maintenance
from usage_instrument.pipeline.pending_counts import PendingCounts
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.pipeline.writer import Writer
from usage_instrument.schema import Tables

Make = Callable[..., Tracker]


@pytest.fixture
def make() -> Iterator[Make]:
    trackers: list[Tracker] = []

    def tracker(database: Any, tables: Tables | None = None, **settings: Any) -> Tracker:
        made_ = Tracker(database, Settings(flush_interval=3600, **settings), tables)
        trackers.append(made_)
        return made_

    yield tracker
    for tracker_ in trackers:
        tracker_.shutdown(0.5)


def _enforcing(database: Database) -> sa.Engine:
    return database.engine()  # SQLite's checks foreign keys on the engines that this makes


def test_an_unknown_users_uses_wait_and_land_when_the_user_appears(make: Make, users_database: UsersDatabase) -> None:
    engine = users_database.engine
    tables = made(engine)
    tracker = make(_enforcing(users_database.database))
    stranger = uuid.uuid4()
    for user in (*users_database.user_ids, stranger, stranger, None):
        tracker.track("f", user=user)
    assert not tracker.flush(), "two uses wait for their user"
    assert total(engine, tables) == 6
    assert (tracker.stats().written, tracker.stats().pending) == (6, 2)
    tracker.track("f", user=stranger)
    with engine.begin() as connection:
        connection.execute(users_database.users.insert().values(id=stranger, name="late"))
    assert tracker.flush(30)
    assert counts(engine, tables)["f", stranger] == 3
    assert balanced(tracker.stats())


def test_the_use_that_deletes_its_own_user_counts_for_nobody(make: Make, users_database: UsersDatabase) -> None:
    engine, user = users_database.engine, users_database.user_ids[0]
    tables = made(engine)
    tracker = make(_enforcing(users_database.database))
    tracker.track("sign_in", user=user)
    assert tracker.flush(30)
    with engine.begin() as connection:
        connection.execute(users_database.users.delete().where(users_database.users.c.id == user))
    tracker.track("delete_account", user=user)
    assert tracker.flush(30)
    assert counts(engine, tables) == {("delete_account", None): 1}
    assert balanced(tracker.stats())


def test_without_patience_an_unknown_users_uses_are_rejected_at_once(make: Make, users_database: UsersDatabase) -> None:
    engine = users_database.engine
    tables = made(engine)
    tracker = make(_enforcing(users_database.database), user_retry=0)
    tracker.track("f", user=uuid.uuid4(), count=3)
    tracker.track("f", user=users_database.user_ids[0])
    assert tracker.flush(30), "rejected in the same flush"
    stats = tracker.stats()
    assert (stats.written, stats.rejected, stats.pending) == (1, 3, 0)
    assert [(row.reason, row.uses) for row in all_of(engine, tables.losses)] == [("unknown user", 3)]


def test_the_exit_tries_once_more_and_then_rejects(make: Make, users_database: UsersDatabase) -> None:
    engine = users_database.engine
    tables = made(engine)
    tracker = make(_enforcing(users_database.database))
    tracker.track("f", user=uuid.uuid4(), count=3)
    tracker.track("f", user=None)
    assert tracker.shutdown()
    assert tracker.stats().rejected == 3
    assert total(engine, tables) == 1
    assert [(row.reason, row.uses) for row in all_of(engine, tables.losses)] == [("unknown user", 3)]
    assert all_of(engine, tables.writers) == [], "a clean exit leaves no row behind"


def test_deleting_a_user_takes_the_counts_along(make: Make, users_database: UsersDatabase) -> None:
    engine = users_database.engine
    tables = made(engine)
    tracker = make(_enforcing(users_database.database))
    first, second, *_ = users_database.user_ids
    for user in (first, second, None):
        tracker.track("shared", user=user)
    assert tracker.flush(30)
    for user in (first, second):
        with engine.begin() as connection:
            connection.execute(users_database.users.delete().where(users_database.users.c.id == user))
    assert counts(engine, tables) == {("shared", None): 1}
    tracker.track("shared", user=None)
    assert tracker.flush(30)
    assert counts(engine, tables) == {("shared", None): 2}


def test_a_missing_table_loses_nothing(make: Make, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    tracker = make(database.url)
    with caplog.at_level(logging.WARNING, logger="usage_instrument"):
        for _ in range(2):
            tracker.track("f", count=5)
            assert not tracker.flush()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, "the same trouble is said once"
    assert "run `usage-instrument db create`" in said[0]
    assert "\n" not in said[0]
    assert "secret" not in said[0]
    assert tracker.stats().pending == 10
    engine = database.engine()
    tables = made(engine)
    assert tracker.flush(30)
    assert total(engine, tables) == 10
    assert balanced(tracker.stats())


def test_a_writer_that_was_forgotten_takes_a_new_id(make: Make, database: Database) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    tracker.track("f")
    assert tracker.flush(30)
    before = tracker.stats().writer_id
    with engine.begin() as connection:
        connection.execute(tables.writers.delete())
    tracker.track("f", count=2)
    assert tracker.flush(30)
    assert total(engine, tables) == 3
    assert tracker.stats().writer_id != before
    assert [str(row.writer_id) for row in all_of(engine, tables.writers)] == [tracker.stats().writer_id]


def test_a_value_that_the_database_refuses_is_taken_out_alone(make: Make, postgresql: Database) -> None:
    engine = postgresql.engine()
    tables = made(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE feature_usage ADD CHECK (feature_name <> 'poison')"))
        connection.execute(sa.text("ALTER TABLE feature_usage ADD CHECK (metadata ->> 'a' <> 'bad')"))
    tracker = make(postgresql.url)
    for number in range(20):
        tracker.track(f"f{number}")
    tracker.track("poison", count=7)
    tracker.track("f3", metadata={"a": "bad"}, count=2)
    assert tracker.flush(30)
    stats = tracker.stats()
    assert (stats.written, stats.rejected, stats.metadata_lost, stats.pending) == (22, 7, 1, 0)
    assert total(engine, tables) == 22
    assert [(row.reason, row.uses) for row in all_of(engine, tables.losses)] == [("refused by the database", 7)]


def test_many_keys_travel_in_many_batches(make: Make, database: Database) -> None:
    engine = database.engine()
    tables = made(engine, user_id_type="integer")
    tracker = make(database.url, user_id_type="integer", flush_rows=100)
    for user in range(450):
        tracker.track("f", user=user, count=2)
    assert tracker.flush(30)
    assert total(engine, tables) == 900
    assert [row.last_batch for row in all_of(engine, tables.writers)] == [5]


def test_the_catalogue_holds_what_is_declared(make: Make, database: Database) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url, service="web")

    @tracker.tracks("used", description="What it is")
    def used() -> None: ...

    @tracker.tracks("never_used")
    def never() -> None:
        """The first line.

        The rest.
        """

    used()
    assert tracker.flush(30)
    found = {row.feature_name: (row.service, row.description) for row in all_of(engine, tables.catalog)}
    assert found == {"used": ("web", "What it is"), "never_used": ("web", "The first line.")}


def test_a_server_that_is_away_is_waited_for(make: Make, sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    tracker = make(sqlite.url, lock_timeout=0.01)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        tracker.track("f", count=4)
        assert not tracker.flush(0.3)
        stats = tracker.stats()
        assert stats.retries > 0
        assert "locked" in (stats.last_error or "")
        connection.exec_driver_sql("ROLLBACK")
    assert tracker.flush(30)
    assert tracker.stats().last_error is None
    assert total(engine, tables) == 4


class Commits:
    """Lets the answers to COMMIT get lost: after it was done, or before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
        self.lost: list[str] = []
        self.then: Callable[[], object] = lambda: None
        """What happens before the writer hears of it."""
        dialect = dialects.get(database.name)
        commit = dialect.commit

        def losing(connection: sa.Connection) -> None:
            fate = self.lost.pop(0) if self.lost else "arrived"
            if fate != "before":
                commit(connection)
            if fate != "arrived":
                self.then()
                raise sa.exc.OperationalError("COMMIT", None, Exception("the connection was lost"))

        monkeypatch.setattr(dialect, "commit", losing)


@pytest.mark.parametrize(
    ("database", "fate"),
    [
        *(("postgresql", "after"), ("mariadb", "after")),
        *(("sqlite", "before"), ("postgresql", "before"), ("mariadb", "before")),
    ],
    indirect=["database"],
)
def test_a_batch_in_doubt_is_counted_once(
    make: Make, database: Database, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    tracker.track("f")
    assert tracker.flush(30)
    # SQLite's COMMIT has no network to lose its answer in: an error there says that nothing was committed.
    commits = Commits(monkeypatch, database)
    for _ in range(5):
        commits.lost = [fate, fate]
        tracker.track("f", metadata={"a": 1})
        assert tracker.flush(30)
    assert commits.lost == []
    assert total(engine, tables) == 6
    assert tracker.stats().retries == 10
    assert balanced(tracker.stats())


@pytest.mark.parametrize("fate", ["after", "before"])
def test_a_registration_in_doubt_is_one(
    make: Make, database: Database, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)
    commits = Commits(monkeypatch, database)
    commits.lost = ["arrived", fate, fate]  # the first look is a transaction of its own
    tracker.track("f", count=3)
    assert tracker.flush(30)
    assert total(engine, tables) == 3
    assert len(all_of(engine, tables.writers)) == 1


def test_poison_found_after_a_doubt_is_taken_out(
    make: Make, users_database: UsersDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, known = users_database.engine, users_database.user_ids[0]
    tables = made(engine)
    tracker = make(_enforcing(users_database.database))
    tracker.track("f", user=known)
    assert tracker.flush(30)
    commits = Commits(monkeypatch, users_database.database)
    late = users_database.user_ids[1]
    tracker.track("f", user=known)
    tracker.track("f", user=late, count=2)
    commits.lost = ["before"] * 1000
    assert not tracker.flush(0.3)
    with engine.begin() as connection:  # deleted while the batch's fate is unknown
        connection.execute(users_database.users.delete().where(users_database.users.c.id == late))
    commits.lost = []
    assert not tracker.flush(), "two uses wait for their user"
    assert counts(engine, tables) == {("f", known): 2}
    assert tracker.shutdown()
    assert tracker.stats().rejected == 2
    assert balanced(tracker.stats())


def test_a_batch_in_doubt_under_a_lost_row_is_dropped_and_told(
    make: Make, postgresql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = postgresql.engine()
    tables = made(engine)
    tracker = make(postgresql.url)
    tracker.track("f")
    assert tracker.flush(30)
    commits = Commits(monkeypatch, postgresql)

    def lose_row() -> None:
        with engine.begin() as connection:
            connection.execute(tables.writers.delete())

    commits.lost, commits.then = ["after"], lose_row
    tracker.track("f", count=4)
    assert tracker.flush(30)
    assert tracker.stats().dropped == 4
    assert [(row.reason, row.uses) for row in all_of(engine, tables.losses)] == [("in doubt", 4)]
    assert balanced(tracker.stats())


def test_a_user_who_appears_between_two_looks_is_no_stranger(
    make: Make, users_database: UsersDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = users_database.engine
    tables = made(engine)
    tracker = make(_enforcing(users_database.database))
    new = uuid.uuid4()
    look = Store.unknown_users

    def commit_and_look(store: Store, users: Any) -> set[Any]:
        monkeypatch.undo()
        with engine.begin() as connection:
            connection.execute(users_database.users.insert().values(id=new, name="new"))
        return look(store, users)

    monkeypatch.setattr(Store, "unknown_users", commit_and_look)
    tracker.track("signed_up", user=new, metadata={"plan": "free"})
    assert tracker.flush(30)
    (row,) = all_of(engine, tables.usage)
    assert (row.user_id, row.usage_count, row.metadata) == (new, 1, {"plan": "free"})
    assert (tracker.stats().rejected, tracker.stats().metadata_lost) == (0, 0)


def test_metadata_of_many_flushes_stays_within_its_bound(make: Make, database: Database) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url, metadata_max_bytes=300)
    for number in range(12):
        tracker.track("f", metadata={f"key_{number}": "x" * 60, "latest": number})
        assert tracker.flush(30)
    (row,) = all_of(engine, tables.usage)
    assert row.metadata["latest"] == 11
    assert "key_11" in row.metadata
    assert len(json.dumps(row.metadata, separators=(",", ":"))) <= 300
    assert row.usage_count == 12


def test_a_passing_failure_of_the_catalogue_is_made_good_soon(
    make: Make, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url)

    @tracker.tracks("f")
    def f() -> None: ...

    def away(*_: object) -> None:
        raise WriteError(Fault.TRANSIENT, "the database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "declare", away)
        f()
        assert tracker.flush(30)
    assert all_of(engine, tables.catalog) == []
    writing_pipeline(tracker).maintenance._next_declaration = 0.0  # as a quarter of a minute later
    f()
    assert tracker.flush(30)
    assert [row.feature_name for row in all_of(engine, tables.catalog)] == ["f"]


def test_a_lock_of_the_hosts_on_a_user_is_given_way_to_by_inserts_too(make: Make, mariadb: Database) -> None:
    engine = mariadb.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id BIGINT PRIMARY KEY, name VARCHAR(9))")
        connection.exec_driver_sql("INSERT INTO users VALUES (1, 'a'), (2, 'b')")
    tables = made(engine, user_id_type="integer")
    tracker = make(engine, user_id_type="integer", lock_timeout=0.5)
    with engine.connect() as host:
        host.exec_driver_sql("UPDATE users SET name = 'x' WHERE id = 2")
        tracker.track("f", user=1)
        tracker.track("f", user=2)
        while tracker.stats().last_error is None:  # InnoDB's own patience would be 50 s
            assert not tracker.flush(2)
        assert "Lock wait timeout" in str(tracker.stats().last_error)
        host.rollback()
    assert tracker.flush(60)
    assert counts(engine, tables) == {("f", 1): 1, ("f", 2): 1}


SLOW = {
    "postgresql": """
        CREATE FUNCTION wait_a_bit() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(CASE WHEN NEW.feature_name = 'stuck' THEN 30 ELSE 0.03 END); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON feature_usage FOR EACH ROW EXECUTE FUNCTION wait_a_bit()
    """,
    "mariadb": """
        CREATE TRIGGER slow BEFORE INSERT ON feature_usage FOR EACH ROW
        SET @slept = SLEEP(IF(NEW.feature_name = 'stuck', 30, 0.03))
    """,
}


def test_a_batch_that_is_too_slow_is_halved_and_a_row_that_is_too_slow_alone_is_rejected(
    make: Make, server: Database
) -> None:
    engine = server.engine()
    tables = made(engine, user_id_type="integer")
    with engine.begin() as connection:
        connection.exec_driver_sql(SLOW[server.name])
    tracker = make(server.url, user_id_type="integer", statement_timeout=1)
    for user in range(40):  # 1.2 s together
        tracker.track("f", user=user)
    assert tracker.flush(60)
    assert (total(engine, tables), tracker.stats().rejected) == (40, 0)
    tracker.track("stuck", user=1, count=3)
    tracker.track("g", user=1)
    assert tracker.flush(60)
    assert (total(engine, tables), tracker.stats().rejected) == (41, 3)
    assert balanced(tracker.stats())


def test_one_user_whom_the_host_has_locked_holds_up_nobody_else(make: Make, server: Database) -> None:
    engine = server.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE users (id BIGINT PRIMARY KEY)")
        connection.exec_driver_sql(f"INSERT INTO users VALUES {', '.join(f'({user})' for user in range(1, 11))}")
    tables = made(engine, user_id_type="integer")
    tracker = make(engine, user_id_type="integer", lock_timeout=0.1)
    with engine.connect() as host:
        host.exec_driver_sql("SELECT id FROM users WHERE id = 7 FOR UPDATE").all()
        for user in range(1, 11):
            tracker.track("f", user=user)
        deadline = time.monotonic() + 60
        while tracker.stats().written < 9:
            assert not tracker.flush(0.1)
            assert time.monotonic() < deadline
        assert {user for _, user in counts(engine, tables)} == set(range(1, 11)) - {7}
        assert tracker.stats().pending == 1
        assert tracker.stats().last_error is not None
        host.rollback()
    assert tracker.flush(60)
    assert total(engine, tables) == 10
    assert balanced(tracker.stats())


def test_no_limit_on_statements(make: Make, database: Database) -> None:
    tables = made(database.engine())
    tracker = make(database.url, statement_timeout=0, lock_timeout=0)
    for number in range(2_000):
        tracker.track(f"f{number}")
    assert tracker.flush(30)
    assert total(database.engine(), tables) == 2_000


def test_flushes_that_nobody_waits_for_any_more_hold_up_nobody() -> None:
    tracker = Tracker(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nowhere")
    pending = PendingCounts(10)
    pending.counts.add(None, "f", [(None, 1)], stamp=0, room=10)
    aggregator = Aggregator(Buffer(), pending, tracker.settings, tracker._canonical)
    maintenance = Maintenance(tracker.catalog, tracker.settings)
    waiting: list[FlushRequest] = []
    known, is_asked = KnownUsers(tracker._canonical), lambda: bool(waiting)
    writer = Writer(pending, tracker.settings, tracker._backend, aggregator, maintenance, known, is_asked=is_asked)
    requests = [*(FlushRequest(0) for _ in range(5)), FlushRequest(0, final=True)]
    waiting += requests
    while waiting:
        writer.serve(waiting.pop(0))
    assert [request.answer for request in requests] == [False] * 6
    assert writer.retry.retries == 1
    assert pending.uses == 1


def test_a_lock_that_somebody_holds_at_the_end_leaves_no_row_behind(
    make: Make, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = make(database.url, lock_timeout=0.1)
    tracker.track("f")
    assert tracker.flush(60)
    attempts = 0

    def retire(store: Store, ledger: Ledger) -> None:
        nonlocal attempts
        attempts += 1
        try:
            retired(store, ledger)
        finally:
            holder.rollback()

    retired = Store.retire
    monkeypatch.setattr(Store, "retire", retire)
    with engine.connect() as holder:
        if database.name == "sqlite":
            holder.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            holder.execute(sa.select(tables.writers).with_for_update())
        assert tracker.shutdown(60)
    assert attempts == 2
    assert all_of(engine, tables.writers) == []
