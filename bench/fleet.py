"""What one PostgreSQL carries: eight processes at once, and the fleet at which it ends. Run it: python bench/fleet.py

A fleet of P processes that each flush K keys every S seconds asks for P * K / S keys a second. What a database carries
is measured here, with history, by 1, 4 and 8 processes, durability off; the table is that figure, divided out.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import sqlalchemy as sa
from databases import POSTGRESQL
from flush import Writer, counts, filled, settle
from rounds import Bar, Result, Row, Table, main, times

from usage_instrument.schema import Tables, define_tables

KEYS = 1_000
"""A flush."""
PROCESSES = (1, 4, 8)
INTERVAL = 5.0
UPDATES, BATCH = 2_000_000, 10_000


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
    else:
        main(measure, __doc__, "psycopg")
