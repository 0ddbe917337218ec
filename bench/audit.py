"""What audited uses cost: a call with audit="required" beside the bare commit of such a row, and the flush of many
uses with audit=True beside a bare multi-row INSERT of their rows. Run it: python bench/audit.py

The wall clock is what counts here: a call waits for its commit. The servers keep their promises of durability.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from databases import MARIADB, POSTGRESQL, database
from rounds import Bar, Case, Result, compare, main, times

from usage_instrument import Settings, Tracker
from usage_instrument.audit.chain import Chain
from usage_instrument.capture.recording import new_access
from usage_instrument.events import Use
from usage_instrument.schema import Tables, create_all

CALLS = 100
PROCESSES = 8
OURS, AWAITED = 'a call with audit="required"', "the same call, awaited"
BARE, SESSION = "the bare INSERT and COMMIT", "the same by SQLAlchemy"
BULK, ROWS = 10_000, 1_000
"""Uses of a flush, and rows of a bare statement."""
FLUSHED, BARE_BULK = "the flush of audited uses", "a bare multi-row INSERT"


def _row(tables: Tables, chain: Chain) -> dict[str, Any]:
    rows = chain.rows([Use("open_vault", UUID(int=7), None, 0, new_access("attempted"))], "bench")
    chain.appended(rows)
    return rows[0]


class Bare:
    """The row, through the driver alone, on a connection that stays open."""

    def __init__(self, engine: sa.Engine, tables: Tables) -> None:
        self._tables, self._chain = tables, Chain(None)
        insert = tables.access.insert().compile(dialect=engine.dialect)
        self._text = str(insert)
        self._names = insert.positiontup or list(tables.access.c.keys())
        self._pooled = engine.raw_connection()
        self._connection: Any = self._pooled.driver_connection
        self._convert = {
            column.name: column.type.dialect_impl(engine.dialect).bind_processor(engine.dialect)
            for column in tables.access.c
        }

    def prepared(self, number: int) -> list[dict[str, Any]]:
        """Rows to write, so that making them is not measured."""
        rows = []
        for _ in range(number):
            row = _row(self._tables, self._chain)
            rows.append({name: process(row[name]) if (process := self._convert[name]) else row[name] for name in row})
        return rows

    def write(self, row: dict[str, Any]) -> None:
        with contextlib.closing(self._connection.cursor()) as cursor:
            cursor.execute(self._text, row)
        self._connection.commit()

    def write_bulk(self, rows: list[dict[str, Any]]) -> None:
        """Many rows in one transaction, by statements of ROWS rows."""
        head, _, _ = self._text.rpartition(" VALUES ")
        one = f"({', '.join(['%s'] * len(self._names))})"
        with contextlib.closing(self._connection.cursor()) as cursor:
            for start in range(0, len(rows), ROWS):
                some = rows[start : start + ROWS]
                values = [row[name] for row in some for name in self._names]
                cursor.execute(f"{head} VALUES {', '.join([one] * len(some))}", values)
        self._connection.commit()

    def close(self) -> None:
        self._pooled.close()


def _by_sqlalchemy(engine: sa.Engine, tables: Tables) -> Callable[[dict[str, Any]], None]:
    statement = tables.access.insert()

    def write(row: dict[str, Any]) -> None:
        with engine.begin() as connection:
            connection.execute(statement, row)

    return write


@contextlib.contextmanager
def cases(url: str, tables: Tables) -> Iterator[dict[str, Case]]:
    """Each makes CALLS commits, one after another."""
    engine = sa.create_engine(url)
    bare, write = Bare(engine, tables), _by_sqlalchemy(engine, tables)
    tracker, chain = Tracker(url, Settings(flush_interval=3600)), Chain(None)

    @tracker.tracks("open_vault", audit="required")
    def open_vault() -> None: ...

    @tracker.tracks("open_vault", audit="required")
    async def aopen_vault() -> None: ...

    async def _awaited() -> float:
        start = time.perf_counter()
        with tracker.as_user(UUID(int=7)):
            for _ in range(CALLS):
                await aopen_vault()
        return (time.perf_counter() - start) / CALLS

    def ours() -> float:
        start = time.perf_counter()
        with tracker.as_user(UUID(int=7)):
            for _ in range(CALLS):
                open_vault()
        return (time.perf_counter() - start) / CALLS

    def driver() -> float:
        rows = bare.prepared(CALLS)
        start = time.perf_counter()
        for row in rows:
            bare.write(row)
        return (time.perf_counter() - start) / CALLS

    def sqlalchemy() -> float:
        rows = [_row(tables, chain) for _ in range(CALLS)]
        start = time.perf_counter()
        for row in rows:
            write(row)
        return (time.perf_counter() - start) / CALLS

    yield {OURS: ours, AWAITED: lambda: asyncio.run(_awaited()), BARE: driver, SESSION: sqlalchemy}
    tracker.shutdown(60)
    bare.close()
    engine.dispose()


@contextlib.contextmanager
def bulk_cases(url: str, tables: Tables) -> Iterator[dict[str, Case]]:
    """Each writes BULK rows of the trail; the flush also captures, hashes and counts what it writes."""
    engine = sa.create_engine(url)
    bare, tracker = Bare(engine, tables), Tracker(url, Settings(flush_interval=3600))
    users = [UUID(int=number) for number in range(1, 101)]

    def flushed() -> float:
        for user in itertools.islice(itertools.cycle(users), BULK):
            tracker.track("open_vault", user=user, audit=True)
        start = time.perf_counter()
        if not tracker.flush(60):
            raise RuntimeError(tracker.stats().last_error)
        return (time.perf_counter() - start) / BULK

    def inserted() -> float:
        rows = bare.prepared(BULK)
        start = time.perf_counter()
        bare.write_bulk(rows)
        return (time.perf_counter() - start) / BULK

    yield {FLUSHED: flushed, BARE_BULK: inserted}
    tracker.shutdown(60)
    bare.close()
    engine.dispose()


# ---- processes side by side


def _work(url: str, case: str, begin: Any, calls: int) -> None:
    engine = sa.create_engine(url)
    tables = create_all(engine, users=None).tables
    with cases(url, tables) as found:
        found[case]()  # warm
        begin.wait()
        for _ in itertools.repeat(None, calls // CALLS):
            found[case]()
        begin.wait()
    engine.dispose()


def _together(url: str, case: str, processes: int, calls: int) -> float:
    """Seconds a commit, of all processes together."""
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(processes + 1)
    workers = [context.Process(target=_work, args=(url, case, begin, calls)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    begin.wait()
    start = time.perf_counter()
    begin.wait()
    taken = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return taken / (calls * processes)


def measure(scale: float) -> Iterator[Result]:
    """One process, then eight, on each server."""
    for name in (POSTGRESQL, MARIADB):
        with database(name, durable=True) as url:
            engine = sa.create_engine(url)
            tables = create_all(engine, users=None).tables
            engine.dispose()
            with cases(url, tables) as found:
                alone = compare(f"{name}: one commit, one process", found, BARE, rounds=times(15, scale))
            yield alone
            yield Bar(f"{name}: a required call against a bare commit", alone[OURS].ratio, 1.5)
            yield Bar(f"{name}: the same call, awaited", alone[AWAITED].ratio, 2.0)
            eight = {case: (lambda case=case: _together(url, case, PROCESSES, CALLS * 3)) for case in (OURS, BARE)}
            together = compare(f"{name}: one commit of {PROCESSES} processes", eight, BARE, rounds=times(5, scale))
            yield together
            with bulk_cases(url, tables) as bulk:
                many = compare(f"{name}: one audited use of {BULK:,}", bulk, BARE_BULK, rounds=times(5, scale))
            yield many
            yield Bar(f"{name}: the flush of audited uses against a bare multi-row INSERT", many[FLUSHED].ratio, 2.0)
            yield Bar(f"{name}: {PROCESSES} processes against bare commits of as many", together[OURS].ratio, 1.5)


if __name__ == "__main__":
    main(measure, __doc__, "psycopg", "pymysql")
