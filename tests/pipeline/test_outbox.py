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
from usage_instrument.errors import ConfigurationError
from usage_instrument.pipeline import host_connections
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


def flush():
    """Within a minute: a busy machine may take longer than the usual five seconds."""
    return usage.flush(60)


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
    assert flush()
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
    assert flush()
    assert counts(engine, tables) == {("purchase", 1): 1, ("purchase", 2): 1}


def test_a_session_of_another_database_takes_the_hook_and_says_so(tables, engine, tmp_path, caplog):
    other = shop.begin_by_hand(sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}"))
    shop.PURCHASES.create(other)
    usage.configure(engine, user_id_type="integer", flush_interval=3600, strict=True)
    bought = []
    for _ in range(2):
        with Session(other) as session:
            bought.append(buy(session))
            [record] = [record for record in caplog.records if "commit= finds a transaction in" in record.message]
            session.commit()
        assert f"other.db, and the tables are in {engine.dialect.name}" in record.message.replace("mysql", "mariadb")
    other.dispose()
    assert rows(engine, tables) == []
    assert flush()
    assert counts(engine, tables) == {("purchase", number): 1 for number in bought}


def test_a_database_that_no_url_names_is_the_configured_one_only_by_its_engine(postgresql, caplog):
    """Such as engines with a `creator`: two such URLs are alike."""
    tables = made(postgresql.engine(), user_id_type="integer")
    connect = postgresql.engine().raw_connection().driver_connection.__class__.connect
    text = postgresql.engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
    configured, other, memory = (
        sa.create_engine("postgresql+psycopg://", creator=lambda: connect(text)),
        sa.create_engine("postgresql+psycopg://", creator=lambda: connect(text)),
        sa.create_engine("sqlite://"),
    )
    usage.configure(configured, user_id_type="integer", flush_interval=3600)
    for number, engine in enumerate((configured, configured.execution_options(a=1), other, memory)):
        with engine.begin() as connection:
            usage.track("look", commit=connection, user=number)
        engine.dispose()
    assert rows(postgresql.engine(), tables) == [0, 1]
    assert caplog.text.count("commit= finds a transaction in a database that its URL does not name") == 1


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
    assert flush()
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
        assert flush()
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
    assert flush()
    assert counts(engine, tables) == {("purchase", first): 1, ("purchase", second): 1}
    assert [row.id for row in all_of(engine, shop.PURCHASES)] == [first, second]
    assert caplog.text.count("uses with commit= are recorded after the commit") == 1


def test_a_table_that_an_upgrade_makes_is_used_at_once(engine, tables, tracker):
    tables.outbox.drop(engine)
    usage.track("search", user=7)
    assert flush(), "the writer has looked for the table"
    tables.outbox.create(engine)
    with Session(engine) as session:
        buyer = buy(session)
        session.commit()
    assert rows(engine, tables) == [buyer]
    assert flush()
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


def test_a_database_that_refuses_what_it_took_leaves_the_commit_alone(engine, tables, tracker):
    with Session(engine) as session:
        first = buy(session)
        session.commit()
        tables.outbox.drop(engine)
        second = buy(session)
        session.commit()
        last = buy(session)
        session.commit()
    assert [row.id for row in all_of(engine, shop.PURCHASES)] == [first, second, last]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "psycopg_async", "asyncpg"])
@pytest.mark.parametrize("uses", [1, 2])
def test_a_role_that_may_not_insert_fails_no_commit(postgresql, driver, uses):
    """It is set within a transaction, as row-level security wants it, after an INSERT that the database took."""
    role = f"app_{uuid.uuid4().hex[:12]}"
    tables = made(postgresql.engine(), user_id_type="integer")
    shop.PURCHASES.create(postgresql.engine())
    with postgresql.engine().begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role}")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT ON purchases TO {role}")
    url = postgresql.engine().url.set(drivername=f"postgresql+{driver}")
    usage.configure(postgresql.url, user_id_type="integer", flush_interval=3600)
    bought, sent = [], []

    def run(host):
        for statement in ("SELECT 1", f"SET LOCAL ROLE {role}", "SET TRANSACTION READ ONLY"):
            with Session(host) as session, session.begin():
                session.execute(sa.text(statement))
                if not statement.endswith("READ ONLY"):
                    bought.append(next(numbers))
                    session.execute(shop.PURCHASES.insert().values(id=bought[-1]))
                for _ in range(uses):
                    usage.track("purchase", commit=session, user=7)
            sent.append(len(all_of(postgresql.engine(), tables.outbox)))

    async def arun():
        host = create_async_engine(url, poolclass=sa.NullPool)
        async with AsyncSession(host) as session:
            await session.run_sync(lambda session: run(session.bind))

    try:
        if driver in {"psycopg_async", "asyncpg"}:
            asyncio.run(arun())
        else:
            run(sa.create_engine(url, poolclass=sa.NullPool))
    finally:
        with postgresql.engine().begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
    assert sent[0] == uses, "before a role is set, the use is a row"
    assert [row.id for row in all_of(postgresql.engine(), shop.PURCHASES)] == bought
    assert flush()
    assert counts(postgresql.engine(), tables) == {("purchase", 7): 3 * uses}


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "psycopg_async", "asyncpg"])
@pytest.mark.parametrize("uses", [0, 1, 2])
def test_a_lost_connection_is_an_error_of_sqlalchemy_as_without_a_use(postgresql, driver, uses):
    made(postgresql.engine(), user_id_type="integer")
    url = postgresql.engine().url.set(drivername=f"postgresql+{driver}")
    usage.configure(postgresql.url, user_id_type="integer", flush_interval=3600)

    def run(session):
        pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
        for _ in range(uses):
            usage.track("purchase", commit=session, user=7)
        with postgresql.engine().connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            while other.scalar(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}
            ):
                pass
        with pytest.raises(sa.exc.DBAPIError) as raised:
            session.commit()
        assert raised.value.connection_invalidated
        if driver != "asyncpg":
            assert isinstance(raised.value, sa.exc.OperationalError)
        session.rollback()
        assert session.scalar(sa.text("SELECT 1")) == 1

    async def arun():
        async with AsyncSession(create_async_engine(url, poolclass=sa.NullPool)) as session:
            await session.run_sync(run)

    if driver in {"psycopg_async", "asyncpg"}:
        asyncio.run(arun())
    else:
        with Session(sa.create_engine(url, poolclass=sa.NullPool)) as session:
            run(session)
    assert usage.stats().captured == 0


@pytest.mark.parametrize("uses", [1, 2])
def test_a_transaction_that_postgresql_has_aborted_counts_nothing(postgresql, uses):
    """Its COMMIT rolls back, and the driver does not report that."""
    engine = postgresql.engine()
    shop.PURCHASES.create(engine)
    tables = made(engine, user_id_type="integer")
    usage.configure(engine, user_id_type="integer", flush_interval=3600)
    with engine.connect() as connection:
        for _ in range(uses):
            buy(connection)
        with pytest.raises(sa.exc.ProgrammingError):
            connection.exec_driver_sql("SELECT nonsense")
        connection.commit()
    assert all_of(engine, shop.PURCHASES) == []
    assert flush()
    assert counts(engine, tables) == {}


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_value_that_the_driver_refuses_leaves_the_commit_alone(postgresql, driver, monkeypatch):
    """Before it has sent anything: no savepoint is there to be rolled back, and to try that would abort."""
    shop.PURCHASES.create(postgresql.engine())
    tables = made(postgresql.engine(), user_id_type="integer")
    usage.configure(postgresql.url, user_id_type="integer", flush_interval=3600)
    monkeypatch.setattr(outbox_module.Outbox, "_row", lambda outbox, use: use._replace(metadata="\0"))
    url = postgresql.engine().url.set(drivername=f"postgresql+{driver}")
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        bought = buy(connection)
    assert len(all_of(postgresql.engine(), shop.PURCHASES)) == 1
    assert flush()
    assert counts(postgresql.engine(), tables) == {("purchase", bought): 1}


def test_a_role_that_may_not_insert_does_not_inherit_the_trust_in_another(postgresql):
    engine, role = postgresql.engine(), f"app_{uuid.uuid4().hex[:12]}"
    shop.PURCHASES.create(engine)
    tables = made(engine, user_id_type="integer")
    usage.configure(engine, user_id_type="integer", flush_interval=3600)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT ON purchases TO {role}")
    theirs = sa.create_engine(postgresql.engine().url.set(username=role, password="secret"), poolclass=sa.NullPool)
    try:
        with Session(engine) as granted, Session(theirs) as session:
            for place in (granted, session, granted):
                bought = buy(place)
                place.commit()
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
    assert [row.id for row in all_of(engine, shop.PURCHASES)] == [bought - 2, bought - 1, bought]
    assert rows(engine, tables) == [bought - 2, bought]
    assert flush()
    assert counts(engine, tables) == {("purchase", number): 1 for number in (bought - 2, bought - 1, bought)}


def test_a_transaction_that_is_read_only_takes_the_hook(postgresql, caplog):
    engine = postgresql.engine()
    tables = made(engine, user_id_type="integer")
    usage.configure(engine, user_id_type="integer", flush_interval=3600)
    for number, read_only in enumerate((False, True, False)):
        with engine.connect() as connection:
            connection.execution_options(postgresql_readonly=read_only)
            connection.execute(sa.text("SELECT 1"))
            usage.track("read", commit=connection, user=number)
            connection.commit()
    assert rows(engine, tables) == [0, 2]
    assert flush()
    assert counts(engine, tables) == {("read", number): 1 for number in range(3)}
    assert "db upgrade" not in caplog.text


@pytest.mark.parametrize("uses", [1, 2])
def test_a_deadlock_of_the_insert_fails_the_commit(mariadb, uses):
    """It has rolled the whole transaction back: a COMMIT would succeed without the host's rows."""
    engine = mariadb.engine()
    shop.PURCHASES.create(engine)
    made(engine, user_id_type="integer")
    usage.configure(engine, user_id_type="integer", flush_interval=3600)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE locks (id INT PRIMARY KEY, n INT) ENGINE = InnoDB")
        connection.exec_driver_sql(f"INSERT INTO locks VALUES {','.join(f'({number}, 0)' for number in range(500))}")
        connection.exec_driver_sql(
            "CREATE TRIGGER waits BEFORE INSERT ON feature_usage_outbox FOR EACH ROW "
            "UPDATE locks SET n = 2 WHERE id = 2"
        )

    def lock_the_first(other):
        other.exec_driver_sql("UPDATE locks SET n = 3 WHERE id = 1")
        other.rollback()

    with engine.connect() as other, Session(engine) as session:
        other.exec_driver_sql("UPDATE locks SET n = 3 WHERE id > 1")  # many rows: InnoDB takes the lighter one back
        session.execute(sa.text("UPDATE locks SET n = 1 WHERE id = 1"))
        for _ in range(uses):
            buy(session)
        thread = threading.Thread(target=lock_the_first, args=(other,))
        thread.start()
        with pytest.raises(sa.exc.OperationalError) as raised:
            session.commit()
        thread.join()
        session.rollback()
    assert raised.value.orig.args[0] == 1213
    assert all_of(engine, shop.PURCHASES) == []
    assert flush()
    assert usage.stats().captured == 0


_REFUSING = {
    "sqlite": "BEGIN SELECT RAISE(ABORT, 'refused') WHERE NEW.user_id = -1; END",
    "mysql": "BEGIN IF NEW.user_id = -1 THEN SIGNAL SQLSTATE '45000'; END IF; END",
}


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("which", ["sqlite", "mariadb"])
def test_no_row_stays_if_one_of_several_is_refused(request, which, by_hand, caplog):
    database = request.getfixturevalue(which)
    engine = shop.begin_by_hand(database.engine()) if by_hand else database.engine()
    shop.PURCHASES.create(engine)
    tables = made(engine, user_id_type="integer")
    usage.configure(engine, user_id_type="integer", flush_interval=3600)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuses BEFORE INSERT ON feature_usage_outbox FOR EACH ROW "
            + _REFUSING[engine.dialect.name.replace("mariadb", "mysql")]
        )
    for writes in (True, False):  # before the uses, so that the driver has begun
        with Session(engine) as session:
            session.execute(sa.text("SELECT 1"))
            if writes:
                number = buy(session)
            for user in (1, 2, -1, 3):
                usage.track("page", commit=session, user=user)
            session.commit()
            assert rows(engine, tables) == []
    assert [row.id for row in all_of(engine, shop.PURCHASES)] == [number]
    assert flush()
    assert counts(engine, tables) == {("purchase", number): 1, **{("page", user): 2 for user in (-1, 1, 2, 3)}}
    assert "recorded after its commit" in caplog.text
    assert "db upgrade" not in caplog.text


def test_several_rows_go_with_the_commit_that_the_driver_of_sqlite_puts_off(sqlite):
    """SAVEPOINT begins no transaction for that driver, and the RELEASE of an outermost one is a COMMIT."""
    engine = sqlite.engine()
    tables = made(engine, user_id_type="integer")
    usage.configure(engine, user_id_type="integer", flush_interval=3600)

    def refuse(session):
        raise ZeroDivisionError

    with Session(engine) as session:
        usage.track("page", commit=session, user=1)  # at once
        session.execute(sa.text("SELECT 1"))
        for user in (2, 3):
            usage.track("page", commit=session, user=user)
        sa.event.listen(session, "before_commit", refuse)
        with pytest.raises(ZeroDivisionError):
            session.commit()
        session.rollback()
    assert rows(engine, tables) == []


def test_a_database_that_is_locked_for_a_moment_is_asked_again(sqlite, caplog):
    engine = sa.create_engine(sqlite.url, connect_args={"timeout": 0}, poolclass=sa.NullPool)
    tables = made(sqlite.engine(), user_id_type="integer")
    usage.configure(sqlite.url, user_id_type="integer", flush_interval=3600)

    def look(user):
        with Session(engine) as session:
            session.execute(sa.text("SELECT 1"))
            usage.track("look", commit=session, user=user)
            session.commit()

    with engine.connect() as writer:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        look(1)
    look(2)
    assert rows(engine, tables) == [2]
    assert flush()
    assert counts(engine, tables) == {("look", 1): 1, ("look", 2): 1}
    assert "recorded after its commit, not with it: OperationalError: database is locked" in caplog.text
    assert "db upgrade" not in caplog.text


@pytest.mark.parametrize("error", [UnicodeError("refused"), OverflowError("refused"), ConfigurationError("refused")])
@pytest.mark.parametrize("uses", [1, 2])
def test_no_exception_but_the_database_s_reaches_the_commit(engine, tables, tracker, monkeypatch, error, uses):
    def refuse(*_):
        raise error

    with Session(engine) as session:
        bought = [buy(session)]
        session.commit()  # PostgreSQL is trusted from here on
        if isinstance(error, ConfigurationError):
            monkeypatch.setattr(tracker._outbox, "_engines", {})
            monkeypatch.setattr(tracker._outbox._backend, "tables", refuse)
        else:
            monkeypatch.setattr(host_connections.SqlAlchemyConnection, "execute", refuse)
        bought += [buy(session) for _ in range(uses)]
        session.commit()
    monkeypatch.undo()
    assert [row.id for row in all_of(engine, shop.PURCHASES)] == bought
    assert flush()
    assert counts(engine, tables) == {("purchase", number): 1 for number in bought}


def test_a_use_that_the_rule_drops_leaves_the_commit_alone(engine, tables):
    usage.configure(engine, user_id_type="integer", flush_interval=3600, before_track=lambda use: None)
    with Session(engine) as session:
        number = buy(session)
        session.commit()
    assert [row.id for row in all_of(engine, shop.PURCHASES)] == [number]
    assert flush()
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
    assert flush()
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
    flush()
    assert usage.stats().outbox_pending == 1
    with users.engine.begin() as connection:
        connection.execute(users.users.insert().values(id=late, name="late"))
    usage._default.tracker()._pipeline.look_into_outbox()
    assert flush()
    assert counts(users.engine, tables) == {("purchase", late): 1}


def test_rows_of_users_who_are_not_there_yet_do_not_hold_up_those_behind(database):
    users = with_users(database)
    tables = define_tables(users.users.metadata, users=users.users)
    tables.usage.metadata.create_all(users.engine)
    usage.configure(users.engine, tables=tables, flush_interval=3600, flush_rows=2)
    known = users.user_ids[0]
    late = [uuid.UUID(int=number) for number in range(1, 6)]
    with users.engine.connect() as connection:
        connection.begin()
        for user in (*late[:3], known, *late[3:], known):
            usage.track("purchase", commit=connection, user=user)
        connection.commit()
    usage.flush(60)
    assert counts(users.engine, tables) == {("purchase", known): 2}
    assert (usage.stats().written, usage.stats().outbox_pending) == (2, 5)
    with users.engine.begin() as connection:
        connection.execute(users.users.insert(), [{"id": user, "name": "late"} for user in late])
    assert usage.flush(60)
    assert usage.stats().outbox_pending == 0
    assert counts(users.engine, tables) == {("purchase", known): 2, **{("purchase", user): 1 for user in late}}


def test_a_flush_sees_what_other_processes_have_committed(sqlite):
    engine = shop.begin_by_hand(sqlite.engine())
    tables = made(engine, user_id_type="integer")
    usage.configure(engine, user_id_type="integer", flush_interval=3600)
    usage.track("search", user=7)
    assert flush()
    with engine.begin() as connection:  # as another process
        connection.execute(
            tables.outbox.insert().values(
                outbox_id=uuid.uuid4(), user_id=8, feature_name="purchase", used_at=dt.datetime(2026, 1, 31)
            )
        )
    assert flush()
    assert counts(engine, tables) == {("search", 7): 1, ("purchase", 8): 1}
    assert usage.stats().outbox_pending == 0


def test_the_export_of_a_user_has_what_waits(users_database):
    tables = made(users_database.engine, users=users_database.users)
    usage.configure(users_database.engine, tables=tables, flush_interval=3600)
    guest = uuid.uuid4()
    with users_database.engine.connect() as connection:
        connection.begin()
        usage.track("purchase", commit=connection, user=guest, count=2, metadata={"basket": 1})
        usage.track("purchase", commit=connection, user=users_database.user_ids[0])
        connection.commit()
    data = usage.export(guest)
    [use] = data["waiting"]
    assert (use["feature_name"], use["uses"], use["metadata"], data["usage"]) == ("purchase", 2, {"basket": 1}, [])
    counted = usage.export(users_database.user_ids[0])
    assert ([use["usage_count"] for use in counted["usage"]], counted["waiting"]) == ([1], [])


def test_erasing_a_user_empties_the_outbox_of_them(engine, tables):
    usage.configure(engine, user_id_type="integer", flush_interval=3600, privacy_key="k" * 40)
    with Session(engine) as session:
        first, second = buy(session), buy(session)
        session.commit()
    receipt = usage.forget(first, force=True)
    assert receipt.deleted.keys() == {
        "feature_usage_outbox", "feature_usage", "feature_usage_history", "feature_usage_exposures",
        "feature_usage_dimensions",
    }  # fmt: skip
    with Session(engine) as session:
        session.begin()
        usage.track("purchase", commit=session, user=first)
        session.commit()
    assert flush()
    assert counts(engine, tables) == {("purchase", second): 1}
    assert all_of(engine, tables.outbox) == []


def test_the_schedule(monkeypatch):
    now = 100.0
    monkeypatch.setattr(outbox_module.time, "monotonic", lambda: now)
    schedule = outbox_module.OutboxSchedule()
    assert not schedule.is_due(None)
    assert not schedule.is_due(None, asked=True)
    schedule.is_asked = True
    assert schedule.is_due(None)
