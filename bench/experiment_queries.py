"""What the figures of an experiment take in PostgreSQL: python bench/experiment_queries.py [--units 1000000] [--plans]

Fills a PostgreSQL of its own with so many users, one exposure each, and ten times as many rows of history (90 days,
20 features), once with the statistics that the server collects, and once without. The aim for 1,000,000 exposures and
10,000,000 rows of history is 3 seconds. The times are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

import sqlalchemy as sa
from databases import POSTGRESQL, database

from usage_instrument import queries
from usage_instrument.schema import Tables, create_all

AIM = 3.0
"""Seconds for the goal of an experiment with a million units."""
ROUNDS = 3
FILL_EXPOSURES = """
INSERT INTO feature_usage_exposures (experiment, unit, variant, user_id, first_exposed_at, last_exposed_at, exposures)
SELECT 'button', u::text, CASE WHEN u % 2 = 0 THEN 'red' ELSE 'blue' END, u, at, at + interval '1 day', 2
FROM (
  SELECT u, date_trunc('day', now() AT TIME ZONE 'utc') - u % 28 * interval '1 day' + u % 86000 * interval '1 s' AS at
  FROM generate_series(1, :units) u
) users
"""
FILL_SECOND = """
INSERT INTO feature_usage_exposures (experiment, unit, variant, user_id, first_exposed_at, last_exposed_at, exposures)
SELECT experiment, unit, 'green', user_id, first_exposed_at, last_exposed_at, 1
FROM feature_usage_exposures WHERE user_id % 1000 = 0
"""
# In the order of time, as an application writes them. A feature of 20 is the goal.
FILL_HISTORY = """
INSERT INTO feature_usage_history (user_id, feature_name, bucket_start, usage_count)
SELECT u, 'feature ' || (u * 7 + n * 3) % 20, date_trunc('day', now() AT TIME ZONE 'utc') - day * interval '1 day',
  1 + u % 5
FROM (SELECT u, n, (u * 13 + n * 9) % 90 AS day FROM generate_series(1, :units) u, generate_series(0, 9) n) uses
ORDER BY day DESC
"""


def fill(engine: sa.Engine, tables: Tables, units: int, *, analyzed: bool) -> None:
    indexes = [index for table in (tables.exposures, tables.history) for index in table.indexes]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET maintenance_work_mem = '1GB'")
        for table in (tables.exposures, tables.history):
            connection.exec_driver_sql(f"ALTER TABLE {table.name} SET (autovacuum_enabled = {str(analyzed).lower()})")
        for index in indexes:
            connection.exec_driver_sql(f"DROP INDEX {index.name}")
        for statement in (FILL_EXPOSURES, FILL_SECOND, FILL_HISTORY):
            connection.execute(sa.text(statement), {"units": units} if ":units" in statement else {})
        for index in indexes:
            index.create(connection)
        if analyzed:
            connection.exec_driver_sql("VACUUM ANALYZE")


def measure(engine: sa.Engine, tables: Tables, units: int, *, plans: bool) -> None:
    asked = {
        "experiment": queries.experiment("button", "feature 7", tables=tables),
        "experiment, 14 days": queries.experiment("button", "feature 7", since="14d", tables=tables),
        "experiments": queries.experiments(tables=tables),
    }
    with engine.connect() as connection:
        for name, query in asked.items():
            taken = []
            for _ in range(ROUNDS):
                begun = time.perf_counter()
                rows = connection.execute(query).all()
                taken.append(time.perf_counter() - begun)
            line = f"  {name}: {statistics.median(taken):.2f} s ({', '.join(f'{each:.2f}' for each in taken)})"
            print(f"{line}, aim {AIM * units / 1e6:.2f} s" if name == "experiment" else line, flush=True)
            if name == "experiment":
                print(*(f"    {row}" for row in rows), sep="\n")
            if plans:
                sql = query.compile(engine, compile_kwargs={"literal_binds": True})
                for (row,) in connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {sql}".replace("%%", "%")):
                    print(f"    {row}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--plans", action="store_true")
    given = parser.parse_args()
    for analyzed, units in ((True, given.units), (False, min(given.units, 2_000))):
        known = "with" if analyzed else "without"
        print(f"{units:,} units, {10 * units:,} rows of history, {known} statistics", flush=True)
        with database(POSTGRESQL) as url:
            engine = sa.create_engine(url)
            tables = create_all(engine, users=None, user_id_type="integer").tables
            fill(engine, tables, units, analyzed=analyzed)
            measure(engine, tables, units, plans=given.plans)
            engine.dispose()


if __name__ == "__main__":
    main()
