"""Rollups of the history: answers from them are those of the history, at any time, with any other writers."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from conftest import Database, with_users
from usage_instrument import Settings, Tracker
from usage_instrument import queries as q
from usage_instrument.cli.app import app
from usage_instrument.dashboard.figures import totals
from usage_instrument.database.dialects import get
from usage_instrument.database.engines import connect
from usage_instrument.database.inspection import check
from usage_instrument.database.reflection import find_tables
from usage_instrument.errors import ConfigurationError
from usage_instrument.events import Count
from usage_instrument.pipeline.retention import Retention
from usage_instrument.pipeline.store import Store
from usage_instrument.queries.windows import Moment, window
from usage_instrument.schema import Tables, create_all
from usage_instrument.upgrade import upgrade

DAY = dt.timedelta(days=1)
FEATURES = ["search", "export"]
ROLLUPS = get("postgresql").rollups
SLOW = bool(os.environ.get("USAGE_TEST_EXAMPLES"))
WINDOWS: list[tuple[Moment, Moment]] = [
    (400 * DAY, None),
    (100 * DAY, 40 * DAY),
    (None, 20 * DAY),
    ("2020-02-29", None),
]


def today() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)


def questions(tables: Tables, since: Moment, until: Moment) -> dict[str, Any]:
    """Those that read rollups, if the tables have some."""
    ask: Any = q  # whose overloads do not know whether there is a comparison
    span: dict[str, Any] = {"since": since, "until": until, "tables": tables}
    compared = {} if since is None else {"compare": "previous"}
    return {
        "top": ask.top_features(**span, **compared),
        **{f"trend by {by}": ask.trend(by=by, **span, **compared) for by in ("day", "week", "month")},
        "trend of a feature": ask.trend("search", **span),
        "stickiness": ask.stickiness(**span, **compared),
        "power users": ask.power_users(**span, limit=9),
        **({"adoption": ask.adoption(**span)} if until is None else {}),
        "time to adopt": ask.time_to_adopt("search", **span, **compared),
        **{f"lifecycle by {by}": ask.lifecycle(by=by, **span, **compared) for by in ("week", "month")},
        **{f"retention by {by}": ask.retention(by=by, **span) for by in ("week", "month")},
    }


@dataclass(frozen=True)
class Rolled:
    """A database whose history has rollups."""

    engine: sa.Engine
    tables: Tables
    users: sa.Table | None
    retention: Retention

    @functools.cached_property
    def pairs(self) -> dict[tuple[Moment, Moment], list[tuple[str, Any, Any]]]:
        """By window the questions with rollups and without."""
        plain = replace(self.tables, history_rollups=None)
        return {
            span: [(name, question, expected[name]) for name, question in questions(self.tables, *span).items()]
            for span in WINDOWS
            for expected in [questions(plain, *span)]
        }

    def agree(self, *spans: tuple[Moment, Moment], step: int = 1, first: int = 0) -> None:
        """In one snapshot, each question (or each of so many) has the same answer with the rollups as without."""
        with self.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            for span in spans or WINDOWS[:2]:
                for name, question, expected in self.pairs[span][first % step :: step]:
                    answer = connection.execute(question).all()
                    assert answer == connection.execute(expected).all(), f"{name}, {span}"

    def use(self, user: UUID | None, days_ago: int, feature: str = "search", hour: int = 0) -> None:
        with self.engine.begin() as connection:
            self.add(connection, user, days_ago, feature, hour)

    def add(
        self, connection: sa.Connection, user: UUID | None, days_ago: int, feature: str = "search", hour: int = 0
    ) -> None:
        """As a writer adds it."""
        start = today() - days_ago * DAY + dt.timedelta(hours=hour)
        flush = get("postgresql").flush(connection, self.tables, Settings())
        flush.add_history(connection, [Count(feature, user, 2, start, None, ((start, 2),))])

    def maintain(self) -> int:
        return sum(self.retention.renew_rollups(today() - 500 * DAY))

    def renew(self, connection: sa.Connection, days_ago: int) -> bool:
        return ROLLUPS.renew(connection, self.tables.history, week_of(today() - days_ago * DAY), patiently=False)

    def complete(self) -> set[dt.datetime]:
        rollups = self.tables.rollups
        assert rollups is not None
        with self.engine.connect() as connection:
            return set(connection.scalars(sa.select(rollups.complete.c.week)))


def week_of(day: dt.datetime) -> dt.datetime:
    return max(day - day.weekday() * DAY, day.replace(day=1))


@contextmanager
def rolled(database: Database, *, has_users: bool = True, **options: Any) -> Iterator[Rolled]:
    people = with_users(database) if has_users else None
    engine = database.engine()
    tables = create_all(engine, history_rollups=True, users="auto" if has_users else None, **options).tables
    store = Store(connect(engine), tables, Settings())
    try:
        store.open()
        yield Rolled(engine, tables, None if people is None else people.users, store.retention)
    finally:
        store.dispose()


USERS = [UUID(int=number + 2**64) for number in range(1, 6)]
users = st.none() | st.sampled_from(USERS)
ago = st.integers(0, 14) | st.integers(0, 120) | st.integers(0, 480)
features = st.sampled_from(FEATURES)
actions = st.one_of(
    st.tuples(st.just("use"), users, ago, features, st.sampled_from([0, 0, 5])),
    st.tuples(st.just("use"), users, ago, features, st.sampled_from([0, 0, 5])),
    st.tuples(st.just("maintain")),
    st.tuples(st.just("maintain")),
    st.tuples(st.just("delete users"), st.lists(st.sampled_from(USERS), min_size=1, max_size=2)),
    st.tuples(st.just("erase"), users),
    st.tuples(st.just("merge"), users, users),
    st.tuples(st.just("prune"), st.integers(60, 480)),
    st.tuples(st.just("move"), users, ago),
    st.tuples(st.just("rename"), st.sampled_from(USERS)),
    st.tuples(st.just("truncate")),
)


def act(rolled: Rolled, action: tuple[Any, ...]) -> None:
    history, people = rolled.tables.history, rolled.users
    kind, *given_ = action
    if kind == "maintain":
        rolled.maintain()
        return
    if kind == "prune":
        list(rolled.retention.prune(today() - given_[0] * DAY))
        return
    with rolled.engine.begin() as connection:
        if kind == "use":
            user = given_[0]
            if people is not None and user is not None:  # a user who was deleted comes back
                connection.execute(sa.text("INSERT INTO users (id) VALUES (:id) ON CONFLICT DO NOTHING"), {"id": user})
            rolled.add(connection, *given_)
        elif kind == "delete users" and people is not None:
            connection.execute(people.delete().where(people.c.id.in_(given_[0])))
        elif kind == "erase":
            connection.execute(history.delete().where(history.c.user_id.is_not_distinct_from(given_[0])))
        elif kind == "merge":
            guest, user = given_
            if guest != user:
                its = history.c.user_id.is_not_distinct_from(guest)
                rows = connection.execute(sa.select(history).where(its)).all()
                connection.execute(history.delete().where(its))
                if people is not None and user is not None:
                    connection.execute(
                        sa.text("INSERT INTO users (id) VALUES (:id) ON CONFLICT DO NOTHING"), {"id": user}
                    )
                flush = get("postgresql").flush(connection, rolled.tables, Settings())
                moved = [
                    Count(row.feature_name, user, row.usage_count, row.bucket_start, None,
                          ((row.bucket_start, row.usage_count),))
                    for row in rows
                ]  # fmt: skip
                if moved:
                    flush.add_history(connection, moved)
        elif kind == "move":  # by hand
            user, days = given_
            connection.execute(history.delete().where(history.c.feature_name == "moved"))
            its = history.c.user_id.is_not_distinct_from(user)
            one = sa.select(sa.func.max(history.c.id)).where(its).scalar_subquery()
            new = {"bucket_start": today() - days * DAY, "feature_name": "moved", "usage_count": 7}
            connection.execute(history.update().where(history.c.id == one).values(**new))
        elif kind == "rename" and people is not None:
            new_id = UUID(int=given_[0].int + 2**70)
            connection.execute(people.delete().where(people.c.id == new_id))
            connection.execute(people.update().where(people.c.id == given_[0]).values(id=new_id))
        elif kind == "truncate":
            connection.exec_driver_sql("TRUNCATE feature_usage_history")


@pytest.mark.parametrize("how", ["users", "no users", "partitions"])
def test_answers_are_those_of_the_history(postgresql: Database, how: str) -> None:
    """Whatever happens to the history, and wherever maintenance comes in between."""
    options = {"history_partitions": "month"} if how == "partitions" else {}
    with rolled(postgresql, has_users=how != "no users", **options) as found:

        @given(st.lists(actions, min_size=4, max_size=14), st.sampled_from(WINDOWS))
        @settings(
            max_examples=int(os.environ.get("USAGE_TEST_EXAMPLES", "5")),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            phases=[Phase.explicit, Phase.reuse, Phase.generate] + [Phase.shrink] * SLOW,
            derandomize=not SLOW,
        )
        def run(steps: list[tuple[Any, ...]], span: tuple[Moment, Moment]) -> None:
            with found.engine.begin() as connection:
                connection.exec_driver_sql("TRUNCATE feature_usage_history")
                if found.users is not None:
                    connection.exec_driver_sql("DELETE FROM users")
            for number, step in enumerate(steps):
                act(found, step)
                found.agree(span, step=4, first=number)
            found.maintain()
            found.agree(span)

        run()


# ---- others at the same time


OLD = 40
"""Days ago: of a week that has long ended."""


@pytest.fixture
def busy(postgresql: Database) -> Iterator[Rolled]:
    """A past of five users, rolled up."""
    with rolled(postgresql) as found:
        for number, user in enumerate(USERS):
            for days in (0, 9, OLD, OLD + 1, OLD + number, 200):
                found.use(user, days, FEATURES[number % 2])
        found.use(None, OLD)
        assert found.maintain() == len(found.complete()) > 30
        yield found


def test_a_change_during_maintenance_is_never_lost(busy: Rolled) -> None:
    """One that had begun before, one that ends before it does, and one that it had counted."""
    week = week_of(today() - OLD * DAY)
    with busy.engine.connect() as writer, busy.engine.connect() as maintenance:
        busy.add(writer, USERS[0], OLD, "late")
        assert busy.renew(maintenance, OLD)
        busy.use(USERS[1], OLD, "late")
        maintenance.commit()
        assert week not in busy.complete()
        busy.agree((400 * DAY, None))
        assert busy.maintain() == 1
        assert week in busy.complete()
        writer.commit()
        assert week not in busy.complete()
        busy.agree((400 * DAY, None))
        busy.maintain()
        assert week in busy.complete()
        busy.agree((400 * DAY, None))


def test_two_processes_do_not_roll_up_the_same_week(busy: Rolled) -> None:
    """The second one leaves it to the first."""
    with busy.engine.connect() as one, busy.engine.connect() as other:
        assert busy.renew(one, OLD)
        assert not busy.renew(other, OLD)
    busy.agree((400 * DAY, None))


def test_deleting_users_makes_no_week_incomplete(busy: Rolled) -> None:
    """Their uses are taken back in the same transaction, and added up once there are many."""
    people, rollups, complete = busy.users, busy.tables.rollups, busy.complete()
    assert people is not None
    assert rollups is not None
    with busy.engine.begin() as connection:
        connection.execute(people.delete().where(people.c.id.in_(USERS[:2])))
    with busy.engine.connect() as connection:
        connection.execute(people.delete().where(people.c.id == USERS[2]))
        connection.rollback()
    busy.agree()
    assert busy.complete() == complete
    with busy.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.min(rollups.days.c.users))) == -2
        assert not set(connection.scalars(sa.select(rollups.users.c.user_id))) & set(USERS[:2])
        names = [column.name for column in rollups.days.c if column.name != "id"]
        numbers = {"entries", "uses", "users", "anonymous_uses"}
        many = sa.func.generate_series(1, 200).table_valued("n")
        nothing = (sa.literal(0) if name in numbers else rollups.days.c[name] for name in names)
        connection.execute(rollups.days.insert().from_select(names, sa.select(*nothing).join(many, sa.true())))
        connection.commit()
        before = connection.scalar(sa.select(sa.func.count()).select_from(rollups.days)) or 0
        connection.rollback()
        assert busy.maintain() == 0
        after = connection.scalar(sa.select(sa.func.count()).select_from(rollups.days)) or 0
        assert after < before
    busy.agree()
    assert busy.complete() == complete


def test_a_user_who_is_deleted_meanwhile(busy: Rolled) -> None:
    """Maintenance gives way to a deletion that has begun, and a deletion waits for the end of maintenance."""
    people, complete = busy.users, busy.complete()
    assert people is not None
    busy.use(USERS[4], OLD)  # the week is to be rolled up again
    with busy.engine.connect() as host:
        host.execute(people.delete().where(people.c.id == USERS[0]))
        assert busy.maintain() == 0  # it waits for a moment only, and comes again
        busy.agree((400 * DAY, None))
        host.commit()
    busy.agree((400 * DAY, None))
    deleted = threading.Event()

    def delete() -> None:
        with busy.engine.begin() as host:
            host.execute(people.delete().where(people.c.id == USERS[1]))
        deleted.set()

    with busy.engine.connect() as maintenance:
        assert busy.renew(maintenance, OLD)
        thread = threading.Thread(target=delete)
        thread.start()
        with busy.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watch:
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            while not watch.scalar(waiting):
                assert thread.is_alive()
        busy.agree((400 * DAY, None))
        assert not deleted.is_set()
        maintenance.commit()
        thread.join()
    assert busy.complete() == complete
    busy.agree((400 * DAY, None))


def test_a_user_who_is_erased_meanwhile(busy: Rolled) -> None:
    """Maintenance neither keeps nor brings back rows of the user."""
    history, rollups = busy.tables.history, busy.tables.rollups
    assert rollups is not None
    erase = history.delete().where(history.c.user_id == USERS[0])
    its = sa.select(rollups.users).where(rollups.users.c.user_id == USERS[0])
    erased = threading.Event()

    def forget() -> None:
        with busy.engine.begin() as host:
            host.execute(erase)
        erased.set()

    with busy.engine.connect() as maintenance:
        assert busy.renew(maintenance, OLD)
        thread = threading.Thread(target=forget)
        thread.start()
        with busy.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watch:
            while not watch.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                assert thread.is_alive()
        assert not erased.is_set()
        maintenance.commit()
        thread.join()
        assert not maintenance.execute(its).all()
        maintenance.rollback()
    busy.use(USERS[0], OLD)
    busy.maintain()
    with busy.engine.connect() as host:
        host.execute(erase)
        with busy.engine.connect() as maintenance:
            assert not busy.renew(maintenance, OLD)
        host.commit()
        assert not host.execute(its).all()
    busy.agree((400 * DAY, None))


def test_readers_agree_while_all_write(busy: Rolled) -> None:
    """Late uses, deletions, erasures and maintenance, all at once: in each snapshot the answers are those of the
    history."""
    history, people = busy.tables.history, busy.users
    assert people is not None
    failures: list[BaseException] = []
    stop = threading.Event()
    dice = random.Random(5)
    late = [(dice.choice([None, *USERS]), dice.choice([2, 9, OLD, OLD + 1, 200]), dice.choice(FEATURES))
            for _ in range(60)]  # fmt: skip

    def write(mine: list[tuple[UUID | None, int, str]]) -> None:
        for user, days, feature in mine:
            with contextlib.suppress(sa.exc.IntegrityError):  # the user has just been deleted
                busy.use(user, days, feature)

    def delete() -> None:
        for user in [*USERS, *USERS]:
            with busy.engine.begin() as connection:
                connection.execute(people.delete().where(people.c.id == user))
            with busy.engine.begin() as connection:
                connection.execute(history.delete().where(history.c.user_id.is_(None), history.c.id % 3 == 0))
                connection.execute(people.insert().values(id=user))

    def maintain() -> None:
        while not stop.is_set():
            busy.maintain()

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    works: list[Callable[[], None]] = [lambda: write(late[::2]), lambda: write(late[1::2]), delete]
    writers = [threading.Thread(target=run, args=(work,)) for work in works]
    keeper = threading.Thread(target=run, args=(maintain,))
    for thread in (*writers, keeper):
        thread.start()
    number = 0
    while any(thread.is_alive() for thread in writers):
        busy.agree((400 * DAY, None), step=4, first=number)
        number += 1
    stop.set()
    keeper.join()
    assert not failures
    busy.agree((400 * DAY, None))
    busy.maintain()
    busy.agree((400 * DAY, None))
    assert len(busy.complete()) > 30


# ---- what makes and keeps them


def test_an_import_leaves_one_mark_for_each_week(busy: Rolled) -> None:
    """However many rows a transaction adds; what a savepoint rolls back, it has not marked."""
    rollups = busy.tables.rollups
    assert rollups is not None
    marks = sa.select(rollups.weeks.c.week).where(~rollups.weeks.c.is_complete).order_by(rollups.weeks.c.week)
    first, second = week_of(today() - 200 * DAY), week_of(today() - OLD * DAY)
    with busy.engine.begin() as connection:
        with connection.begin_nested() as savepoint:
            busy.add(connection, USERS[0], OLD, "a")
            savepoint.rollback()
        for feature in "abc":
            busy.add(connection, USERS[0], OLD, feature)
            busy.add(connection, USERS[0], 200, feature)
            busy.add(connection, USERS[0], 0, feature)
            busy.add(connection, USERS[0], 1, feature)
        assert list(connection.scalars(marks)) == [first, second]
    busy.agree((400 * DAY, None))


def test_a_partition_that_is_dropped_takes_its_weeks_along(postgresql: Database) -> None:
    """No trigger sees it go."""
    with rolled(postgresql, history_partitions="month") as found:
        for days in range(0, 150, 9):
            found.use(USERS[0], days)
        list(found.retention.make_partitions(today() - 200 * DAY))
        found.maintain()
        first = found.retention.first_month(today() - 90 * DAY)
        list(found.retention.prune(first))
        found.agree()
        oldest = (today() - 150 * DAY).replace(day=1) + 31 * DAY
        assert not [week for week in found.complete() if oldest <= week < first]
        assert [week for week in found.complete() if week >= first]
        list(found.retention.renew_rollups(first))
        found.agree()
        with found.engine.connect() as connection:
            rollups = found.tables.rollups
            assert rollups is not None
            assert connection.scalar(sa.select(sa.func.min(rollups.days.c.week))) >= first


def test_rows_that_move_to_another_partition(postgresql: Database) -> None:
    """No trigger of a row sees them leave."""
    with rolled(postgresql, history_partitions="month") as found:
        found.use(USERS[0], OLD)
        found.use(USERS[1], OLD)
        list(found.retention.make_partitions(today() - 200 * DAY))
        found.maintain()
        history = found.tables.history
        with found.engine.begin() as connection:
            moved = history.update().where(history.c.user_id == USERS[0]).values(bucket_start=today())
            assert connection.execute(moved).rowcount == 1
        found.agree()
        found.maintain()
        assert found.complete()
        found.agree()


def test_a_disabled_trigger_ends_the_use_of_rollups(busy: Rolled) -> None:
    """Nothing keeps them right then: `db check` reports it, and questions read the history."""
    with busy.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE feature_usage_history DISABLE TRIGGER feature_usage_rollup_mark")
    busy.use(USERS[0], OLD, "late")
    assert not busy.complete()
    busy.agree((400 * DAY, None))
    with busy.engine.connect() as connection:
        (problem,) = check(connection, busy.tables)
        assert problem.message.endswith("run `usage-instrument db upgrade --history-rollups yes`")
        assert find_tables(connection).history_rollups is None
    with busy.engine.connect() as connection:
        upgrade(connection, busy.tables)
    assert not busy.complete()
    busy.maintain()
    assert busy.complete()
    busy.agree((400 * DAY, None))


def test_there_and_back(postgresql: Database) -> None:
    """`db create`, `db check`, `db upgrade` and `prune`, also around partitions; the second time does nothing."""
    with_users(postgresql)
    engine = postgresql.engine()

    def command(*words: str, fails: bool = False) -> str:
        result = CliRunner().invoke(app, [*words, "--url", postgresql.url])
        assert result.exit_code == int(fails), result.output
        return result.output

    command("db", "create")
    assert "--history-rollups" in command("db", "check", "--history-rollups", "yes", fails=True)
    assert "triggers" in command("db", "upgrade", "--history-rollups", "yes", "--yes")
    assert "nothing to do" in command("db", "upgrade", "--history-rollups", "yes", "--yes")
    command("db", "check", "--history-rollups", "yes")
    command("db", "check")
    with engine.begin() as connection:
        tables = find_tables(connection)
        assert tables.history_rollups
        row = {"user_id": USERS[0], "feature_name": "search", "bucket_start": today() - OLD * DAY}
        connection.execute(tables.history.insert(), [row])
    assert "would be renewed" in command("prune", "--dry-run")
    assert "renewed" in command("prune")
    assert "renewed" not in command("prune")
    for way in ("month", "none"):  # the new table has the triggers
        command("db", "upgrade", "--history-partitions", way, "--yes")
        command("db", "check", "--history-rollups", "yes", "--history-partitions", way)
        assert "renewed" in command("prune")
    assert "--history-rollups no" in command("db", "check", "--history-rollups", "no", fails=True)
    assert "Drop the rollups" in command("db", "upgrade", "--history-rollups", "no", "--yes")
    command("db", "check", "--history-rollups", "no")
    with engine.connect() as connection:
        assert find_tables(connection).history_rollups is None
        assert not [name for name in sa.inspect(connection).get_table_names() if "rollup" in name]
        assert not connection.scalar(sa.text("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%rollup%'"))


def test_a_database_that_could_not_keep_them_refuses(database: Database) -> None:
    """MariaDB deletes rows by a foreign key without a trigger."""
    engine = database.engine()
    if database.name == "postgresql":
        create_all(engine, history_rollups=True)
        return
    with pytest.raises(ConfigurationError, match=f"needs PostgreSQL, and this is {database.name}"):
        create_all(engine, history_rollups=True)
    assert not sa.inspect(engine).get_table_names()


def test_a_role_with_its_rights_to_the_history_needs_no_others(busy: Rolled) -> None:
    """It writes late uses, deletes users, reads, and rolls up if it may do so with the history."""
    with busy.engine.begin() as connection:
        for statement in (
            "DROP ROLE IF EXISTS usage_app",
            "CREATE ROLE usage_app",
            "GRANT SELECT, INSERT, UPDATE ON feature_usage_history TO usage_app",
            "GRANT USAGE ON SEQUENCE feature_usage_history_id_seq TO usage_app",
            "GRANT SELECT, DELETE ON users TO usage_app",
        ):
            connection.exec_driver_sql(statement)
    try:
        with busy.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL ROLE usage_app")
            connection.execute(
                busy.tables.history.insert().values(
                    user_id=USERS[0], feature_name="late", bucket_start=today() - OLD * DAY, usage_count=1
                )
            )
            connection.exec_driver_sql(f"DELETE FROM users WHERE id = '{USERS[1]}'")
            assert not ROLLUPS.find(connection, busy.tables.history)  # it may not read them
        busy.agree((400 * DAY, None))
    finally:
        with busy.engine.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY usage_app")
            connection.exec_driver_sql("DROP ROLE usage_app")


def test_short_windows_zones_and_hours_read_the_history(busy: Rolled) -> None:
    """It answers as quickly, or alone can."""
    for question in (
        q.top_features(since=30 * DAY, tables=busy.tables),
        q.top_features(tables=busy.tables),
        q.trend(by="hour", since=100 * DAY, tables=busy.tables),
        q.stickiness("search", since=100 * DAY, tables=busy.tables),
        q.stickiness(since=100 * DAY, tz="Europe/Berlin", tables=busy.tables),
        q.lifecycle(by="day", since=100 * DAY, tables=busy.tables),
    ):
        assert "rollup" not in str(question.compile(busy.engine))
    for span in WINDOWS:
        for name, question, _ in busy.pairs[span]:
            assert "rollup" in str(question.compile(busy.engine)), name


def test_the_totals_of_a_page_are_those_of_the_history(busy: Rolled) -> None:
    """With those of the window before."""
    plain = replace(busy.tables, history_rollups=None)
    with busy.engine.connect() as connection:
        for since, until in WINDOWS:
            if since is not None:
                asked = window(since, until)
                expected = totals(connection, plain, asked, None)
                assert totals(connection, busy.tables, asked, None) == expected
                assert expected.uses.value


def test_the_writer_rolls_up(busy: Rolled, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the other work of its maintenance."""
    monkeypatch.setattr("usage_instrument.pipeline.maintenance._PRUNE_PHASE", 0.0)
    busy.use(USERS[0], OLD, "late")
    assert week_of(today() - OLD * DAY) not in busy.complete()
    tracker = Tracker(busy.engine, Settings(flush_interval=0.01), busy.tables)
    try:
        tracker.track("search")
        assert tracker.flush()
        while week_of(today() - OLD * DAY) not in busy.complete():
            pass  # maintenance waits while a flush is asked for
    finally:
        tracker.shutdown()
    busy.agree((400 * DAY, None))
