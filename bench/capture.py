"""What a tracked call costs, beside the decorators that one knows. Run it: python bench/capture.py"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from databases import POSTGRESQL, SQLITE, database
from peers import EMPTY, PROMETHEUS, Function, after, awaiting, closure, empty, installed
from rounds import Bar, Case, Result, Table, compare, main, now, times
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

import usage_instrument as usage
from usage_instrument import _default, schema
from usage_instrument.capture.context import Request, holder

TRACKED = "@tracks"
BARE = "bare"
VARIANT, COLORS = "variant()", ["red", "blue"]
PEER = "closure with "
CALLS, FEW = 4_000, 200
"""A case and round; the others are slow."""
THREADS = 4


# ---- what is called


def function(x: int, y: int = 2) -> int:
    return x


async def coroutine(x: int, y: int = 2) -> int:
    return x


def generator(x: int, y: int = 2) -> Iterator[int]:
    yield x


async def asynchronous(x: int, y: int = 2) -> AsyncIterator[int]:
    yield x


def call(called: Function, calls: int = CALLS) -> float:
    """Seconds a call."""
    every = itertools.repeat(1, calls)
    start = now()
    for x in every:
        called(x)
    return (now() - start) / calls


def call_method(view: Any) -> float:
    every = itertools.repeat(1, CALLS)
    start = now()
    for x in every:
        view.method(x)
    return (now() - start) / CALLS


def exhaust(called: Function) -> float:
    start = now()
    for x in itertools.repeat(1, CALLS):
        for _ in called(x):
            pass
    return (now() - start) / CALLS


def run(work: Any) -> float:
    """A coroutine in which nothing ever waits, so that no event loop is in the way."""
    try:
        work.send(None)
    except StopIteration as stop:
        return float(stop.value)
    raise RuntimeError("the coroutine waited")


def await_it(called: Function) -> float:
    async def work() -> float:
        start = now()
        for x in itertools.repeat(1, CALLS):
            await called(x)
        return (now() - start) / CALLS

    return run(work())


def exhaust_async(called: Function) -> float:
    async def work() -> float:
        start = now()
        for x in itertools.repeat(1, CALLS):
            async for _ in called(x):
                pass
        return (now() - start) / CALLS

    return run(work())


def call_in_threads(called: Function) -> float:
    """Seconds a call of all threads together, each in the same request."""
    ready = threading.Barrier(THREADS + 1)
    request = holder.get()

    def work() -> None:
        holder.set(request)
        ready.wait()
        call(called)
        ready.wait()

    for _ in range(THREADS):
        threading.Thread(target=work).start()
    ready.wait()
    start = time.perf_counter()
    ready.wait()
    return (time.perf_counter() - start) / (CALLS * THREADS)


# ---- where


@contextlib.contextmanager
def in_a_request() -> Iterator[None]:
    request = Request("http", "GET")
    request.identify(42)
    token = holder.set(request)
    try:
        yield
    finally:
        holder.reset(token)


@contextlib.contextmanager
def configured(*, journal: bool = False) -> Iterator[None]:
    """A tracker on a SQLite file."""
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{Path(directory) / 'usage.db'}"
        engine = sa.create_engine(url)
        schema.create_all(engine, user_id_type="integer")
        engine.dispose()
        usage.configure(url, user_id_type="integer", journal=Path(directory) / "journal" if journal else None)
        yield
        _default.reset()  # shuts it down


# ---- measured


def side_by_side(title: str, loop: Callable[[Any], float], cases: dict[str, Any], rounds: int) -> Table:
    """In a request, with what was captured written between the rounds."""

    def case(name: str, target: Any) -> Case:
        return (lambda: call(target, FEW)) if name.startswith(PEER) else lambda: loop(target)

    with in_a_request():
        return compare(
            title,
            {name: case(name, target) for name, target in cases.items()},
            EMPTY,
            rounds=rounds,
            between=usage.flush,
        )


def at_commit(rounds: int) -> Iterator[Result]:
    """A use that waits for a transaction, beside one that does not, and beside a listener of the host's own."""
    engine = sa.create_engine("sqlite://")

    def committed(begin: Callable[[], Any], uses: int, track: Callable[[Any], object]) -> Case:
        """Seconds of a use, the end of its transaction included, which has no statement and so no COMMIT."""

        def case() -> float:
            spent = 0.0
            for _ in range(FEW):
                place = begin()
                start = now()
                for _ in range(uses):
                    track(place)
                place.commit()
                spent += now() - start
                place.close()
            return spent / (FEW * uses)

        return case

    def session() -> Any:
        found = Session(engine)
        found.begin()
        return found

    def connection() -> Any:
        found = engine.connect()
        found.begin()
        return found

    def listen(session: Session) -> None:
        sa.event.listen(session, "after_commit", lambda _: usage.track("bench"), once=True)

    plain, hooked, by_hand = "track()", "track(commit=…)", "track() in an after_commit listener"
    for name, begin in (("Session", session), ("Connection", connection)):
        for uses in (1, 10):
            cases = {
                "no use": committed(begin, uses, lambda place: None),
                plain: committed(begin, uses, lambda place: usage.track("bench")),
                hooked: committed(begin, uses, lambda place: usage.track("bench", commit=place)),
            }
            if name == "Session":  # a Connection has no event behind its COMMIT
                cases[by_hand] = committed(begin, uses, listen)
            title = f"A use in a transaction of a {name}, {uses} in each, its end included"
            found = compare(title, cases, plain, rounds=rounds, between=usage.flush)
            yield found
            what = f"{uses} in a transaction of a {name}"
            yield Bar(
                f"a use with commit= by a hook, over one without, {what}", found[hooked].over * 1e6, 3.0, unit="µs"
            )
            if by_hand in cases:
                added = found[hooked].over / found[by_hand].over
                yield Bar(f"a use with commit= by a hook, what it adds / what a listener adds, {what}", added, 1.0)


ROW, TWO, COUNTED = "one INSERT", "two INSERTs", "one INSERT and a use with commit="


def in_the_outbox(name: str, rounds: int) -> Iterator[Result]:
    """A row of the outbox beside a row of the host's own, in one transaction and by the wall clock."""
    orders = sa.Table(
        "orders", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("what", sa.Text)
    )
    numbers = itertools.count(1)

    def transaction(connection: sa.Connection, rows: int, uses: int) -> None:
        for _ in range(rows):
            connection.execute(orders.insert().values(id=next(numbers), what="a chair"))
        for _ in range(uses):
            usage.track("bench", commit=connection, user=7)

    with database(name) as url:
        engine = sa.create_engine(url)
        schema.create_all(engine, user_id_type="integer")
        orders.create(engine)
        usage.configure(url, user_id_type="integer", flush_interval=3600)

        def committed(rows: int, uses: int) -> Case:
            """Seconds of a transaction."""

            def case() -> float:
                start = time.perf_counter()
                for _ in range(FEW):
                    with engine.begin() as connection:
                        transaction(connection, rows, uses)
                return (time.perf_counter() - start) / FEW

            return case

        yield from in_turns(name, committed, rounds)
        engine.dispose()
        for driver in ("psycopg_async", "asyncpg") if name == POSTGRESQL else ():
            host = create_async_engine(sa.make_url(url).set(drivername=f"postgresql+{driver}"))
            with asyncio.Runner() as runner:

                def awaited(rows: int, uses: int, host: AsyncEngine = host, runner: asyncio.Runner = runner) -> Case:
                    async def case() -> float:
                        start = time.perf_counter()
                        for _ in range(FEW):
                            async with host.begin() as connection:
                                await connection.run_sync(transaction, rows, uses)
                        return (time.perf_counter() - start) / FEW

                    return lambda: runner.run(case())

                yield from in_turns(f"{name} by {driver}", awaited, rounds)
                runner.run(host.dispose())
        _default.reset()


def in_turns(name: str, committed: Callable[[int, int], Case], rounds: int) -> Iterator[Result]:
    """Transactions with a row, with another one, and with a use instead of it."""
    found = compare(
        f"{name}: a transaction of a Connection",
        {ROW: committed(1, 0), COUNTED: committed(1, 1), TWO: committed(2, 0)},
        ROW,
        rounds=rounds,
        between=usage.flush,
    )
    yield found
    share = found[COUNTED].over / found[TWO].over
    yield Bar(f"{name}: a use in the outbox / an INSERT more in the transaction", share, 1.3)


def measure(scale: float) -> Iterator[Result]:
    rounds = times(60, scale)
    tracks = usage.tracks("bench")
    with configured():
        plain = {
            BARE: function,
            "functools.wraps closure": closure(function),
            EMPTY: empty(function),
            TRACKED: tracks(function),
            "@tracks(user=callable)": usage.tracks("bench_user", user=lambda *args: 42)(function),
            "@tracks(user_arg=, metadata=)": usage.tracks("bench_rich", user_arg="x", metadata=["x", "y"])(function),
            VARIANT: lambda x: usage.variant("bench_button", COLORS),
        }
        peers = {f"{PEER}{name}": after(use)(function) for name, use in installed()}
        found = side_by_side("A function, its user from the request", call, plain | peers, rounds)
        yield found
        yield Bar("tracked function / empty wrapt decorator", found[TRACKED].ratio, 0.5)
        yield Bar("variant() for a known user / tracked function", found[VARIANT].ratio / found[TRACKED].ratio, 1.5)
        rival = f"{PEER}{PROMETHEUS}"
        if rival in peers:
            yield Bar("tracked function / prometheus_client", found[TRACKED].ratio / found[rival].ratio, 0.25)

        methods = {name: wrap(function_of_self) for name, wrap in ((BARE, _same), (EMPTY, empty), (TRACKED, tracks))}
        views = {name: type("View", (), {"method": method})() for name, method in methods.items()}
        found = side_by_side("A method", call_method, views, rounds)
        yield found
        yield Bar("tracked method / empty wrapt decorator", found[TRACKED].ratio, 0.85)

        # Counting when the await ends takes a second coroutine, which an empty decorator does not pay.
        kinds = {BARE: coroutine, "async closure": awaiting(coroutine), EMPTY: empty(coroutine)}
        found = side_by_side("A coroutine, awaited", await_it, {**kinds, TRACKED: tracks(coroutine)}, rounds)
        yield found
        yield Bar("tracked coroutine / empty wrapt decorator", found[TRACKED].ratio, 0.75)
        for title, loop, target in (
            ("A generator of one item, exhausted", exhaust, generator),
            ("An async generator of one item, exhausted", exhaust_async, asynchronous),
        ):
            cases = {BARE: target, EMPTY: empty(target), TRACKED: tracks(target)}
            yield side_by_side(title, loop, cases, rounds)
        threaded = {name: plain[name] for name in (BARE, EMPTY, TRACKED)}
        yield side_by_side(f"A function, called by {THREADS} threads at once", call_in_threads, threaded, rounds)
        yield from at_commit(rounds)
    for name in (SQLITE, POSTGRESQL):
        yield from in_the_outbox(name, times(20, scale))
    with configured(journal=True):
        cases = {BARE: function, EMPTY: empty(function), TRACKED: tracks(function)}
        found = side_by_side("A function, with the journal on", call, cases, rounds)
        yield found
        yield Bar("tracked function with the journal / empty wrapt decorator", found[TRACKED].ratio, 0.75)


def function_of_self(self: object, x: int, y: int = 2) -> int:
    return x


def _same(target: Function) -> Function:
    return target


if __name__ == "__main__":
    main(measure, __doc__, "prometheus-client", "opentelemetry-sdk", "statsd", "posthog", "segment-analytics-python")
