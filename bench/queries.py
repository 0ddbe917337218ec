"""What the analysts' questions take in PostgreSQL, next to the best SQL that one can write by hand for each.

    python bench/queries.py [--rows 1000000] [--plans plans.txt] [--url postgresql+psycopg://…] [--only spikes]

Fills a PostgreSQL of its own, started as the tests start theirs, with N rows of `feature_usage` and ten times as many
of `feature_usage_history` (400 days), or a database that `--url` names and `--keep` has filled before. Each question
and its SQL of by_hand.sql run in turns; the times are medians, and both must give the same answer. Trust the ratios.

`--rollups` makes rollups of the history instead, and asks the questions that read them about 400 days, with them and
without.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import decimal
import re
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import servers  # noqa: E402 - of the tests
from usage_instrument import Settings  # noqa: E402
from usage_instrument import queries as q  # noqa: E402
from usage_instrument.database import dialects  # noqa: E402
from usage_instrument.database.engines import connect  # noqa: E402
from usage_instrument.pipeline.store import Store  # noqa: E402
from usage_instrument.schema import Tables, create_all  # noqa: E402
from usage_instrument.upgrade import upgrade  # noqa: E402

AIM = 1.5
"""The highest ratio that we accept."""
USES_A_USER = 10
FEATURES = 200
MONTH = dt.timedelta(days=28)

FILL_USERS = """
INSERT INTO users SELECT md5(u::text)::uuid, (ARRAY['free', 'free', 'pro', NULL])[1 + u % 4]
FROM generate_series(1, :users) u
"""
# Each user has ten features, one out of each score, the first of which are the popular ones; uses follow a power law.
# The last use is in the newest of the days that FILL_HISTORY derives from the id. Where the number of users is a
# multiple of 400, a user's features are used on the same days.
FILL_USAGE = """
INSERT INTO feature_usage (id, user_id, feature_name, metadata, usage_count, last_used)
SELECT k * :users + u, md5(u::text)::uuid,
  'feature ' || k * 20 + floor(20 * power(hash / 2147483648.0, 2 + k / 3.0))::int,
  jsonb_build_object('variant', chr(65 + u % 3)), 1 + floor(power(1000, hash / 2147483648.0))::int,
  least(now() AT TIME ZONE 'utc',
    date_trunc('day', now() AT TIME ZONE 'utc') - day * interval '1 day' + hash % 86400 * interval '1 second')
FROM generate_series(1, :users) u, generate_series(0, 9) k,
  LATERAL (SELECT abs(hashint8(u * 10 + k)::bigint) AS hash) h,
  LATERAL (SELECT min((k * :users + u + n * 41) % 400) AS day FROM generate_series(0, 9) n) newest
UNION ALL
SELECT :users * 10 + f + 1, NULL, 'feature ' || f, NULL, 10000 + f, now() AT TIME ZONE 'utc'
FROM generate_series(0, 199) f
"""
# In the order of time, as an application writes them.
FILL_HISTORY = """
INSERT INTO feature_usage_history (user_id, feature_name, bucket_start, usage_count)
SELECT user_id, feature_name, date_trunc('day', now() AT TIME ZONE 'utc') - day * interval '1 day', uses
FROM (
  SELECT user_id, feature_name, (id + n * 41) % 400 AS day, 1 + (id + n) % 9 AS uses
  FROM feature_usage, generate_series(0, 9) n WHERE user_id IS NOT NULL
  UNION ALL
  SELECT NULL, feature_name, day, 20 + (id + day * 7) % 13 + CASE WHEN day = 3 AND id % 50 = 0 THEN 9000 ELSE 0 END
  FROM feature_usage, generate_series(0, 399) day WHERE user_id IS NULL
) buckets ORDER BY day DESC
"""
FILL_CATALOG = """
INSERT INTO feature_usage_catalog (service, feature_name, description, declared_at, last_declared_at)
SELECT 'web', 'feature ' || f, 'What it is', now() AT TIME ZONE 'utc' - interval '300 days',
  now() AT TIME ZONE 'utc' - CASE WHEN f % 5 = 0 THEN interval '60 days' ELSE interval '1 hour' END
FROM generate_series(20, 229) f
"""


def questions(tables: Tables, plan: sa.Column[Any], user: Any) -> dict[str, Any]:
    """The questions by the names that by_hand.sql has for them."""
    week, month = dt.timedelta(days=7), dt.timedelta(days=28)
    return {
        "top_features": q.top_features(),
        "top_features, 7 days": q.top_features(since=week),
        "user_features": q.user_features(user),
        "adoption": q.adoption(tables=tables),
        "adoption, users unknown": q.adoption(),
        "adoption by plan": q.adoption(by=plan),
        "adoption, 28 days": q.adoption(since=month, tables=tables),
        "unused_features": q.unused_features(),
        "unused_features, 30 days": q.unused_features(dt.timedelta(days=30)),
        "power_users": q.power_users(),
        "power_users of a feature": q.power_users("feature 7"),
        "power_users, 28 days": q.power_users(since=month),
        "trend": q.trend(),
        "trend of a feature": q.trend("feature 7"),
        "trend by month of all time": q.trend(by="month", since=None),
        "active_users": q.active_users(),
        "spikes": q.spikes(),
        "variants": q.variants("feature 7", "variant"),
        "related_features": q.related_features("feature 7"),
        "recommend": q.recommend(user),
    }


def by_hand(user: Any) -> dict[str, str]:
    """The statements of by_hand.sql."""
    parts = re.split(r"^-- (.+)$", (HERE / "by_hand.sql").read_text(), flags=re.MULTILINE)
    return {name: sql.strip().replace(":user", f"'{user}'") for name, sql in zip(parts[1::2], parts[2::2], strict=True)}


@contextlib.contextmanager
def server(url: str | None) -> Iterator[sa.Engine]:
    with contextlib.ExitStack() as stack:
        if url is None:
            port = stack.enter_context(servers.postgresql())
            url = f"postgresql+psycopg://{servers.USER}:{servers.PASSWORD}@127.0.0.1:{port}/postgres"
        engine = sa.create_engine(url)
        stack.callback(engine.dispose)
        yield engine


def filled(engine: sa.Engine, rows: int) -> tuple[Tables, sa.Table]:
    """The tables, with rows if they are new; indexes are made afterwards, which is the faster way."""
    people = sa.Table(
        "users", sa.MetaData(), sa.Column("id", sa.Uuid, primary_key=True), sa.Column("plan", sa.String(10))
    )
    people.metadata.create_all(engine)
    created = create_all(engine)
    if created.made:
        fill(engine, created.tables, max(rows // USES_A_USER, 1))
    return created.tables, people


def fill(engine: sa.Engine, tables: Tables, users: int) -> None:
    indexes = [index for table in (tables.usage, tables.history) for index in table.indexes]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET session_replication_role = replica")  # foreign keys are right by themselves
        connection.exec_driver_sql("SET maintenance_work_mem = '1GB'")
        connection.exec_driver_sql("SET work_mem = '1GB'")
        for index in indexes:
            connection.exec_driver_sql(f"DROP INDEX {index.name}")
        for statement in (FILL_USERS, FILL_USAGE, FILL_HISTORY, FILL_CATALOG):
            started = time.perf_counter()
            done = connection.execute(sa.text(statement), {"users": users} if ":users" in statement else {})
            print(f"{statement.split()[2]}: {done.rowcount:,} rows in {time.perf_counter() - started:.0f} s")
        for index in indexes:
            connection.execute(CreateIndex(index))
        connection.exec_driver_sql("VACUUM ANALYZE")


def compare_rollups(engine: sa.Engine, tables: Tables, rounds: int, only: str | None) -> None:
    """Print what the rollups cost, and the milliseconds of each question that reads them."""
    store = Store(connect(engine), replace(tables, history_rollups=True), Settings())
    store.open()
    with engine.connect() as connection:
        upgrade(connection, replace(tables, history_rollups=True))
    started = time.perf_counter()
    weeks = sum(store.retention.renew_rollups(dt.datetime(2000, 1, 1), patiently=True))
    store.dispose()
    print(f"{weeks} weeks rolled up in {time.perf_counter() - started:.0f} s")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        sizes = "SELECT relname, pg_size_pretty(pg_total_relation_size(oid)) FROM pg_class WHERE relname IN "
        names = "('feature_usage_history', 'feature_usage_rollup_days', 'feature_usage_rollup_users')"
        for name, size in connection.exec_driver_sql(f"{sizes}{names} ORDER BY 1"):
            print(f"{name}: {size}")
    with engine.connect() as connection:
        print(f"\n{'400 days':28} {'ms':>8} {'rollups':>8} {'ratio':>6}")
        rolled = over_400_days(replace(tables, history_rollups=True))
        for name, question in over_400_days(tables).items():
            if only is None or only in name:
                dialects.get("postgresql").prepare_questions(connection)
                theirs, ours = measured(connection, (question, rolled[name]), rounds)
                a, b = statistics.median(theirs) * 1000, statistics.median(ours) * 1000
                print(f"{name:28} {a:8.1f} {b:8.1f} {b / a:6.2f}", flush=True)


def over_400_days(tables: Tables) -> dict[str, Any]:
    """The questions that read rollups."""
    span: Any = {"since": dt.timedelta(days=400), "tables": tables}
    return {
        "top_features": q.top_features(**span),
        "trend": q.trend(**span),
        "trend by week": q.trend(by="week", **span),
        "stickiness": q.stickiness(**span),
        "power_users": q.power_users(**span),
        "time_to_adopt": q.time_to_adopt("feature 7", **span),
        "lifecycle": q.lifecycle(**span),
        "lifecycle by month": q.lifecycle(by="month", **span),
        "retention": q.retention(**span),
        "retention by month": q.retention(by="month", **span),
    }


def measured(connection: sa.Connection, pair: tuple[Any, Any], rounds: int) -> tuple[list[float], list[float]]:
    """The seconds of each round, of the question and of the SQL by hand, whose answers are the same."""
    ours: list[float] = []
    theirs: list[float] = []
    answers: list[Any] = []
    for number in range(rounds + 1):
        answers = []
        for times, statement in zip((ours, theirs), pair, strict=True):
            started = time.perf_counter()
            is_by_hand = isinstance(statement, str)
            found = connection.exec_driver_sql(statement) if is_by_hand else connection.execute(statement)
            rows = found.all()
            if number:  # the first round warms up
                times.append(time.perf_counter() - started)
            answers.append([tuple(map(plain, row)) for row in rows])
        connection.rollback()
    if answers[0] != answers[1]:
        raise SystemExit(f"the answers differ:\n{answers[0][:5]}\n{answers[1][:5]}\n{pair[1]}")
    return ours, theirs


def plain(value: Any) -> Any:
    """Numbers of any type, so far as floats agree."""
    if isinstance(value, decimal.Decimal | float):
        return float(f"{value:.9g}")
    return value


def explained(connection: sa.Connection, question: Any) -> str:
    sql = str(question.compile(connection.engine, compile_kwargs={"literal_binds": True}))
    return "\n".join(connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {sql}").scalars())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of feature_usage; the history has ten times more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="the questions whose name holds this")
    parser.add_argument("--plans", type=Path, help="a file for the plans of the questions")
    parser.add_argument("--rollups", action="store_true", help="compare the history with its rollups")
    parser.add_argument("--url", help="a PostgreSQL to use, which is filled if it has no feature_usage yet")
    options = parser.parse_args()
    plans = []
    with server(options.url) as engine:
        tables, people = filled(engine, options.rows)
        if options.rollups:
            compare_rollups(engine, tables, options.rounds, options.only)
            return
        with engine.connect() as connection:
            user = connection.scalar(sa.select(people.c.id).order_by(people.c.id).limit(1))
            asked, statements = questions(tables, people.c.plan, user), by_hand(user)
            print(f"\n{'question':28} {'ms':>8} {'by hand':>8} {'ratio':>6}")
            for name, question in asked.items():
                if options.only is None or options.only in name:
                    ours, theirs = measured(connection, (question, statements[name]), options.rounds)
                    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
                    mark = "" if ratio <= AIM else "  above the aim"
                    a, b = statistics.median(ours) * 1000, statistics.median(theirs) * 1000
                    print(f"{name:28} {a:8.1f} {b:8.1f} {ratio:6.2f}{mark}", flush=True)
                    if options.plans:
                        plans.append(f"-- {name}\n{question.compile(engine)}\n\n{explained(connection, question)}\n")
    if options.plans:
        options.plans.write_text("\n".join(plans))


if __name__ == "__main__":
    main()
