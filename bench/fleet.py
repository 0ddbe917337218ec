"""The arithmetic of a fleet, and what one PostgreSQL carries: eight processes at once, and the fleet at which it ends.

    python bench/fleet.py [--page]

`--page` prints the arithmetic alone: processor time of the database, bytes and connections, beside the constants by
which `usage-instrument doctor --plan` computes.

A fleet of P processes that each flush K keys every S seconds asks for P * K / S keys a second. What a database carries
is measured here, with history, by 1, 4 and 8 processes, durability off; the table is that figure, divided out.
"""

from __future__ import annotations

import datetime as dt
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from databases import POSTGRESQL, Processor
from flush import Writer, counts, filled, settle
from rounds import Bar, Result, Row, Table, main, times

from usage_instrument import queries as q
from usage_instrument.cli import capacity
from usage_instrument.schema import Tables, define_tables

KEYS = 1_000
"""A flush."""
PROCESSES = (1, 4, 8)
INTERVAL = 5.0
UPDATES, BATCH = 2_000_000, 10_000
MONTH = dt.timedelta(days=28)
SIZES = (1, 10, 100, 1_000)
"""Keys of a flush, for the database's processor time."""
NEAR = 2.0
"""Times a constant of `doctor --plan` that a figure may be: other work on the machine makes much of it."""


def work(url: str, seconds: float) -> int:
    """Flush for so long; how many keys that were."""
    tables = define_tables(sa.MetaData(), users=None)
    writer, dice = Writer(url, tables, history=True), random.Random()
    batches = [counts(KEYS, dice, history=True) for _ in range(20)]  # made before: a process folds while others write
    print("ready", flush=True)
    sys.stdin.readline()
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        writer.write(batches[done % len(batches)])
        done += 1
    writer.close()
    return done * KEYS


def together(url: str, processes: int, seconds: float) -> float:
    """Keys a second of all processes."""
    command = [sys.executable, __file__, "--work", url, str(seconds)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(processes)]
    for one in running:
        if one.stdout is None or one.stdout.readline() != "ready\n":
            raise RuntimeError("a process did not start")
    said = [one.stdin for one in running if one.stdin is not None]
    for stdin in said:
        stdin.write("\n")
        stdin.flush()
    return sum(int(one.communicate()[0]) for one in running) / seconds


def arithmetic(url: str, tables: Tables, rounds: int) -> Iterator[Result]:
    """What the sessions of the database compute for a flush, and what a row and a session take. The least of all
    rounds: what others do on the machine only adds to it."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        sizes = {}
        for table in (tables.usage, tables.history):
            rows = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 1
            query = sa.text("SELECT pg_total_relation_size(CAST(:name AS regclass))")
            sizes[table] = int(connection.scalar(query, {"name": table.name}) or 0) / rows
    engine.dispose()
    used: dict[bool, dict[int, float]] = {}
    for history in (False, True):
        writer, dice = Writer(url, tables, history=history), random.Random(7)
        writer.write(counts(1, dice, history=history))
        processor, taken = Processor(url), {}
        for size in SIZES:
            batches = [counts(size, dice, history=history) for _ in range(rounds)]
            taken[size] = min(processor.of(partial(writer.write, batch)) for batch in batches) / size
        used[history] = taken
        memory = max(map(private_bytes, processor.sessions))
        writer.close()
        title = f"Processor time of PostgreSQL a key, {'with' if history else 'without'} history"
        first = taken[SIZES[0]]
        lines = tuple(Row(f"{size:,} keys a flush", each, each / first, 0) for size, each in taken.items())
        yield Table(title, lines[0].name, lines, "a process has one connection, and a collector one a host")
    few, many = SIZES[0], SIZES[-1]
    keys = {history: (t[many] * many - t[few] * few) / (many - few) for history, t in used.items()}
    flush = used[True][few] * few - keys[True] * few
    found = {
        "microseconds of a flush, beside its keys": (flush * 1e6, capacity.FLUSH_CPU * 1e6),
        "microseconds of a key without history": (keys[False] * 1e6, capacity.KEY_CPU * 1e6),
        "microseconds of a key with history": (keys[True] * 1e6, (capacity.KEY_CPU + capacity.HISTORY_CPU) * 1e6),
        "microseconds of a row of the history, read by the slowest of three questions": (
            reading(url, tables, rounds) * 1e6,
            capacity.READ_CPU * 1e6,
        ),
        "bytes of a row of feature_usage, indexes included": (sizes[tables.usage], capacity.USAGE_BYTES),
        "bytes of a row of feature_usage_history, indexes included": (sizes[tables.history], capacity.HISTORY_BYTES),
        "bytes of memory of a session of a writer": (memory, capacity.CONNECTION_BYTES),
    }
    for what, (figure, constant) in found.items():
        unit = f"(doctor --plan: {constant:,.4g})"
        yield Bar(what, figure, NEAR * constant, unit=unit)


def reading(url: str, tables: Tables, rounds: int) -> float:
    """Seconds of the database's processor for each row of the history that a question over 28 days reads."""
    engine = sa.create_engine(url)
    asked = (
        q.top_features(since=MONTH, tables=tables),
        q.active_users(tables=tables),
        q.adoption(since=MONTH, tables=tables),
    )
    with engine.connect() as connection:
        rows = connection.scalar(sa.select(sa.func.count()).select_from(tables.history)) or 1
        processor = Processor(url)
        taken = []
        for question in asked:
            answer = partial(answered, connection, question)
            taken.append(min(processor.of(answer) for _ in range(min(rounds, 5))))
    engine.dispose()
    return max(taken) / rows


def answered(connection: sa.Connection, question: sa.Executable) -> int:
    """How many rows the answer has."""
    return len(connection.execute(question).all())


def private_bytes(session: int) -> int:
    """Memory that a session shares with no other one."""
    lines = Path(f"/proc/{session}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def steady(url: str, tables: Tables) -> Iterator[Bar]:
    """Two million updates of the same hundred thousand rows: how many moved no index, how much the table grew."""
    engine = sa.create_engine(url)
    size = sa.text("SELECT pg_relation_size('feature_usage')")
    moved = sa.text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'feature_usage'")
    settle(engine)
    with engine.connect() as connection:
        before, (updates, hot) = connection.scalar(size), connection.execute(moved).one()
    writer, dice = Writer(url, tables), random.Random(7)
    for _ in range(UPDATES // BATCH):
        writer.write(counts(BATCH, dice))
    writer.close()
    time.sleep(2)  # the statistics follow
    with engine.connect() as connection:
        after, (all_updates, all_hot) = connection.scalar(size), connection.execute(moved).one()
    engine.dispose()
    share = (all_hot - hot) / (all_updates - updates)
    yield Bar(f"{UPDATES:,} updates of 100,000 rows, share that moved no index (HOT)", share, 0.95, is_least=True)
    yield Bar(f"{UPDATES:,} updates of 100,000 rows, growth of the table", float(after) / float(before), 1.3)


def measure(scale: float) -> Iterator[Result]:
    seconds = 5 * scale
    with filled(POSTGRESQL) as (url, tables):
        yield from arithmetic(url, tables, times(25, scale))
        yield from steady(url, tables)
        rates = {
            number: statistics.median(together(url, number, seconds) for _ in range(times(3, 1)))
            for number in PROCESSES
        }
        rows = tuple(
            Row(f"{number} process{'es' * (number > 1)}", 1 / rate, rates[1] / rate, 1 / rate - 1 / rates[1])
            for number, rate in rates.items()
        )
        note = "keys a second: " + ", ".join(f"{rate:,.0f}" for rate in rates.values())
        yield Table(f"PostgreSQL, flushes of {KEYS:,} keys with history, seconds a key", rows[0].name, rows, note)
        most, sizes = rates[max(PROCESSES)], (100, 1_000, 5_000)
        fleet = tuple(Row(f"{n:,} keys a flush, every {INTERVAL:g} s", n / INTERVAL / most, n / 100, 0) for n in sizes)
        ends = ", ".join(f"{1 / row.seconds:,.0f}" for row in fleet)
        yield Table(
            "What one process takes of that PostgreSQL, in seconds a second",
            fleet[0].name,
            fleet,
            f"it ends where this adds up to a second, at {ends} processes; computed from what {max(PROCESSES)} of them"
            " reached, on the cores that it shared with them",
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        print(work(sys.argv[2], float(sys.argv[3])))
    elif sys.argv[1:2] == ["--page"]:
        with filled(POSTGRESQL) as (database_url, its_tables):
            for result in arithmetic(database_url, its_tables, 25):
                print(result)
    else:
        main(measure, __doc__, "psycopg")
