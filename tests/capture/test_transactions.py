"""`commit=`: each use stands beside a row of the host's, and counts exactly if that row is committed."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import asyncio
import gc
import itertools
import pickle
import subprocess
import sys
import threading
import time
import weakref
from contextvars import ContextVar

import pytest
import sqlalchemy as sa
import wrapt
from flask_sqlalchemy import SQLAlchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from werkzeug.local import LocalProxy

import usage_instrument as usage
from usage_instrument import schema
from usage_instrument.capture import kept_uses
from usage_instrument.capture.decorator import tracks
from usage_instrument.errors import ConfigurationError, DeclarationError, UsageInstrumentError
from usage_instrument.settings import Settings
from usage_instrument.testing import capture_usage


class Base(DeclarativeBase):
    pass


class Purchase(Base):
    """What the host writes, beside each use."""

    __tablename__ = "purchases"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    of: Mapped[int | None]
    __table_args__ = (
        # Checked by COMMIT, which then fails. MariaDB has no such constraint.
        sa.ForeignKeyConstraint(["of"], ["purchases.id"], deferrable=True, initially="DEFERRED").ddl_if(
            callable_=lambda *_, **about: about["dialect"].name != "mariadb"
        ),
    )


def begin_by_hand(engine):
    """Have SAVEPOINT work on SQLite: its driver begins no transaction before one."""
    if engine.dialect.name == "sqlite":
        sync = getattr(engine, "sync_engine", engine)

        @sa.event.listens_for(sync, "connect")
        def connected(connection, _):
            connection.isolation_level = None
            connection.cursor().execute("PRAGMA foreign_keys = ON")

        @sa.event.listens_for(sync, "begin")
        def begun(connection):
            connection.exec_driver_sql("BEGIN")

    return engine


@pytest.fixture
def engine(database):
    engine = begin_by_hand(sa.create_engine(database.url))
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def lite(sqlite):
    engine = begin_by_hand(sa.create_engine(sqlite.url))
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def deferring(request):
    """A database that checks a constraint with COMMIT."""
    engine = begin_by_hand(request.getfixturevalue(request.param).engine())
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def captured():
    with capture_usage() as captured:
        yield captured


numbers = itertools.count(1)


def buy(place, of=None):
    """Write a row, and track the use beside it."""
    number = next(numbers)
    place.execute(sa.insert(Purchase).values(id=number, of=of))
    usage.track("purchase", commit=place, user=number)
    return number


def rows(engine):
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(Purchase.id)))


def counted(captured):
    return sorted(use.user for use in captured.uses)


def agree(engine, captured, *bought):
    """Whether exactly these purchases were written, and exactly those counted."""
    return rows(engine) == counted(captured) == sorted(bought)


# ---- sessions


def test_a_use_counts_when_its_session_commits_and_not_before(engine, captured):
    with Session(engine) as session:
        first, second = buy(session), buy(session)
        assert captured.uses == []
        session.commit()
        assert counted(captured) == [first, second]
        buy(session)
        session.rollback()
        third = buy(session)
        session.commit()
    assert agree(engine, captured, first, second, third)


@pytest.mark.parametrize("end", [Session.close, Session.rollback, Session.invalidate, Session.reset])
def test_a_session_that_ends_otherwise_counts_nothing(lite, captured, end):
    session = Session(lite)
    buy(session)
    end(session)
    assert getattr(session, kept_uses.KEY) is None
    kept = buy(session)
    session.commit()
    session.close()
    assert agree(lite, captured, kept)


def test_a_session_that_is_forgotten_counts_nothing_and_leaks_nothing(lite, captured):
    session = Session(lite)
    session.add(Purchase(id=next(numbers)))
    usage.track("purchase", commit=session)
    gone = weakref.ref(session.get_transaction())
    del session
    gc.collect()
    assert gone() is None
    assert captured.uses == []


def test_an_engine_of_the_host_does_not_keep_a_tracker_that_was_replaced(lite):
    tracker = usage.Tracker(lite, Settings(enabled=True))
    with Session(lite) as session:
        session.begin()
        tracker.track("purchase", commit=session)
        session.rollback()
    gone = weakref.ref(tracker)
    del tracker
    usage.configure(lite, enabled=True)  # whose catalogue takes the place of the other one's
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("answer", [lambda: 1 / 0, lambda: print])
def test_a_class_of_sessions_with_a_getattr_of_its_own_meets_none_of_ours(lite, captured, answer):
    class Other(Session):
        def __getattr__(self, name):
            return answer()

    with Other(lite) as session:
        session.execute(sa.select(Purchase))
        session.commit()
        kept = buy(session)
        session.commit()
    assert agree(lite, captured, kept)


class Handed:
    """A proxy by hand, which hands on what it is asked for and nothing else."""

    def __init__(self, other):
        self.other = other

    def __getattr__(self, name):
        return getattr(self.other, name)


@pytest.mark.parametrize("proxy", [wrapt.ObjectProxy, lambda value: LocalProxy(lambda: value)])
def test_proxies_of_sessions_and_connections_are_what_they_stand_for(lite, captured, proxy):
    class Routing(Session):
        def get_bind(self, *_, **__):
            return lite

    for place in (Session(lite), Routing(), lite.connect(), scoped_session(sessionmaker(lite))):
        kept = buy(proxy(place))
        assert kept not in counted(captured)
        proxy(place).commit()
        buy(proxy(place))
        place.rollback()
        assert counted(captured)[-1] == kept
        place.close()
    assert rows(lite) == counted(captured)


def test_a_proxy_may_be_bound_by_the_call_and_to_another_session_within_it(lite, captured):
    bound = ContextVar("bound")
    proxy = LocalProxy(bound)

    @tracks("purchase", commit=proxy, user_arg="number")
    def purchase(number, *, session=None):
        if session is not None:
            bound.set(session)
        proxy.execute(sa.insert(Purchase).values(id=number))

    with pytest.raises(TypeError, match="not LocalProxy"):
        usage.track("purchase", commit=proxy)
    with Session(lite) as first, Session(lite) as second:
        bound.set(first)
        purchase(next(numbers))
        assert captured.uses == []
        first.commit()
        purchase(next(numbers), session=second)
        assert len(captured.uses) == 1
        second.commit()
    assert rows(lite) == counted(captured)
    assert len(captured.uses) == 2


def test_an_object_whose_class_is_an_error_raises_as_any_other(captured):
    def fails(_):
        raise ZeroDivisionError

    classless = type("Classless", (), {"__class__": property(fails)})
    with pytest.raises(DeclarationError, match="not Classless"):
        usage.track("purchase", commit=classless())


class Raising(sa.Engine):
    """What it has not is an error of its own."""

    def __getattr__(self, name):
        raise ZeroDivisionError(name)


class RaisingConnection(sa.Connection):
    __getattr__ = Raising.__getattr__


Raising._connection_cls = RaisingConnection


def raising(engine):
    found = Raising(engine.pool, engine.dialect, engine.url)
    sa.event.listen(found, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return found


@pytest.mark.parametrize("wrapped", [raising, wrapt.ObjectProxy, Handed])
@pytest.mark.parametrize("has_outbox", [True, False])
def test_engines_of_the_host_s_own_kind(sqlite, lite, wrapped, has_outbox):
    schema.create_all(lite, user_id_type="integer")
    url = sqlite.url if has_outbox else f"{sqlite.url}.elsewhere"
    usage.configure(url, enabled=True, user_id_type="integer", flush_interval=3600, strict=True)
    engine, bought = wrapped(lite), []
    for begin in (lambda: Session(engine), engine.connect):
        with begin() as place:
            bought.append(buy(place))
            place.commit()
            buy(place)
            place.rollback()
    assert rows(lite) == bought
    with lite.connect() as connection:
        waiting = connection.scalar(sa.text("SELECT count(*) FROM feature_usage_outbox"))
    expected = (2 if wrapped is not Handed else 1) if has_outbox else 0
    assert (waiting, usage.stats().captured) == (expected, 2 - expected)


def test_an_object_that_is_only_added_has_begun_a_transaction(lite, captured):
    with Session(lite) as session:
        number = next(numbers)
        session.add(Purchase(id=number))
        usage.track("purchase", commit=session, user=number)
        session.commit()
    assert agree(lite, captured, number)


def test_a_use_by_a_hook_takes_few_calls(sqlite, lite):
    """By count, since seconds depend on the machine: a use that waits for its commit beside one that does not."""
    schema.create_all(lite)
    usage.configure(f"{sqlite.url}.elsewhere", enabled=True)

    def calls(is_bound):
        found = []

        def note(frame, event, _):
            if event == "call" and f"{usage.__name__}/capture" in frame.f_code.co_filename:
                found.append(frame.f_code.co_name)

        with Session(lite) as session:
            session.begin()
            sys.setprofile(note)
            try:
                usage.track("purchase", commit=session if is_bound else None)
                session.commit()
            finally:
                sys.setprofile(None)
        return len(found)

    for _ in range(2):  # what is found out once
        without, bound = calls(False), calls(True)
    assert bound - without <= 8


def test_a_session_that_has_nothing_to_write_commits_without_its_database(sqlite, lite, make):
    schema.create_all(lite, user_id_type="integer")
    tracker = make(sqlite, user_id_type="integer")
    engine = sa.create_engine(sqlite.url)

    @sa.event.listens_for(engine, "do_connect")
    def refuse(*_):
        raise ZeroDivisionError

    with Session(engine) as session:
        session.begin()
        tracker.track("purchase", commit=session)
        session.commit()
        assert tracker.stats().captured == 1
        session.add(Purchase(id=1))
        tracker.track("purchase", commit=session)
        with pytest.raises(ZeroDivisionError):
            session.commit()
    assert tracker.stats().captured == 1


def test_what_an_engine_is_told_later_holds_at_the_next_use(lite, captured):
    with Session(lite) as session:
        buy(session)
        session.commit()
    lite.update_execution_options(isolation_level="AUTOCOMMIT")
    with Session(lite) as session:
        session.begin()
        usage.track("purchase", commit=session)
        session.rollback()
    assert captured.count("purchase") == 2
    assert len(captured.complaints) == 1


def test_an_engine_keeps_no_options_of_a_connection(lite, captured):
    class Tenant:
        pass

    tenant = Tenant()
    found = weakref.ref(tenant)
    with lite.connect().execution_options(tenant=tenant) as connection:
        buy(connection)
        connection.commit()
    assert len(captured.uses) == 1
    del tenant, connection
    gc.collect()
    assert found() is None


def test_an_exception_out_of_the_block_counts_nothing(engine, captured):
    with pytest.raises(ZeroDivisionError), Session.begin(Session(engine)) as transaction:
        buy(transaction.session)
        _ = 1 / 0
    with sessionmaker(engine).begin() as session:
        kept = buy(session)
    assert agree(engine, captured, kept)


def test_a_savepoint_that_is_rolled_back_takes_its_uses_along(engine, captured):
    with Session(engine) as session:
        before = buy(session)
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            buy(session)
            with session.begin_nested():
                buy(session)  # released, and rolled back with the outer one
            _ = 1 / 0
        with session.begin_nested():
            inside = buy(session)
            with session.begin_nested():
                deep = buy(session)
            assert captured.uses == []
        after = buy(session)
        session.commit()
    assert agree(engine, captured, before, inside, deep, after)


def test_released_savepoints_go_with_the_transaction(engine, captured):
    with Session(engine) as session:
        with session.begin_nested():
            buy(session)
        session.rollback()
        buy(session)
        session.begin_nested()
        buy(session)
        session.rollback()  # of the savepoint, and all around it
        session.begin_nested()
        kept = buy(session)
        session.commit()  # of both
    assert agree(engine, captured, kept)


def test_a_commit_that_the_database_refuses_counts_nothing(deferring, captured):
    with Session(deferring) as session:
        buy(session, of=-1)
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
        session.rollback()
        kept = buy(session)
        session.commit()
    assert agree(deferring, captured, kept)


def test_a_flush_that_fails_counts_nothing(lite, captured):
    with Session(lite) as session:
        number = buy(session)
        session.add(Purchase(id=number))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
        usage.track("purchase", commit=session)  # the transaction is lost, and waits for its rollback
        session.rollback()
        kept = buy(session)
        session.commit()
    assert agree(lite, captured, kept)


def test_two_phases(mariadb, captured):
    engine = mariadb.engine()
    Base.metadata.create_all(engine)
    with Session(engine, twophase=True) as session:
        kept = buy(session)
        session.prepare()
        assert captured.uses == []
        session.commit()
        buy(session)
        session.prepare()
        session.rollback()
    with engine.connect() as connection:
        with connection.begin_twophase() as transaction:
            also = buy(connection)
            transaction.prepare()
        with connection.begin_twophase() as transaction:
            buy(connection)
            transaction.prepare()
            transaction.rollback()
    assert agree(engine, captured, kept, also)


def test_hooks_of_the_host_around_the_commit(lite, captured):
    seen = []
    with Session(lite) as session:

        @sa.event.listens_for(session, "before_commit")
        def before(session):
            usage.track("before", commit=session)

        @sa.event.listens_for(session, "after_commit")
        def after(session):
            seen.append(captured.names)
            usage.track("after", commit=session)  # which has committed
            raise ZeroDivisionError

        buy(session)
        with pytest.raises(ZeroDivisionError):
            session.commit()
    assert seen == [["purchase", "before"]]
    assert captured.names == ["purchase", "before", "after"]
    assert rows(lite)


def test_a_listener_behind_the_commit_may_be_the_first_to_capture(lite, captured):
    with Session(lite) as session:
        sa.event.listen(session, "after_commit", lambda session: usage.track("after", commit=session))
        with session.begin_nested():
            session.execute(sa.insert(Purchase).values(id=next(numbers)))
        assert captured.uses == [], "only a savepoint is released"
        session.commit()
        assert captured.names == ["after"]
        assert captured.count("after") == 2
        session.begin_nested()
        session.rollback()
    assert captured.count("after") == 2


def test_a_listener_may_begin_the_next_transaction_before_ours_sees_the_end(lite, captured):
    def begin(session, transaction):
        if transaction.parent is None and not session.info:
            session.info["has_begun"] = session.begin()
            usage.track("next", commit=session)

    sa.event.listen(Session, "after_transaction_end", begin, insert=True)
    try:
        for number, end in enumerate(("commit", "rollback"), 1):
            with Session(lite) as session:
                buy(session)
                getattr(session, end)()
                session.commit()
            assert (captured.count("purchase"), captured.count("next")) == (1, number)
    finally:
        sa.event.remove(Session, "after_transaction_end", begin)


def test_async_sessions(database, captured):
    async def run():
        engine = create_async_engine(database.async_url)
        begin_by_hand(engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        numbered = []

        async def buy(place):
            numbered.append(next(numbers))
            await place.execute(sa.insert(Purchase).values(id=numbered[-1]))
            await usage.atrack("purchase", commit=place, user=numbered[-1])
            return numbered[-1]

        async with AsyncSession(engine) as session:
            await buy(session)
            await session.rollback()
            first = await buy(session)
            savepoint = await session.begin_nested()
            await buy(session)
            await savepoint.rollback()
            assert captured.uses == []
            await session.commit()
            await buy(session)
        async with engine.connect() as connection:
            second = await buy(connection)
            nested = await connection.begin_nested()
            await buy(connection)
            await nested.rollback()
            await connection.commit()
            await buy(connection)
        scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        third = await buy(scoped)
        await scoped.commit()
        await scoped.remove()
        await engine.dispose()
        return first, second, third

    bought = asyncio.run(run())
    engine = database.engine()
    assert agree(engine, captured, *bought)


def test_scoped_sessions(lite, captured):
    scoped = scoped_session(sessionmaker(lite))
    kept = buy(scoped)
    scoped.commit()
    buy(scoped)
    scoped.remove()
    assert agree(lite, captured, kept)


def test_threads_have_transactions_of_their_own(lite, captured):
    barrier = threading.Barrier(8, timeout=30)
    kept = []

    def work(number):
        with Session(lite) as session:
            session.begin()
            usage.track("purchase", commit=session, user=number)
            barrier.wait()
            if number % 2:
                session.commit()
                kept.append(number)
            else:
                session.rollback()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(captured) == sorted(kept) == [1, 3, 5, 7]


@pytest.mark.parametrize("mode", ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"])
def test_a_session_within_a_transaction_of_the_hosts_follows_that(lite, captured, mode):
    with lite.connect() as connection:
        for ends_well in (False, True):
            outer = connection.begin()
            with Session(bind=connection, join_transaction_mode=mode) as session:
                number = buy(session)
                session.commit()
            if outer.is_active:
                assert captured.uses == []
                outer.commit() if ends_well else outer.rollback()
            else:
                assert mode == "control_fully"
                assert counted(captured)[-1] == number
    assert rows(lite) == counted(captured)


def test_a_session_with_a_connection_for_some_classes_follows_its_transaction_too(lite, captured):
    with lite.connect() as connection:
        for ends_well in (False, True):
            outer = connection.begin()
            with Session(binds={Purchase: connection}) as session:
                buy(session)
                session.commit()
            assert captured.uses == []
            outer.commit() if ends_well else outer.rollback()
    assert rows(lite) == counted(captured) != []


@pytest.mark.parametrize("ends_well", [False, True])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_session_that_has_not_begun_follows_the_transaction_of_its_connection(lite, captured, earlier, ends_well):
    with lite.connect() as connection, Session(connection) as session:
        outer = connection.begin()
        if earlier:
            session.execute(sa.insert(Purchase).values(id=next(numbers)))
            session.commit()
        usage.track("purchase", commit=session)
        assert captured.uses == []
        outer.commit() if ends_well else outer.rollback()
    assert captured.count("purchase") == int(ends_well)
    assert captured.complaints == []


def test_a_call_that_rolls_back_within_a_transaction_of_the_hosts_counts_nothing(lite, captured):
    @tracks("purchase", commit="session")
    def purchase(session):
        session.execute(sa.insert(Purchase).values(id=next(numbers)))
        session.rollback()

    with lite.begin() as connection:
        purchase(Session(connection, join_transaction_mode="create_savepoint"))
    assert rows(lite) == counted(captured) == []


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only", "control_fully"])
@pytest.mark.parametrize("reads", [False, True])
def test_a_call_that_commits_within_a_transaction_of_the_hosts_follows_that(lite, captured, mode, reads):
    @tracks("purchase", commit="session", user_arg="number")
    def purchase(session, number, outer, end):
        session.execute(sa.insert(Purchase).values(id=number))
        session.commit()
        if end and outer.is_active:
            getattr(outer, end)()
        if reads:
            session.execute(sa.select(Purchase))

    with lite.connect() as connection:
        for end in ("rollback", "commit"):
            for within in (False, True):
                outer = connection.begin()
                session = Session(bind=connection, join_transaction_mode=mode)
                purchase(session, next(numbers), outer, end if within else None)
                if outer.is_active:
                    getattr(outer, end)()
                session.close()
    assert sorted(rows(lite)) == sorted(counted(captured))
    assert len(rows(lite)) == (4 if mode == "control_fully" else 2)


def test_a_listener_behind_the_commit_within_a_transaction_of_the_hosts_follows_that(lite, captured):
    with lite.connect() as connection:
        for ends_well in (False, True):
            outer = connection.begin()
            with Session(bind=connection) as session:
                sa.event.listen(session, "after_commit", lambda session: usage.track("after", commit=session))
                session.execute(sa.insert(Purchase).values(id=next(numbers)))
                session.commit()
            assert captured.uses == []
            outer.commit() if ends_well else outer.rollback()
    assert captured.names == ["after"]


# ---- connections


def test_connections(engine, captured):
    with engine.connect() as connection:
        first = buy(connection)  # begun by its statement
        assert captured.uses == []
        connection.commit()
        buy(connection)
        connection.rollback()
        with connection.begin():
            second = buy(connection)
        with pytest.raises(ZeroDivisionError), connection.begin():
            buy(connection)
            _ = 1 / 0
        buy(connection)  # closed without a commit
    with engine.begin() as connection:
        third = buy(connection)
    assert agree(engine, captured, first, second, third)


def test_savepoints_of_connections(engine, captured):
    with engine.begin() as connection:
        before = buy(connection)
        with pytest.raises(ZeroDivisionError), connection.begin_nested():
            buy(connection)
            with connection.begin_nested():
                buy(connection)
            _ = 1 / 0
        with connection.begin_nested(), connection.begin_nested():
            deep = buy(connection)
        outer = connection.begin_nested()
        connection.begin_nested()
        buy(connection)
        with pytest.warns(sa.exc.SAWarning, match="deassociated"):
            outer.rollback()  # before the savepoint within
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        with connection.begin_nested():
            buy(connection)
        _ = 1 / 0
    with engine.begin() as connection:
        connection.begin_nested()
        last = buy(connection)  # COMMIT takes the open savepoint along
    assert agree(engine, captured, before, deep, last)


def test_a_commit_of_a_connection_that_the_database_refuses_counts_nothing(deferring, captured):
    with deferring.connect() as connection:
        buy(connection, of=-1)
        with pytest.raises(sa.exc.IntegrityError):
            connection.commit()
    deferring.dispose()  # SQLAlchemy hands the connection back to the pool without a ROLLBACK
    with deferring.connect() as connection:
        kept = buy(connection)
        connection.commit()
    assert agree(deferring, captured, kept)


def test_transactions_stay_what_they_are(lite, captured):
    with lite.connect() as connection:
        transaction = connection.begin()
        buy(connection)
        assert isinstance(transaction, sa.RootTransaction)
        assert type(transaction).__name__ == "RootTransaction"
        transaction.commit()
        transaction.close()  # which changes nothing
        with pytest.raises(sa.exc.InvalidRequestError):
            transaction.commit()
        assert type(connection.begin()) is sa.RootTransaction  # no use in it


OPERATIONS = st.lists(
    st.sampled_from(["buy", "buy", "begin", "release", "back", "commit", "rollback", "close"]), max_size=14
)


@pytest.mark.parametrize("kind", [Session, sa.Connection])
@given(operations=OPERATIONS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_the_uses_are_the_rows(lite, kind, operations):
    with lite.begin() as connection:
        connection.execute(sa.delete(Purchase))
    with capture_usage() as captured, kind(lite) as place:
        savepoints = []
        for operation in operations:
            if operation == "buy":
                buy(place)
            elif operation == "begin":
                savepoints.append(place.begin_nested())
            elif operation in ("release", "back"):
                if savepoints:
                    savepoint = savepoints.pop()
                    savepoint.commit() if operation == "release" else savepoint.rollback()
            elif operation == "close" and kind is sa.Connection:
                continue
            else:
                getattr(place, operation)()
                savepoints.clear()
        place.rollback()
        assert rows(lite) == counted(captured)


# ---- no transaction


def test_without_a_transaction_a_use_counts_at_once_and_the_log_says_so_once(lite, caplog):
    schema.create_all(lite)
    usage.configure(lite.url)
    with Session(lite) as session:
        usage.track("purchase", commit=session)
        usage.track("purchase", commit=session)
        session.rollback()
    with lite.connect() as connection:
        usage.track("purchase", commit=connection)
    assert usage.flush()
    assert usage.count(None, "purchase") == 3
    assert [record.message for record in caplog.records] == [
        "commit= of 'purchase' finds no open transaction, so the use counts at once: call it between begin and commit"
    ]


def test_where_each_statement_commits_a_use_counts_at_once(lite, captured):
    engines = (
        lite.execution_options(isolation_level="AUTOCOMMIT"),
        sa.create_engine(lite.url, isolation_level="AUTOCOMMIT"),
    )
    for engine in engines:
        with engine.connect() as connection:
            connection.execute(sa.select(1))
            usage.track("purchase", commit=connection)
        with Session(engine) as session:
            session.begin()
            usage.track("purchase", commit=session)
        engine.dispose()
    with Session(lite) as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        usage.track("purchase", commit=session)
        session.rollback()
    assert captured.count("purchase") == len(captured.complaints) == 5


def test_strict_counts_it_and_raises(lite):
    with capture_usage(strict=True) as captured, Session(lite) as session:
        with pytest.raises(UsageInstrumentError, match="no open transaction"):
            usage.track("purchase", commit=session)
        assert captured.count("purchase") == 1
        assert captured.rejected == []


@pytest.mark.parametrize("commit", [3, object(), b"default", sa.create_engine("sqlite://"), lambda: None])
def test_what_is_no_transaction_raises_at_once(captured, commit):
    with pytest.raises(TypeError, match="a Session or Connection of SQLAlchemy"):
        usage.track("purchase", commit=commit)
    with pytest.raises(DeclarationError, match=f"not {type(commit).__name__}"):
        asyncio.run(usage.atrack("purchase", commit=commit))
    assert captured.uses == []


def test_what_leads_to_a_session_raises_and_names_it(lite, captured):
    with Session(lite) as session, lite.connect() as connection:
        for commit, instead in (
            (sessionmaker(lite), "a session that it has made"),
            (async_sessionmaker(), "a session that it has made"),
            (session.begin(), "its `.session`"),
            (connection.begin(), "its `.connection`"),
            (lite, "a Connection of its `begin()`"),
            (SQLAlchemy(), "its `.session`"),
        ):
            with pytest.raises(DeclarationError) as raised:
                usage.track("purchase", commit=commit)
            assert str(raised.value).endswith(f"not {type(commit).__name__}: pass {instead}")
    assert captured.uses == []


def test_an_unknown_alias_raises_at_once(captured):
    with pytest.raises(ValueError, match="commit='nowhere' is no database of Django"):
        usage.track("purchase", commit="nowhere")
    with pytest.raises(ConfigurationError):
        usage.track("purchase", commit="")


def test_paused_captures_keep_nothing(lite, captured):
    with Session(lite) as session, usage.paused():
        session.begin()
        usage.track("purchase", commit=session)
        session.commit()
    assert captured.uses == []


# ---- the moment of the call


def test_the_user_the_metadata_and_the_rule_are_those_of_the_call(lite):
    context = []
    schema.create_all(lite, user_id_type="integer")

    def rule(use):
        context.append(use.at)
        return use._replace(metadata={**use.metadata, "rule": True})

    usage.configure(lite.url, user_id_type="integer", before_track=rule)
    basket = {"items": [1]}
    with Session(lite) as session:
        session.begin()
        with usage.as_user(7):
            usage.track("purchase", commit=session, metadata=basket)
        assert len(context) == 1
        assert abs(context[0] / 1e6 - time.time()) < 60
        basket["items"].append(2)
        with usage.as_user(8):
            session.commit()
    assert len(context) == 1
    assert usage.flush()
    [found] = usage.user_features(7)
    assert (found.usage_count, found.metadata) == (1, {"items": [1], "rule": True})
    assert usage.stats().captured == usage.stats().written == 1


def test_a_bad_user_is_rejected_at_the_call(lite, captured):
    with Session(lite) as session:
        session.begin()
        usage.track("purchase", commit=session, user=object())
        assert [rejected.feature for rejected in captured.rejected] == ["purchase"]
        session.commit()
    assert captured.uses == []


def test_strict_checks_at_the_call(lite):
    schema.create_all(lite, user_id_type="integer")
    usage.configure(lite.url, user_id_type="integer", strict=True)
    with Session(lite) as session:
        session.begin()
        with pytest.raises(TypeError):
            usage.track("purchase", commit=session, user="anne")
        session.commit()
    usage.flush()
    assert usage.stats().captured == 0


def test_an_access_is_recorded_whatever_the_transaction_does(lite, captured):
    with Session(lite) as session:
        session.begin()
        usage.track("purchase", commit=session, user=1, audit=True)
        session.rollback()
        session.begin()
        usage.track("purchase", commit=session, user=2, audit=True)
        assert [access.user for access in captured.accesses] == [1, 2]
        session.commit()
    assert counted(captured) == [2]


def test_a_recorder_that_fails_at_the_commit_does_not_reach_the_host(lite, captured, monkeypatch, caplog):
    def hold(use):
        return lambda: 1 / 0

    monkeypatch.setattr(captured, "hold", hold)
    with Session(lite) as session:
        buy(session)
        session.commit()
    assert rows(lite)
    assert "a use could not be recorded when its transaction committed" in caplog.text


def test_listeners_are_there_before_any_use_where_they_can_be():
    """SQLAlchemy forbids to add a listener while another thread runs the event."""
    script = (
        "import {0}\nfrom sqlalchemy import event\nimport usage_instrument as usage\n"
        "from usage_instrument.capture import session_transactions as found\n"
        "{1}\nfrom sqlalchemy.orm import Session\n"
        "print(event.contains(Session, 'after_commit', found._committed))"
    )
    for first, then, expected in (
        ("sqlalchemy.orm", "usage.configure('sqlite:///x.db', enabled=True)", "True"),
        ("sqlalchemy.orm", "usage.tracks('x', commit='session')", "True"),
        ("sqlalchemy", "usage.configure('sqlite:///x.db', enabled=True)", "False"),
        ("sqlalchemy.orm", "", "False"),
    ):
        done = subprocess.run([sys.executable, "-c", script.format(first, then)], capture_output=True, text=True)
        assert (first, then, done.stdout.strip(), done.stderr) == (first, then, expected, "")


# ---- the decorator


def test_the_argument_is_named(lite, captured):
    @tracks("purchase", commit="session", user_arg="number")
    def purchase(number, session, *, fail=False):
        session.execute(sa.insert(Purchase).values(id=number))
        if fail:
            raise ZeroDivisionError
        return number

    with Session(lite) as session:
        kept = purchase(next(numbers), session)
        with pytest.raises(ZeroDivisionError):
            purchase(next(numbers), session=session, fail=True)
        assert captured.uses == []
        session.rollback()
        kept = purchase(next(numbers), session=session)
        session.commit()
    assert agree(lite, captured, kept)


def test_what_ends_within_the_call_decides(lite, captured):
    """A form that is refused and drawn again, a commit whose row is read again, and one that is retried."""

    @tracks("purchase", commit="session", user_arg="number")
    def purchase(number, session, outcomes):
        for outcome in outcomes:
            session.execute(sa.insert(Purchase).values(id=number))
            getattr(session, outcome)()
        return session.scalar(sa.select(sa.func.count()).select_from(Purchase))

    expected = []
    for outcomes, counts in (("commit",), True), (("rollback",), False), (("rollback", "commit"), True):
        number = next(numbers)
        with Session(lite) as session:
            purchase(number, session, outcomes)
            expected += [number] * counts
            assert counted(captured) == expected
            session.rollback()
    assert agree(lite, captured, *expected)
    with lite.connect() as connection:
        for outcomes, counts in (("commit",), True), (("rollback",), False):
            number = next(numbers)
            connection.begin()
            purchase(number, connection, outcomes)
            expected += [number] * counts
            connection.rollback()
    assert agree(lite, captured, *expected)
    assert captured.complaints == []


def test_methods_classes_coroutines_and_generators(lite, captured):
    class Shop:
        def __init__(self, session):
            self.session = session

        @tracks("method", commit=lambda self, *_: self.session)
        def purchase(self, number):
            self.session.begin()
            return number

    @tracks("class", commit="session")
    class Order:
        def __init__(self, session):
            self.session = session

    @tracks("coroutine", commit="session")
    async def later(session):
        return 1

    @tracks("generator", commit="session")
    def pieces(session):
        yield 1

    @tracks("call", commit="session", when="call")
    def called(session):
        pass

    @tracks("audited", commit="session", audit=True)
    def audited(session):
        pass

    def use(session):
        Shop(session).purchase(1)
        Order(session)
        asyncio.run(later(session))
        list(pieces(session))
        called(session)
        audited(session)

    with Session(lite) as session:
        use(session)
        session.rollback()
        assert captured.uses == []
        use(session)
        session.commit()
    assert captured.names == ["method", "class", "coroutine", "generator", "call", "audited"]
    assert len(captured.uses) == 6
    assert len(captured.accesses) == 2


def test_scoped_sessions_of_a_declaration(lite, captured):
    scoped = scoped_session(sessionmaker(lite))

    @tracks("purchase", commit=scoped)
    def purchase(outcome):
        scoped.execute(sa.insert(Purchase).values(id=next(numbers)))
        getattr(scoped, outcome)()

    purchase("rollback")
    assert captured.uses == []
    purchase("commit")
    scoped.remove()
    assert captured.count("purchase") == len(rows(lite)) == 1


def test_a_call_without_a_session_counts_and_one_with_something_else_is_rejected(captured):
    @tracks("purchase", commit="session")
    def purchase(session=None):
        return 1

    assert purchase() == 1
    assert captured.count("purchase") == 1
    assert purchase(3) == 1
    assert captured.count("purchase") == 1
    assert [type(rejected.error) for rejected in captured.rejected] == [DeclarationError]


def test_declarations_that_cannot_work(monkeypatch):
    monkeypatch.delitem(sys.modules, "django", raising=False)  # in whose settings any name may come up later

    def purchase(session): ...

    async def find(session): ...

    for commit, error in (("sesion", DeclarationError), (3, DeclarationError), (find, DeclarationError)):
        with pytest.raises(error):
            tracks("purchase", commit=commit)(purchase)
    with pytest.raises(ConfigurationError, match="when='failure'"):
        tracks("purchase", commit="session", when="failure")


def test_a_declaration_is_pickled_with_its_option():
    assert pickle.loads(pickle.dumps(tracks("purchase", commit="session"))).commit == "session"
