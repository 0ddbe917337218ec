"""The store contract, the same on every database: one batch, one transaction, exactly once."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import random
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Database, UsersDatabase, with_users
from reading import all_of, counts, made, total
from usage_instrument.database.dialects import Fault
from usage_instrument.database.dialects.postgresql.flush import PostgreSQLFlush
from usage_instrument.database.dialects.postgresql.portable_flush import PortableFlush
from usage_instrument.database.engines import connect
from usage_instrument.database.ledger import Ledger, utcnow
from usage_instrument.events import MAX_COUNT, Batch, Count, Exposure, Loss
from usage_instrument.pipeline.store import Outcome, Store, WriteError
from usage_instrument.queries import adoption
from usage_instrument.schema import Tables, define_tables
from usage_instrument.settings import Settings

DAY = dt.datetime(2026, 3, 1)
NOON = dt.datetime(2026, 3, 1, 12, 30, 15, 123456)
ADA, BOB = uuid.UUID(int=2**100), uuid.UUID(int=2**101)


@dataclass
class Bench:
    engine: sa.Engine
    tables: Tables
    store: Store
    ledger: Ledger

    def write(self, *given_counts: Count, number: int | None = None, losses: tuple[Loss, ...] = ()) -> Outcome:
        number = number if number is not None else self.ledger.number + 1
        ordered = sorted(given_counts, key=lambda c: (c.user is None, c.user or 0, c.feature))
        outcome = self.store.write(self.ledger, Batch(number, tuple(ordered), losses))
        if outcome is Outcome.APPLIED:
            self.ledger.number = max(self.ledger.number, number)
        return outcome

    def row(self, feature: str, user: object = None) -> Any:
        usage = self.tables.usage
        query = sa.select(usage).where(usage.c.feature_name == feature, usage.c.user_id.is_not_distinct_from(user))
        with self.engine.connect() as connection:
            return connection.execute(query).one()


MakeBench = Callable[..., Bench]


@pytest.fixture(params=["sqlite", "postgresql", "portable", "mariadb", "citus"])
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Each kind of server, PostgreSQL by both flushes, and Citus if the environment names one."""
    portable = request.param == "portable"
    monkeypatch.setenv("USAGE_INSTRUMENT_FLUSH_STATEMENTS", "portable" if portable else "auto")
    found: Database = request.getfixturevalue("postgresql" if portable else request.param)
    return found


@pytest.fixture
def bench() -> Iterator[MakeBench]:
    """Makes a store with a registered writer, in a database of the test's."""
    stores: list[Store] = []

    def make(database: Database, users: object = None, **options: Any) -> Bench:
        engine = database.engine()
        tables = made(engine, users=users, **options)
        store = Store(connect(database.url), tables, Settings.from_environment(flush_rows=500))
        stores.append(store)
        store.open()
        ledger = Ledger(tables, "tests")
        store.register(ledger)
        return Bench(engine, tables, store, ledger)

    yield make
    for store in stores:
        store.dispose()


def count(feature: str = "f", user: Any = ADA, uses: int = 1, used: dt.datetime = NOON, **metadata: Any) -> Count:
    return Count(feature, user, uses, used, json.dumps(metadata) if metadata else None, ((DAY, uses),))


def test_new_keys_become_rows_and_known_keys_grow(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    assert it.write(count(uses=2), count(user=None, uses=3)) is Outcome.APPLIED
    assert it.write(count(uses=5), count(user=BOB), count("g", None, 7)) is Outcome.APPLIED
    assert counts(it.engine, it.tables) == {("f", ADA): 7, ("f", None): 3, ("f", BOB): 1, ("g", None): 7}


def test_history_is_written_in_the_same_batch(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    next_day = DAY + dt.timedelta(days=1)
    it.write(Count("f", None, 5, NOON, None, ((DAY, 2), (next_day, 3))))
    it.write(Count("f", None, 4, NOON, None, ((next_day, 4),)))
    found = {(row.feature_name, row.bucket_start): row.usage_count for row in all_of(it.engine, it.tables.history)}
    assert found == {("f", DAY): 2, ("f", next_day): 7}
    it.write(Count("f", None, 5, NOON, None, ((DAY, 1), (next_day, 4))), Count("g", None, 2, NOON, None, ((DAY, 2),)))
    found = {(row.feature_name, row.bucket_start): row.usage_count for row in all_of(it.engine, it.tables.history)}
    assert found == {("f", DAY): 3, ("f", next_day): 11, ("g", DAY): 2}


def test_the_last_use_is_in_the_newest_bucket(bench: MakeBench, database: Database) -> None:
    """So `feature_usage` has the users of each feature in a window until now, as the history has them."""
    it, dice = bench(database), random.Random(7)
    today = dt.datetime.combine(utcnow(), dt.time())
    for _ in range(40):
        buckets = {today - dt.timedelta(hours=dice.randrange(24, 24 * 60)) for _ in range(dice.choice([1, 1, 3]))}
        used = max(buckets) + dt.timedelta(seconds=dice.choice([0, 1800, 3599]))
        history = tuple((start, 1) for start in buckets)
        it.write(Count(dice.choice("fgh"), dice.choice([None, ADA, BOB]), len(history), used, None, history))
    with it.engine.connect() as connection:
        for days in (2, 7, 30, 90):
            since = dt.timedelta(days=days)
            answer = connection.execute(adoption(since=since, tables=it.tables)).all()
            of_history = connection.execute(adoption(since=since, until="today", tables=it.tables)).all()
            assert answer == of_history
        assert len(answer) == 3


@pytest.mark.parametrize("table", ["feature_usage", "feature_usage_history"])
@pytest.mark.parametrize("database", ["portable", "mariadb"], indirect=True)
def test_a_row_that_another_writer_inserts_meanwhile_is_added_to(
    bench: MakeBench, database: Database, table: str
) -> None:
    """Between the UPDATE, which did not find it yet, and the look for what is missing, which finds it."""
    it, rival = bench(database), database.engine()
    rows = {"feature_usage": it.tables.usage, "feature_usage_history": it.tables.history}
    values = {"feature_name": "f", "user_id": ADA, "usage_count": 5}
    first: list[str] = []
    more = {"feature_usage": {"last_used": NOON}, "feature_usage_history": {"bucket_start": DAY}}

    def insert_first(connection: sa.Connection, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT d.") and re.search(rf"\b{table}\b", statement) and not first:
            first.append(statement)
            with rival.begin() as other:
                other.execute(rows[table].insert().values(**values, **more[table]))

    sa.event.listen(sa.Engine, "before_cursor_execute", insert_first)
    try:
        with pytest.raises(WriteError, match="Another writer inserted a row") as caught:
            it.write(count(uses=2), number=1)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", insert_first)
    assert (caught.value.fault, caught.value.in_doubt) == (Fault.TRANSIENT, False)
    assert it.write(count(uses=2), number=1) is Outcome.APPLIED
    found = {row.usage_count for row in all_of(it.engine, rows[table])}
    assert found == {7}


def exposed(user: Any = ADA, unit: str | None = None, uses: int = 1, minutes: tuple[int, int] = (0, 0)) -> Count:
    """Exposures from the first to the last minute after noon."""
    first, last = (NOON + dt.timedelta(minutes=each) for each in minutes)
    return Count(Exposure("page", "new", unit).key, user, uses, last, None, ((first, uses),))


def test_exposures_are_added_once_however_often_the_batch_is_sent(bench: MakeBench, database: Database) -> None:
    it = bench(database)

    def rows() -> dict[str, tuple[Any, ...]]:
        found = all_of(it.engine, it.tables.exposures)
        return {row.unit: (row.user_id, minute(row.first_exposed_at), minute(row.last_exposed_at), row.exposures)
                for row in found}  # fmt: skip

    def minute(moment: dt.datetime) -> float:
        return (moment - NOON) / dt.timedelta(minutes=1)

    first = (exposed(uses=2, minutes=(5, 7)), exposed(None, "v", 3, (1, 9)), exposed(None, str(ADA)), count())
    for _ in range(3):
        assert it.write(*first, number=1) is Outcome.APPLIED
    assert rows() == {str(ADA): (ADA, 0, 7, 3), "v": (None, 1, 9, 3)}
    second = (exposed(uses=4, minutes=(6, 6)), exposed(BOB, "v", 1, (-3, -2)), exposed(None, "w", 1, (2, 2)))
    for _ in range(3):
        assert it.write(*second, number=2) is Outcome.APPLIED
    assert rows() == {str(ADA): (ADA, 0, 7, 7), "v": (BOB, -3, 9, 4), "w": (None, 2, 2, 1)}
    assert it.write(exposed(ADA, "v", 1, (9, 10))) is Outcome.APPLIED
    assert rows()["v"] == (BOB, -3, 10, 5)  # the user that is known stays
    assert counts(it.engine, it.tables) == {("f", ADA): 1}


def test_a_batch_is_applied_once_however_often_it_is_sent(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    batch = Batch(1, (count(uses=2), count("g", None, 3)), (Loss(DAY.date(), "memory full", 9),))
    for _ in range(3):
        assert it.store.write(it.ledger, batch) is Outcome.APPLIED
    assert total(it.engine, it.tables) == 5
    assert [row.uses for row in all_of(it.engine, it.tables.losses)] == [9]


def test_an_older_batch_is_not_applied(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    it.write(count(), number=7)
    assert it.write(count(), number=5) is Outcome.APPLIED  # which is to say: by now it is in
    assert total(it.engine, it.tables) == 1


@pytest.mark.parametrize("other", ["CockroachDB CCL v24.1", "PostgreSQL 15.2-YB-2.25.1", "Citus", "Citus elsewhere"])
def test_servers_that_are_not_postgresql_get_the_portable_flush(
    bench: MakeBench, postgresql: Database, other: str
) -> None:
    """As far as a server can be taken for another one: by the function `version`, and by a catalog of Citus."""
    with postgresql.engine().begin() as connection:
        if other.startswith("Citus"):
            connection.exec_driver_sql("SET LOCAL allow_system_table_mods = on")
            connection.exec_driver_sql("CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass)")
        else:
            connection.exec_driver_sql(f"CREATE FUNCTION version() RETURNS text LANGUAGE sql RETURN '{other}'")
    url = f"{postgresql.url}?options=-csearch_path%3Dpublic,pg_catalog"
    try:
        it = bench(dataclasses.replace(postgresql, url=url))
        if other == "Citus":
            with it.engine.begin() as connection:
                connection.exec_driver_sql("SET LOCAL allow_system_table_mods = on")
                connection.exec_driver_sql("INSERT INTO pg_dist_partition VALUES ('feature_usage_history')")
            it = bench(dataclasses.replace(postgresql, url=url))
        assert isinstance(it.store.statements, PortableFlush) == (other != "Citus elsewhere")
        assert it.write(count(uses=2)) is Outcome.APPLIED
    finally:
        with postgresql.engine().begin() as connection:
            connection.exec_driver_sql("SET LOCAL allow_system_table_mods = on")
            connection.exec_driver_sql("DROP TABLE IF EXISTS pg_catalog.pg_dist_partition")


def test_tables_that_are_distributed_later_are_written_too(bench: MakeBench, citus: Database) -> None:
    it = bench(citus)
    it.store._flush = PostgreSQLFlush(it.engine.connect(), it.tables, 4096)  # as it was chosen before
    assert it.write(count(uses=2)) is Outcome.APPLIED
    assert total(it.engine, it.tables) == 2


def test_without_the_writers_row_nothing_is_applied(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    it.store.retire(it.ledger)
    assert it.write(count()) is Outcome.GONE
    assert total(it.engine, it.tables) == 0
    assert all_of(it.engine, it.tables.history) == []


def test_registering_twice_is_registering_once(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    it.write(count())
    it.store.register(it.ledger)
    (row,) = all_of(it.engine, it.tables.writers)
    assert (row.service, row.last_batch) == ("tests", 1)
    assert abs(utcnow() - row.heartbeat_at) < dt.timedelta(minutes=5)


def test_last_used_never_goes_back_and_never_lies_ahead(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    it.write(count(used=NOON))
    it.write(count(used=NOON - dt.timedelta(days=3)))
    assert it.row("f", ADA).last_used == NOON
    it.write(count(used=utcnow() + dt.timedelta(days=300)), count("new", ADA, used=utcnow() + dt.timedelta(days=300)))
    assert it.row("f", ADA).last_used <= utcnow() + dt.timedelta(minutes=1)
    assert it.row("new", ADA).last_used <= utcnow() + dt.timedelta(minutes=1)


def test_counts_saturate(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    it.write(count(uses=MAX_COUNT - 1), count("huge", uses=2**35))
    it.write(count(uses=5))
    assert it.row("f", ADA).usage_count == MAX_COUNT
    assert it.row("huge", ADA).usage_count == MAX_COUNT


def test_a_row_of_the_hosts_own_making_grows(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    with it.engine.begin() as connection:
        connection.execute(
            it.tables.usage.insert().values(user_id=ADA, feature_name="f", usage_count=None, last_used=NOON)
        )
    it.write(count(uses=3, used=NOON + dt.timedelta(1), a=1))
    assert (it.row("f", ADA).usage_count, it.row("f", ADA).metadata) == (3, {"a": 1})


MERGES: list[tuple[Any, Any, Any]] = [
    ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
    ({"a": 1, "b": 1}, {"b": 2}, {"a": 1, "b": 2}),
    ({"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"y": 2}}),
    ({"a": 1}, {"a": None}, {"a": None}),
    ({"a": None, "b": {"c": None}}, {"d": 1}, {"a": None, "b": {"c": None}, "d": 1}),
    ({"f": 0.1, "t": True, "n": False, "l": [1, [2]], "i": 2**53}, {"z": "é\"'\\ \n"},
     {"f": 0.1, "t": True, "n": False, "l": [1, [2]], "i": 2**53, "z": "é\"'\\ \n"}),
    ({"a.b": 1, 'q"x': 2, "": 3, "k, y": 4, "$": 5}, {"a.b": 6}, {"a.b": 6, 'q"x': 2, "": 3, "k, y": 4, "$": 5}),
]  # fmt: skip
"""The older and the newer metadata, and what they become."""


def test_metadata_is_merged_key_by_key(bench: MakeBench, database: Database) -> None:
    it = bench(database)

    def with_(feature: str, used: dt.datetime, metadata: Any) -> Count:
        return Count(feature, ADA, 1, used, json.dumps(metadata), ())

    later = NOON + dt.timedelta(seconds=1)
    one, two = [], []
    expected: dict[str, Any] = {}
    for number, (first, second, merged) in enumerate(MERGES):
        newer, tie, older = (f"{name} {number}" for name in ("newer", "tie", "older"))
        one += [with_(newer, NOON, first), with_(tie, NOON, first), with_(older, later, second)]
        # An older batch only fills what is missing.
        two += [with_(newer, later, second), with_(tie, NOON, second), with_(older, NOON, first)]
        expected |= dict.fromkeys((newer, tie, older), merged)
    it.write(*one)
    it.write(*two)
    assert {row.feature_name: row.metadata for row in all_of(it.engine, it.tables.usage)} == expected


def test_no_metadata_leaves_the_old(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    it.write(count(a=1))
    it.write(count())
    assert it.row("f", ADA).metadata == {"a": 1}


def test_features_differ_by_case_and_accent(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    it.write(count("export"), count("Export"), count("éxport"), number=1)
    it.write(count("export"), count("Export"), number=2)
    assert counts(it.engine, it.tables) == {("export", ADA): 2, ("Export", ADA): 2, ("éxport", ADA): 1}


@pytest.mark.parametrize(("kind", "one", "two"), [("integer", 7, 2**40), ("string", "Ada", "ada"), ("uuid", ADA, BOB)])
def test_every_type_of_user_id(bench: MakeBench, database: Database, kind: Any, one: Any, two: Any) -> None:
    it = bench(database, user_id_type=kind)
    for _ in range(2):
        it.write(count(user=one), count(user=two, uses=2), count(user=None, uses=3))
    assert counts(it.engine, it.tables) == {("f", one): 2, ("f", two): 4, ("f", None): 6}


def test_a_known_key_burns_no_id(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    keys = [count(f"f{number % 10}", uuid.UUID(int=2**90 + number // 10), 1) for number in range(50)]
    for _ in range(10):
        it.write(*keys)
    with it.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.max(it.tables.usage.c.id))) == 50
        if database.name == "postgresql":
            last = connection.scalar(sa.text("SELECT last_value FROM feature_usage_id_seq"))
        elif database.name == "mariadb":
            last = connection.scalar(
                sa.text(
                    "SELECT auto_increment FROM information_schema.tables "
                    "WHERE table_name = 'feature_usage' AND table_schema = DATABASE()"
                )
            )
        else:
            last = 50
    assert isinstance(last, int)
    assert last <= 60


def test_an_unknown_user_is_a_definite_fault_of_its_own(bench: MakeBench, users_database: UsersDatabase) -> None:
    it = bench(users_database.database, users="auto")
    stranger = uuid.uuid4()
    known = users_database.user_ids[0]
    if users_database.database.name == "sqlite":
        pytest.skip("SQLite enforces foreign keys only where the host turns them on; test_writer covers that")
    with pytest.raises(WriteError) as info:
        it.write(count(user=known), count(user=stranger), number=1)
    assert (info.value.fault, info.value.in_doubt) == (Fault.UNKNOWN_USER, False)
    assert it.store.unknown_users({known, stranger, None}) == {stranger}
    assert total(it.engine, it.tables) == 0
    it.write(count(user=known), number=1)
    assert total(it.engine, it.tables) == 1


STATEMENTS_TO_OPEN = {"sqlite": 24, "postgresql": 11, "mariadb": 15}
"""Those of the transaction included. SQLAlchemy 2.0 asks PostgreSQL for enums and domains, too."""


def test_few_statements_open_it(database: Database) -> None:
    """Every process of a host asks them, of a server that may be far away: they were 80, 17 and 55."""
    engine = database.engine()
    with_users(database)
    store = Store(connect(database.url), made(engine), Settings())
    store.transact(lambda connection: connection.execute(sa.select(sa.literal(1))))  # the dialect asks once
    asked: list[str] = []

    def count(*arguments: Any) -> None:
        asked.append(arguments[2])

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    try:
        store.open()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
        store.dispose()
    assert len(asked) <= STATEMENTS_TO_OPEN[database.name], asked


def test_another_problem_changes_the_fix_of_a_missing_table(database: Database) -> None:
    """Opening looks for what blocks writing alone, until it finds something."""
    engine = database.engine()
    tables = made(engine, users=None)
    tables.losses.drop(engine)
    on = "" if database.name != "mariadb" else " ON feature_usage_access"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP INDEX ix_feature_usage_access_actor_id{on}")
    store = Store(connect(database.url), tables, Settings())
    with pytest.raises(WriteError, match="feature_usage_losses does not exist: run `usage-instrument db upgrade`"):
        store.open()
    store.dispose()


def test_a_missing_table_is_one_line_with_the_fix(database: Database) -> None:
    engine = database.engine()
    tables = made(engine, users=None)
    tables.history.drop(engine)
    store = Store(connect(database.url), tables, Settings())
    said = r"feature_usage_history does not exist: run `usage-instrument db create`"
    with pytest.raises(WriteError, match=said) as info:
        store.open()
    store.dispose()
    assert info.value.fault is Fault.CONFIGURATION


def test_a_schema_that_is_missing_has_no_tables(database: Database) -> None:
    store = Store(connect(database.url), define_tables(sa.MetaData(), schema="nowhere"), Settings())
    with pytest.raises(WriteError, match=r"table nowhere\.feature_usage does not exist") as info:
        store.open()
    store.dispose()
    assert info.value.fault is Fault.CONFIGURATION


def test_a_table_that_a_role_may_not_see_does_not_exist(mariadb: Database) -> None:
    engine = mariadb.engine()
    tables = made(engine, users=None)
    role = f"r{uuid.uuid4().hex[:12]}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE USER {role} IDENTIFIED BY 'secret'")
        for each in tables:
            if each is not tables.usage:
                connection.exec_driver_sql(f"GRANT ALL ON {each.name} TO {role}")
    store = Store(connect(engine.url.set(username=role, password="secret")), tables, Settings())
    with pytest.raises(WriteError, match="table feature_usage does not exist"):
        store.open()
    store.dispose()
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP USER {role}")


def test_a_unique_index_may_be_spelt_in_capitals(mariadb: Database) -> None:
    """MariaDB takes its names in any case."""
    engine = mariadb.engine()
    tables = made(engine, users=None)
    with engine.begin() as connection:
        for table, name in tables.uniques:
            connection.exec_driver_sql(f"ALTER TABLE {table.name} RENAME INDEX {name} TO {name.upper()}")
    store = Store(connect(mariadb.url), tables, Settings())
    store.open()
    store.dispose()
    assert store.dimension_problem is None


def test_a_lost_table_is_a_matter_of_configuration(bench: MakeBench, database: Database) -> None:
    it = bench(database)
    it.tables.usage.drop(it.engine)
    with pytest.raises(WriteError) as info:
        it.write(count())
    assert info.value.fault is Fault.CONFIGURATION


_features = st.sampled_from(["a", "A", "é", "x" * 100, "we'ird\"; --"])
_users = st.sampled_from([None, ADA, BOB])


@pytest.fixture
def made_once(bench: MakeBench, database: Database) -> Bench:
    """For many examples."""
    return bench(database)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.tuples(_features, _users), st.integers(1, 1000), min_size=1), min_size=1, max_size=4)
)
def test_any_batches_add_up(made_once: Bench, batches: list[dict[tuple[str, Any], int]]) -> None:
    it = made_once
    with it.engine.begin() as connection:
        connection.execute(it.tables.usage.delete())
    expected: Counter[tuple[str, Any]] = Counter()
    for batch in batches:
        it.write(*(count(feature, user, uses) for (feature, user), uses in batch.items()))
        expected.update(batch)
    assert counts(it.engine, it.tables) == expected
