"""What a flush costs a key, beside the least that one could send instead. Run it: python bench/flush.py

The table holds 100,000 rows. A round writes the same keys in every way, each time in a transaction of its own.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast
from uuid import UUID

import sqlalchemy as sa
from databases import MARIADB, POSTGRESQL, SQLITE, Processor, database
from rounds import Bar, Case, Result, compare, main, times
from sqlalchemy.dialects import sqlite

from usage_instrument.database import engines
from usage_instrument.database.dialects.base import unique_key
from usage_instrument.database.dialects.batch_json import usage_json
from usage_instrument.database.dialects.postgresql.arrays import UsageArrays
from usage_instrument.database.ledger import Ledger, utcnow
from usage_instrument.events import Batch, Count
from usage_instrument.pipeline.store import Outcome, Store
from usage_instrument.schema import Tables, create_all
from usage_instrument.settings import Settings
from usage_instrument.tracker import Tracker

USERS, FEATURES = 10_000, 10
SIZES = (100, 1_000, 10_000)
KEYS = 10_000
"""Where only one size is measured."""
CALLS = {10_000: 0.75, 50_000: 0.85}
"""Keys of a flush as its caller sees it, and what is to be reached."""
CALL, BARE = "usage.flush() right after the captures", "sort, encode, and a bare UPDATE"
BARE_LISTS = "the same, its rows as lists by the driver (unnest)"
BARE_ARRAYS = "the same, its rows as the arrays of a flush"
OURS, HISTORY, LEAST = "a flush", "a flush with history", "the least: a bare UPDATE"
ASYNCPG = "a flush by asyncpg"
NAIVE = "an upsert a use, committed each time"

Batches = Iterator[Sequence[Count]]


# ---- what is written


def keys(number: int, dice: random.Random, new: float = 0.0) -> list[tuple[UUID, str]]:
    """So many keys in the order of a writer, a share of them of users that were not seen before."""
    fresh = [(UUID(int=dice.getrandbits(128), version=4), "feature 0") for _ in range(round(number * new))]
    known = dice.sample(range(USERS * FEATURES), number - len(fresh))
    found = [(UUID(int=1 + one // FEATURES), f"feature {one % FEATURES}") for one in known]
    return sorted(found + fresh, key=lambda key: (key[0].bytes, key[1].encode()))


def counts(number: int, dice: random.Random, new: float = 0.0, *, history: bool = False) -> list[Count]:
    now = utcnow()
    today = ((dt.datetime.combine(now.date(), dt.time()), 3),) if history else ()
    return [Count(feature, user, 3, now, None, today) for user, feature in keys(number, dice, new)]


# ---- how


class Writer:
    """A writer without threads."""

    def __init__(self, url: str, tables: Tables, *, history: bool = False) -> None:
        settings = Settings(history="day" if history else None, lock_timeout=10)
        self._store = Store(engines.connect(url), tables, settings)
        self._store.open()
        self._ledger = Ledger(tables, "bench")
        self._store.register(self._ledger)

    def write(self, rows: Sequence[Count]) -> None:
        number = self._ledger.number + 1
        if self._store.write(self._ledger, Batch(number, tuple(rows))) is not Outcome.APPLIED:
            raise RuntimeError("the batch was not applied")
        self._ledger.number = number

    def close(self) -> None:
        self._store.retire(self._ledger)
        self._store.dispose()


POSTGRESQL_LEAST = """
UPDATE feature_usage AS f SET usage_count = f.usage_count + d.n, last_used = d.t
FROM {rows}
WHERE coalesce(f.user_id, '00000000-0000-0000-0000-000000000000') = d.u AND coalesce(f.feature_name, '') = d.f
"""
UNPACKED = "json_to_recordset(CAST(%s AS json)) AS d (u uuid, f text, n bigint, t timestamp)"
MARIADB_LEAST = """
UPDATE JSON_TABLE(%s, '$[*]' COLUMNS (u VARCHAR(36) PATH '$.u', f VARCHAR(100) PATH '$.f', n BIGINT PATH '$.n',
  t DATETIME(6) PATH '$.t')) d
STRAIGHT_JOIN feature_usage f ON f.user_key = CAST(d.u AS UUID) AND f.feature_key = d.f COLLATE utf8mb4_bin
SET f.usage_count = f.usage_count + d.n, f.last_used = d.t
"""


def least(name: str, url: str, tables: Tables) -> Callable[[Sequence[Count]], object]:
    """The best statement for keys that exist, without a ledger, by the engine that a writer has."""
    engine = engines.own_engine(url)
    if name == SQLITE:
        usage = tables.usage
        insert = sqlite.insert(usage).values(
            user_id=sa.bindparam("user"), feature_name=sa.bindparam("feature"), usage_count=sa.bindparam("uses"),
            last_used=sa.bindparam("used"),
        )  # fmt: skip
        changes = {"usage_count": usage.c.usage_count + insert.excluded.usage_count}
        upsert = insert.on_conflict_do_update(
            index_elements=unique_key(usage, "uuid"), set_={**changes, "last_used": insert.excluded.last_used}
        )

        def many(rows: Sequence[Count]) -> None:
            with engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                values = [{"user": r.user, "feature": r.feature, "uses": r.uses, "used": r.last_used} for r in rows]
                connection.execute(upsert, values)
                connection.commit()

        return many
    statement = POSTGRESQL_LEAST.format(rows=UNPACKED) if name == POSTGRESQL else MARIADB_LEAST

    def one(rows: Sequence[Count]) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement, (usage_json(rows),))

    return one


UNNESTED = """unnest(CAST(%s AS uuid[]), CAST(%s AS text[]), CAST(%s AS bigint[]), CAST(%s AS timestamp[]))
  AS d (u, f, n, t)"""


def bare(url: str, *, lists: bool = False) -> Callable[[Sequence[Count]], object]:
    """What an app must do for rows that it has counted by itself. JSON text is the fastest form that it can send by
    what the driver has: the driver makes arrays of lists item by item."""
    engine = engines.own_engine(url)
    statement = POSTGRESQL_LEAST.format(rows=UNNESTED if lists else UNPACKED)

    def write(rows: Sequence[Count]) -> None:
        ordered = sorted(rows, key=lambda row: (cast("UUID", row.user).bytes, row.feature))
        values: tuple[object, ...]
        if lists:
            values = tuple(map(list, zip(*((r.user, r.feature, r.uses, r.last_used) for r in ordered), strict=True)))
        else:
            texts = [f'{{"u":"{r.user}","f":"{r.feature}","n":{r.uses},"t":"{r.last_used}"}}' for r in ordered]
            values = (f"[{','.join(texts)}]",)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement, values)

    return write


def bare_arrays(url: str, tables: Tables) -> Callable[[Sequence[Count]], object]:
    """As `bare`, with the encoding of the flush itself. PostgreSQL may plan this UPDATE as a hash join over the whole
    table."""
    engine, arrays = engines.own_engine(url), UsageArrays(tables)
    types = {"u": "uuid", "f": "text", "n": "bigint", "t": "timestamp"}
    columns = ", ".join(f"unnest(CAST(%({name}_array)s AS {type_}[])) AS {name}" for name, type_ in types.items())
    statement = POSTGRESQL_LEAST.format(rows=f"(SELECT {columns}) AS d")

    def write(rows: Sequence[Count]) -> None:
        ordered = sorted(rows, key=lambda row: (cast("UUID", row.user).bytes, row.feature))
        with engine.begin() as connection:
            connection.exec_driver_sql(statement, arrays.parameters(connection, ordered, False, False))

    return write


class Meter:
    """The clock, and the seconds that app and server compute meanwhile: on a busy machine the clock favours long
    statements."""

    def __init__(self) -> None:
        self.processor: Processor | None = None
        self.used: list[float] = []

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds by the clock."""
        start, before = time.perf_counter(), self._used()
        work()
        self.used.append(self._used() - before)
        return time.perf_counter() - start

    def _used(self) -> float:
        return time.process_time() + (0.0 if self.processor is None else self.processor.used())


def flushed(tracker: Tracker, rows: Sequence[Count], meter: Meter) -> float:
    """Seconds of a flush as its caller sees it, the captures before it left out."""
    for row in rows:
        tracker.track(row.feature, user=row.user)

    def flush() -> None:
        if not tracker.flush(60):
            raise RuntimeError("the flush did not end")

    return meter.timed(flush)


def staged(url: str) -> Callable[[Sequence[Count]], object]:
    """PostgreSQL's limit: an UPDATE from rows that a COPY has brought to a temporary table."""
    import psycopg

    update = POSTGRESQL_LEAST.format(rows="d")
    connection = psycopg.connect(sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    connection.execute("CREATE TEMPORARY TABLE d (u uuid, f text, n bigint, t timestamp) ON COMMIT DELETE ROWS")
    connection.commit()

    def copy(rows: Sequence[Count]) -> None:
        with connection.cursor() as cursor:
            with cursor.copy("COPY d FROM STDIN") as into:
                into.write("".join(f"{r.user}\t{r.feature}\t{r.uses}\t{r.last_used}\n" for r in rows))
            cursor.execute(update)
        connection.commit()

    return copy


def naive(url: str, tables: Tables) -> Callable[[Sequence[Count]], object]:
    """What an app does that counts in its requests, on PostgreSQL; of few of the rows."""
    engine = engines.own_engine(url)
    statement = (
        "INSERT INTO feature_usage (user_id, feature_name, last_used) VALUES (%s, %s, now()) "
        "ON CONFLICT (coalesce(user_id, '00000000-0000-0000-0000-000000000000'), coalesce(feature_name, '')) "
        "DO UPDATE SET usage_count = feature_usage.usage_count + 1, last_used = now()"
    )

    def each(rows: Sequence[Count]) -> None:
        for row in rows:
            with engine.begin() as connection:
                connection.exec_driver_sql(statement, (row.user, row.feature))

    return each


def case(write: Callable[[Sequence[Count]], object], batches: Batches, most: int | None = None) -> Case:
    """Seconds a key."""

    def work() -> float:
        rows = next(batches)[:most]
        start = time.perf_counter()
        write(rows)
        return (time.perf_counter() - start) / len(rows)

    return work


# ---- measured


@contextlib.contextmanager
def filled(name: str) -> Iterator[tuple[str, Tables]]:
    """A database whose tables hold all keys."""
    with database(name) as url:
        engine = sa.create_engine(url)
        tables = create_all(engine, users=None).tables
        writer = Writer(url, tables, history=True)
        now = utcnow()
        today = ((dt.datetime.combine(now.date(), dt.time()), 1),)
        every = [
            Count(f"feature {feature}", UUID(int=1 + user), 1, now, None, today)
            for user in range(USERS)
            for feature in range(FEATURES)
        ]
        for start in range(0, len(every), 10_000):
            writer.write(every[start : start + 10_000])
        del every  # the garbage collector would go through it in what is measured
        writer.close()
        settle(engine)
        yield url, tables
        engine.dispose()


def settle(engine: sa.Engine) -> None:
    """What the database would do by itself, done now."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE feature_usage, feature_usage_history")
            connection.exec_driver_sql("CHECKPOINT")


def of_existing_keys(name: str, url: str, tables: Tables, rounds: int) -> Iterator[Result]:
    engine = sa.create_engine(url)
    plain, with_history = Writer(url, tables), Writer(url, tables, history=True)
    for size in SIZES:

        def batches(history: bool = False, size: int = size) -> Batches:
            dice = random.Random(7)  # the same keys in every way
            while True:
                yield counts(size, dice, history=history)

        cases = {
            LEAST: case(least(name, url, tables), batches()),
            OURS: case(plain.write, batches()),
            HISTORY: case(with_history.write, batches(history=True)),
        }
        if name == POSTGRESQL:
            cases["the limit: an UPDATE of rows that COPY has brought"] = case(staged(url), batches())
            cases[NAIVE] = case(naive(url, tables), batches(), 50)
            cases[ASYNCPG] = case(Writer(url.replace("psycopg", "asyncpg"), tables).write, batches())
        found = compare(
            f"{name}, {size:,} keys that exist, seconds a key", cases, LEAST,
            rounds=rounds, between=lambda: settle(engine),
        )  # fmt: skip
        yield found
        if size == KEYS:
            sides = ((OURS, 0.8 if name == POSTGRESQL else 0.85), (HISTORY, 0.5 if name == POSTGRESQL else None))
            for side, limit in sides:
                if limit is not None:
                    what = f"{name}, {side} of {size:,} keys, rows a second / {LEAST}"
                    yield Bar(what, 1 / found[side].ratio, limit, is_least=True)
    plain.close()
    with_history.close()


def of_calls(url: str, tables: Tables, rounds: int) -> Iterator[Result]:
    """A flush as its caller sees it: threads, counting, sorting and encoding included."""
    engine = sa.create_engine(url)
    tracker = Tracker(url, Settings(history=None, flush_interval=3600, enabled=True))
    writes = {BARE: bare(url), BARE_LISTS: bare(url, lists=True), BARE_ARRAYS: bare_arrays(url, tables)}
    for size, limit in CALLS.items():
        meters = {name: Meter() for name in (*writes, CALL)}

        def measured(name: str, size: int = size, meters: dict[str, Meter] = meters) -> Case:
            dice = random.Random(7)

            def work() -> float:
                rows = counts(size, dice)
                dice.shuffle(rows)
                if name == CALL:
                    return flushed(tracker, rows, meters[name]) / size
                return meters[name].timed(lambda: writes[name](rows)) / size

            return work

        cases = {name: measured(name) for name in meters}
        for name, case_ in cases.items():
            case_()  # opens its session
            meters[name].used.clear()
        for meter in meters.values():
            meter.processor = Processor(url)
        title = f"{POSTGRESQL}, {size:,} keys that exist, as the caller sees it, seconds a key"
        found = compare(title, cases, BARE, rounds=rounds, between=lambda: settle(engine))
        yield found
        what = f"{POSTGRESQL}, {CALL}, {size:,} keys, rows a second / {BARE}"
        yield Bar(what, 1 / found[CALL].ratio, limit, is_least=True)
        ratios = (least / ours for least, ours in zip(meters[BARE].used, meters[CALL].used, strict=True))
        yield Bar(f"{what}, processor time of app and server", statistics.median(ratios), limit, is_least=True)
    tracker.shutdown()
    engine.dispose()


def of_new_keys(name: str, url: str, tables: Tables, rounds: int) -> Iterator[Result]:
    writer = Writer(url, tables)

    def batches(new: float) -> Batches:
        dice = random.Random()
        while True:
            yield counts(KEYS, dice, new)

    cases = {"all exist": case(writer.write, batches(0)), "one in ten is new": case(writer.write, batches(0.1))}
    yield compare(f"{name}, a flush of {KEYS:,} keys, seconds a key", cases, "all exist", rounds=rounds)
    writer.close()


def of_several_writers(name: str, url: str, tables: Tables, rounds: int) -> Iterator[Result]:
    writers = [Writer(url, tables) for _ in range(8)]

    def together(number: int) -> Case:
        dice = random.Random(number)

        def work() -> float:
            batches = [counts(1_000, dice) for _ in range(number)]
            threads = [
                threading.Thread(target=writer.write, args=(rows,))
                for writer, rows in zip(writers, batches, strict=False)
            ]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return (time.perf_counter() - start) / (1_000 * number)

        return work

    cases = {"1 writer": together(1), "4 writers at once": together(4), "8 writers at once": together(8)}
    yield compare(f"{name}, flushes of 1,000 keys, seconds a key", cases, "1 writer", rounds=rounds)
    for writer in writers:
        writer.close()


def measure(scale: float) -> Iterator[Result]:
    rounds = times(15, scale)
    for name in (POSTGRESQL, MARIADB, SQLITE):
        with filled(name) as (url, tables):
            yield from of_existing_keys(name, url, tables, rounds)
            if name == POSTGRESQL:
                yield from of_calls(url, tables, rounds)
            yield from of_new_keys(name, url, tables, rounds)
            yield from of_several_writers(name, url, tables, rounds)


if __name__ == "__main__":
    main(measure, __doc__, "psycopg", "asyncpg", "pymysql")
