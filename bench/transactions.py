"""What a use costs that counts with a transaction of the host's. Run it: python bench/transactions.py"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from databases import MARIADB, POSTGRESQL, SQLITE, configured, database
from peers import EMPTY, empty
from rounds import Bar, Case, Result, compare, main, now, times
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

import usage_instrument as usage
from usage_instrument import _default, schema

CALLS, FEW = 1_000, 50
"""Calls, and transactions, of a case and round: few, since what is compared are differences of two cases."""
ROW, TWO, COUNTED = "one INSERT", "two INSERTs", "one INSERT and a use with commit="
BUILT = "two INSERTs, the second one built once"

# ---- behind the COMMIT


@empty
def wrapped(x: int) -> int:
    return x


def call() -> float:
    """Seconds of a call."""
    start = now()
    for x in itertools.repeat(1, CALLS):
        wrapped(x)
    return (now() - start) / CALLS


def at_commit(rounds: int) -> Iterator[Result]:
    """A use that waits for a transaction, beside one that does not, and beside a listener of the host's own."""
    engine = sa.create_engine("sqlite://")

    def committed(begin: Callable[[], Any], uses: int, track: Callable[[Any], object]) -> Case:
        """Seconds of a use, its transaction included, which has no statement and so no COMMIT."""

        def case() -> float:
            start = now()
            for _ in range(FEW):
                place = begin()
                place.begin()
                for _ in range(uses):
                    track(place)
                place.commit()
                place.close()
            return (now() - start) / (FEW * uses)

        return case

    def listen(session: Session) -> None:
        sa.event.listen(session, "after_commit", lambda _: usage.track("bench"), once=True)

    plain, hooked, by_hand = "track()", "track(commit=…)", "track() in an after_commit listener"
    for name, begin in (("Session", lambda: Session(engine)), ("Connection", engine.connect)):
        for uses in (1, 10):
            cases = {
                EMPTY: call,
                "no use": committed(begin, uses, lambda place: None),
                plain: committed(begin, uses, lambda place: usage.track("bench")),
                hooked: committed(begin, uses, lambda place: usage.track("bench", commit=place)),
            }
            if name == "Session":  # a Connection has no event behind its COMMIT
                cases[by_hand] = committed(begin, uses, listen)
            title = f"A use in a transaction of a {name}, {uses} in each, the transaction included"
            found = compare(title, cases, plain, rounds=rounds, between=usage.flush)
            yield found
            what = f"{uses} in a transaction of a {name}"
            calls = found[hooked].over / found[EMPTY].seconds
            yield Bar(
                f"a use by a hook, over one without commit=, {what}, in calls of an empty wrapt decorator", calls, 7
            )
            if by_hand in cases:
                added = found[hooked].over / found[by_hand].over
                yield Bar(f"a use by a hook, what it adds / what a listener adds, {what}", added, 1.0)


# ---- in the transaction

_SERVES = {
    "postgresql": "SELECT pg_backend_pid()",
    "mysql": "SELECT tid FROM information_schema.processlist WHERE id = connection_id()",  # of MariaDB
}
"""Queries for the process or thread that serves a connection."""
_ASYNC = {POSTGRESQL: ("postgresql+psycopg_async", "postgresql+asyncpg"), MARIADB: ("mysql+aiomysql",)}
"""The async drivers that are measured besides the sync one."""


class Work:
    """The processor time of this thread, and of the process or thread of a server on this machine that serves it."""

    def __init__(self) -> None:
        self._server: Path | None = None

    def serve(self, connection: sa.Connection) -> None:
        """Count what serves a connection from now on."""
        query = _SERVES.get(connection.dialect.name)
        if query is not None:
            found = connection.scalar(sa.text(query))
            self._server = Path(f"/proc/{found}/task/{found}/schedstat")  # of Linux

    def seconds(self) -> float:
        """Of both, so far."""
        theirs = 0 if self._server is None else int(self._server.read_text(encoding="ascii").split()[0])
        return now() + theirs / 1e9


def in_the_outbox(name: str, rounds: int) -> Iterator[Result]:
    """A row of the outbox beside a row of the host's own, in one transaction."""
    orders = sa.Table(
        "orders", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("what", sa.Text)
    )
    built, numbers = orders.insert(), itertools.count(1)

    def transaction(connection: sa.Connection, rows: int, ready: int, uses: int) -> None:
        for _ in range(rows):
            connection.execute(orders.insert().values(id=next(numbers), what="a chair"))
        for _ in range(ready):
            connection.execute(built, {"id": next(numbers), "what": "a chair"})
        for _ in range(uses):
            usage.track("bench", commit=connection, user=7)

    with database(name) as url:
        engine = sa.create_engine(url)
        schema.create_all(engine, user_id_type="integer")
        orders.create(engine)
        usage.configure(url, user_id_type="integer", flush_interval=3600)
        work = Work()

        def committed(*content: int) -> Case:
            """Seconds of a transaction."""

            def case() -> float:
                with engine.connect() as connection:
                    work.serve(connection)
                start = work.seconds()
                for _ in range(FEW):
                    with engine.begin() as connection:
                        transaction(connection, *content)
                return (work.seconds() - start) / FEW

            return case

        yield from in_turns(name, committed, rounds)
        engine.dispose()
        for driver in _ASYNC.get(name, ()):
            host = create_async_engine(sa.make_url(url).set(drivername=driver))
            with asyncio.Runner() as runner:

                def awaited(*content: int, host: AsyncEngine = host, runner: asyncio.Runner = runner) -> Case:
                    async def case() -> float:
                        async with host.connect() as connection:
                            await connection.run_sync(work.serve)
                        start = work.seconds()
                        for _ in range(FEW):
                            async with host.begin() as connection:
                                await connection.run_sync(transaction, *content)
                        return (work.seconds() - start) / FEW

                    return lambda: runner.run(case())

                yield from in_turns(f"{name} by {driver.partition('+')[2]}", awaited, rounds)
                runner.run(host.dispose())
        _default.reset()


def in_turns(name: str, committed: Callable[..., Case], rounds: int) -> Iterator[Result]:
    """Transactions with a row, with another one, and with a use instead of it."""
    cases = {
        ROW: committed(1, 0, 0),
        COUNTED: committed(1, 0, 1),
        TWO: committed(2, 0, 0),
        BUILT: committed(1, 1, 0),
    }
    found = compare(
        f"{name}: a transaction of a Connection, by processor time of app and server",
        cases,
        ROW,
        rounds=rounds,
        between=usage.flush,
        note="`insert().values(…)` is built each time, unless it says so",
    )
    yield found
    share = found[COUNTED].over / found[TWO].over
    yield Bar(f"{name}: a use in the outbox / an INSERT more in the transaction", share, 1.3)


def measure(scale: float) -> Iterator[Result]:
    with configured():
        yield from at_commit(times(240, scale))
    for name in (SQLITE, POSTGRESQL, MARIADB):
        yield from in_the_outbox(name, times(80, scale))


if __name__ == "__main__":
    main(measure, __doc__, "psycopg", "asyncpg", "PyMySQL", "aiomysql")
