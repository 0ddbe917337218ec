"""The outbox: uses in the host's own transactions, moved into the counts exactly once."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import threading
import time
import uuid

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session

import shop
import usage_instrument as usage
from conftest import with_users
from reading import all_of, counts, made
from usage_instrument import Settings, Tracker
from usage_instrument.pipeline import outbox as outbox_module
from usage_instrument.schema import define_tables

numbers = itertools.count(1)


@pytest.fixture
def engine(database):
    engine = shop.begin_by_hand(database.engine())
    shop.PURCHASES.create(engine)
    return engine


@pytest.fixture
def tables(engine):
    return made(engine, user_id_type="integer")


@pytest.fixture
def tracker(engine, tables):
    """It writes when it is flushed."""
    return usage.configure(engine, user_id_type="integer", flush_interval=3600)


def buy(place, **options):
    number = next(numbers)
    place.execute(shop.PURCHASES.insert().values(id=number))
    usage.track("purchase", commit=place, user=number, **options)
    return number


def rows(engine, tables):
    return sorted(row.user_id for row in all_of(engine, tables.outbox))


@pytest.mark.parametrize("kind", [Session, sa.Connection])
def test_a_committed_use_is_a_row_until_it_is_counted(engine, tables, tracker, kind):
    before = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    with kind(engine) as place:
        first = buy(place, metadata={"basket": [1]})
        savepoint = place.begin_nested()
        buy(place)
        savepoint.rollback()
        with place.begin_nested():
            second = buy(place, count=3)
        assert rows(engine, tables) == [] or engine.dialect.name == "sqlite"
        place.commit()
        assert rows(engine, tables) == [first, second]
        buy(place)
        place.rollback()
        assert rows(engine, tables) == [first, second]
    assert [use.usage_count for use in tracker.user_features(second)] == [3]
    assert tracker.stats().captured == 0
    assert usage.flush()
    assert rows(engine, tables) == []
    assert counts(engine, tables) == {("purchase", first): 1, ("purchase", second): 3}
    [use] = tracker.user_features(first)
    assert (use.metadata, before <= use.last_used) == ({"basket": [1]}, True)
    stats = usage.stats()
    assert (stats.captured, stats.written, stats.pending, stats.outbox_pending) == (4, 4, 0, 0)
    assert sum(row.usage_count for row in all_of(engine, tables.history)) == 4


def test_async_sessions(database, engine, tables, tracker):
    async def run():
        host = create_async_engine(database.async_url)
        shop.begin_by_hand(host.sync_engine)
        async with AsyncSession(host) as session:
            usage.track("purchase", commit=session, user=1)  # before the transaction, and so at once
            await session.execute(shop.PURCHASES.insert().values(id=1))
            usage.track("purchase", commit=session, user=2)
            await session.commit()
        await host.dispose()

    asyncio.run(run())
    assert rows(engine, tables) == [2]
    assert usage.flush()
    assert counts(engine, tables) == {("purchase", 1): 1, ("purchase", 2): 1}


def test_a_session_of_another_database_takes_the_hook(database, tables, engine, sqlite, tmp_path):
    other = shop.begin_by_hand(sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}"))
    shop.PURCHASES.create(other)
    usage.configure(engine, user_id_type="integer", flush_interval=3600)
    with Session(other) as session:
        number = buy(session)
        session.commit()
    other.dispose()
    assert rows(engine, tables) == []
    assert usage.flush()
    assert counts(engine, tables) == {("purchase", number): 1}


def test_a_session_of_several_databases_takes_the_hook(engine, tables, tracker):
    class Base(DeclarativeBase):
        pass

    class Purchase(Base):
        __table__ = shop.PURCHASES.to_metadata(Base.metadata)

    number = next(numbers)
    with Session(engine, binds={Purchase: engine}) as session:
        session.add(Purchase(id=number))
        usage.track("purchase", commit=session, user=number)
        session.commit()
    assert rows(engine, tables) == []
    assert usage.flush()
    assert counts(engine, tables) == {("purchase", number): 1}


@pytest.mark.parametrize("binds", [{}, {"other": "sqlite://"}])
def test_the_session_of_flask_sqlalchemy(sqlite, binds):
    tables = made(sqlite.engine(), user_id_type="integer")
    app = Flask("shop")
    app.config.update(SQLALCHEMY_DATABASE_URI=sqlite.url, SQLALCHEMY_BINDS=binds)
    db = SQLAlchemy(app)
    usage.configure(sqlite.url, user_id_type="integer", flush_interval=3600)
    with app.app_context():
        db.session.execute(sa.text("SELECT 1"))
        usage.track("purchase", commit=db.session, user=1)
        db.session.commit()
        assert rows(sqlite.engine(), tables) == ([] if binds else [1])
        assert usage.flush()
        assert counts(sqlite.engine(), tables) == {("purchase", 1): 1}
        for engine in db.engines.values():
            engine.dispose()


def test_without_the_table_the_transaction_of_the_host_goes_on(engine, tables, tracker, caplog):
    tables.outbox.drop(engine)
    with Session(engine) as session:
        first = buy(session)
        session.commit()
        second = buy(session)
        session.commit()
    assert usage.flush()
    assert counts(engine, tables) == {("purchase", first): 1, ("purchase", second): 1}
    assert [row.id for row in all_of(engine, shop.PURCHASES)] == [first, second]
    assert caplog.text.count("uses with commit= are recorded after the commit") == 1


def test_a_table_that_an_upgrade_makes_is_used_at_once(engine, tables, tracker):
    tables.outbox.drop(engine)
    usage.track("search", user=7)
    assert usage.flush(), "the writer has looked for the table"
    tables.outbox.create(engine)
    with Session(engine) as session:
        buyer = buy(session)
        session.commit()
    assert rows(engine, tables) == [buyer]
    assert usage.flush()
    assert counts(engine, tables) == {("search", 7): 1, ("purchase", buyer): 1}


@pytest.mark.parametrize("waiting", ["a user", "the trail"])
def test_rows_are_moved_while_something_else_waits(users_database, waiting):
    """For `user_retry`, or as long as there is no trail."""
    tables = made(users_database.engine, users=users_database.users)
    host = shop.begin_by_hand(users_database.engine)
    shop.PURCHASES.create(host)
    if waiting == "the trail":
        tables.access.drop(host)
    usage.configure(host, tables=tables, flush_interval=3600)
    usage.track("search", user=uuid.uuid4() if waiting == "a user" else None, audit=waiting == "the trail")
    assert not usage.flush(5)
    with host.connect() as connection:
        connection.begin()
        usage.track("purchase", user=users_database.user_ids[0], commit=connection)
        connection.commit()
    assert not usage.flush(5)
    assert counts(host, tables)["purchase", users_database.user_ids[0]] == 1


def test_a_database_that_refuses_what_it_took_fails_the_commit(server, caplog):
    """The statement has ended the transaction: to go on would lose the rows of the host silently."""
    engine = server.engine()
    shop.PURCHASES.create(engine)
    tables = made(engine, user_id_type="integer")
    usage.configure(engine, user_id_type="integer", flush_interval=3600)
    with Session(engine) as session:
        buy(session)
        session.commit()
        tables.outbox.drop(engine)
        buy(session)
        with pytest.raises(sa.exc.ProgrammingError):
            session.commit()
        session.rollback()
        last = buy(session)
        session.commit()
    assert last in {row.id for row in all_of(engine, shop.PURCHASES)}


def test_a_use_that_the_rule_drops_leaves_the_commit_alone(engine, tables):
    usage.configure(engine, user_id_type="integer", flush_interval=3600, before_track=lambda use: None)
    with Session(engine) as session:
        number = buy(session)
        session.commit()
    assert [row.id for row in all_of(engine, shop.PURCHASES)] == [number]
    assert usage.flush()
    assert rows(engine, tables) == []
    assert counts(engine, tables) == {}


def test_racing_writers_count_each_row_once(engine, tables):
    with Session(engine) as session:
        usage.configure(engine, user_id_type="integer", flush_interval=3600)
        bought = [buy(session) for _ in range(200)]
        session.commit()
    others = [
        Tracker(engine, Settings(user_id_type="integer", flush_rows=7, flush_interval=3600), tables) for _ in range(3)
    ]
    barrier = threading.Barrier(len(others), timeout=60)

    def move(tracker):
        tracker.track("begin")
        barrier.wait()
        deadline = time.monotonic() + 60
        while rows(engine, tables) and time.monotonic() < deadline:
            tracker._pipeline.look_into_outbox()
            tracker.flush()

    threads = [threading.Thread(target=move, args=(tracker,)) for tracker in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for tracker in others:
        assert tracker.shutdown()
    found = counts(engine, tables)
    assert {user: uses for (feature, user), uses in found.items() if feature == "purchase"} == dict.fromkeys(bought, 1)
    assert sum(tracker.stats().written for tracker in others) == 203


def test_users_who_are_gone_are_rejected_and_those_who_opted_out_dropped(database):
    users = with_users(database)
    tables = define_tables(users.users.metadata, users=users.users)
    tables.usage.metadata.create_all(users.engine)
    known, stranger, silent = users.user_ids[0], uuid.UUID(int=7), users.user_ids[1]
    usage.configure(users.engine, tables=tables, user_retry=0, flush_interval=3600, privacy_key="k" * 40)
    usage.opt_out(silent)
    with users.engine.connect() as connection:
        connection.begin()
        for user in (known, stranger, silent, None):
            usage.track("purchase", commit=connection, user=user)
        connection.commit()
    assert len(all_of(users.engine, tables.outbox)) == 4
    assert usage.flush()
    assert all_of(users.engine, tables.outbox) == []
    assert counts(users.engine, tables) == {("purchase", known): 1, ("purchase", None): 1}
    stats = usage.stats()
    assert (stats.captured, stats.written, stats.rejected) == (4, 2, 2)
    lost = {(row.reason, row.uses) for row in all_of(users.engine, tables.losses)}
    assert lost == {("unknown user", 1), ("opted out or forgotten", 1)}


def test_a_young_row_waits_for_its_user(database):
    users = with_users(database)
    tables = define_tables(users.users.metadata, users=users.users)
    tables.usage.metadata.create_all(users.engine)
    late = uuid.UUID(int=7)
    usage.configure(users.engine, tables=tables, flush_interval=3600)
    with users.engine.connect() as connection:
        connection.begin()
        usage.track("purchase", commit=connection, user=late)
        connection.commit()
    usage.flush()
    assert usage.stats().outbox_pending == 1
    with users.engine.begin() as connection:
        connection.execute(users.users.insert().values(id=late, name="late"))
    usage._default.tracker()._pipeline.look_into_outbox()
    assert usage.flush()
    assert counts(users.engine, tables) == {("purchase", late): 1}


def test_erasing_a_user_empties_the_outbox_of_them(engine, tables):
    usage.configure(engine, user_id_type="integer", flush_interval=3600, privacy_key="k" * 40)
    with Session(engine) as session:
        first, second = buy(session), buy(session)
        session.commit()
    receipt = usage.forget(first, force=True)
    assert receipt.deleted.keys() == {
        "feature_usage_outbox", "feature_usage", "feature_usage_history", "feature_usage_exposures"
    }  # fmt: skip
    with Session(engine) as session:
        session.begin()
        usage.track("purchase", commit=session, user=first)
        session.commit()
    assert usage.flush()
    assert counts(engine, tables) == {("purchase", second): 1}
    assert all_of(engine, tables.outbox) == []


def test_the_schedule(monkeypatch):
    now = 100.0
    monkeypatch.setattr(outbox_module.time, "monotonic", lambda: now)
    schedule = outbox_module.OutboxSchedule()
    assert not schedule.is_due(None)
    schedule.is_asked = True
    assert schedule.is_due(None)
