"""The views: what they show, on every database, to a role that may only read."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, Phase, assume, given, settings
from typer.testing import CliRunner

from conftest import Database, UsersDatabase
from queries import oracle
from queries.filled import Filled, agree
from queries.oracle import DAY, Answer, Rows, features
from queries.test_oracle import pasts
from reading import made
from usage_instrument import queries
from usage_instrument.cli.app import app
from usage_instrument.cli.demo import database as calendar
from usage_instrument.cli.demo import past
from usage_instrument.database.ledger import utcnow
from usage_instrument.errors import ConfigurationError, SchemaError
from usage_instrument.queries.printed import printed
from usage_instrument.schema import Tables, create_all, define_tables
from usage_instrument.views import VIEWS, View, create_views, drop_views

NAMES = [view.name for view in VIEWS]


class Seen:
    """A database with views, read as an analyst would."""

    def __init__(self, engine: sa.Engine, tables: Tables) -> None:
        self.engine, self.tables = engine, tables
        create_views(engine)

    def rows(self, view: str, order: str = "1") -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            found = connection.exec_driver_sql(f"SELECT * FROM {view} ORDER BY {order}")
            return [dict(row) for row in found.mappings()]

    def ask(self, question: Any) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(question).all())


@pytest.fixture
def seen(users_database: UsersDatabase) -> Seen:
    """Search by two users and nobody, export long ago, share never, fax once, by code that is gone."""
    engine, ids = users_database.engine, users_database.user_ids
    tables, now = made(engine), utcnow()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    uses = [(ids[0], "search", 0, 3), (ids[0], "search", 2, 4), (ids[1], "search", 2, 1), (None, "search", 1, 10)]
    uses += [(ids[0], "export", 120, 2), (ids[2], "fax", 50, 1)]
    totals: dict[Any, list[int]] = {}
    with engine.begin() as connection:
        for user, feature, days, number in uses:
            start = today - dt.timedelta(days=days)
            connection.execute(
                tables.history.insert().values(
                    user_id=user, feature_name=feature, bucket_start=start, usage_count=number
                )
            )
            of_all = totals.setdefault((user, feature), [0, days])
            of_all[0], of_all[1] = of_all[0] + number, min(of_all[1], days)
        for (user, feature), (number, days) in totals.items():
            last = now - dt.timedelta(days=days)
            connection.execute(
                tables.usage.insert().values(user_id=user, feature_name=feature, usage_count=number, last_used=last)
            )
        for feature, declared in (("search", 0), ("export", 0), ("share", 0), ("fax", 40)):
            last = now - dt.timedelta(days=declared)
            connection.execute(
                tables.catalog.insert().values(
                    service="web", feature_name=feature, declared_at=today, last_declared_at=last
                )
            )
    return Seen(engine, tables)


@pytest.fixture
def filled(database: Database) -> Iterator[Filled]:
    filled = Filled(database)
    create_views(filled.engine, tables=filled.tables)
    with filled.connection:
        yield filled


def test_overview(seen: Seen) -> None:
    found = {row["feature_name"]: row for row in seen.rows("feature_usage_overview")}
    assert {name: row["status"] for name, row in found.items()} == {
        "search": "used",
        "export": "dormant",
        "share": "never",
        "fax": "retired",
    }
    search = found["search"]
    assert (search["users"], int(search["uses"]), int(search["uses_28d"])) == (2, 18, 18)
    assert float(search["share"]) == pytest.approx(2 / 5)
    assert (int(found["export"]["uses"]), int(found["export"]["uses_28d"])) == (2, 0)
    assert found["share"]["last_used"] is None


def test_daily_has_no_gaps(seen: Seen) -> None:
    rows = seen.rows("feature_usage_daily", "feature_name, day")
    of_search = [row for row in rows if row["feature_name"] == "search"]
    today = utcnow().date()
    assert [str(row["day"]) for row in of_search] == [str(today - dt.timedelta(days=days)) for days in (2, 1, 0)]
    assert [(int(row["uses"]), row["users"], int(row["anonymous_uses"])) for row in of_search] == [
        (5, 2, 0),
        (10, 0, 10),
        (3, 1, 0),
    ]
    assert sum(row["feature_name"] == "export" for row in rows) == 121
    assert sum(int(row["uses"]) for row in rows if row["feature_name"] == "export") == 2


def test_active_is_the_question(seen: Seen) -> None:
    ((_, dau, wau, mau, stickiness),) = seen.ask(queries.active_users())
    (row,) = seen.rows("feature_usage_active")
    assert (row["dau"], row["wau"], row["mau"]) == (dau, wau, mau) == (1, 2, 2)
    assert float(row["stickiness"]) == pytest.approx(stickiness)


def test_users_are_made_to_be_joined(seen: Seen) -> None:
    rows = seen.rows("feature_usage_users")
    assert len(rows) == 5
    mine = max(rows, key=lambda row: int(row["active_days"]))
    assert (mine["feature_name"], int(mine["uses"]), int(mine["active_days"])) == ("search", 7, 2)
    assert str(mine["first_used"]) < str(mine["last_used"])
    with seen.engine.connect() as connection:
        joined = connection.exec_driver_sql(
            "SELECT u.name, v.uses FROM feature_usage_users v JOIN users u ON u.id = v.user_id "
            "WHERE v.feature_name = 'fax'"
        ).all()
    assert [(row[0], int(row[1])) for row in joined] == [("user 2", 1)]


def test_quality(seen: Seen) -> None:
    (row,) = seen.rows("feature_usage_quality")
    (last,) = seen.ask(sa.select(sa.func.max(seen.tables.usage.c.last_used)))
    assert str(row["as_of"]) == str(last[0])  # every process has ended, and taken its row along
    assert (row["losses_7d"], row["writers"], row["silent_writers"]) == (0, 0, 0)
    now = utcnow()
    with seen.engine.begin() as connection:
        for minutes in (0, 60):
            beat = now - dt.timedelta(minutes=minutes)
            connection.execute(
                seen.tables.writers.insert().values(writer_id=uuid.uuid4(), started_at=beat, heartbeat_at=beat)
            )
        for days, uses in ((0, 3), (6, 4), (8, 100)):
            day = now.date() - dt.timedelta(days=days)
            connection.execute(seen.tables.losses.insert().values(day=day, reason="memory full", uses=uses))
    (row,) = seen.rows("feature_usage_quality")
    assert (row["losses_7d"], row["writers"], row["silent_writers"]) == (7, 1, 1)
    assert str(row["as_of"]).removesuffix("000") == str(now).removesuffix("000")


def test_a_large_past_agrees_with_the_questions(database: Database) -> None:
    engine = database.engine()
    calendar.create_database(engine, [])
    tables = create_all(engine).tables
    past.fill(engine, tables, 1_000, users=calendar.users)
    it = Seen(engine, tables)
    with engine.connect() as connection:
        daily = connection.exec_driver_sql("SELECT SUM(uses) FROM feature_usage_daily").scalar_one()
        users = connection.exec_driver_sql("SELECT SUM(uses), COUNT(*) FROM feature_usage_users").one()
    overview = {row["feature_name"]: row for row in it.rows("feature_usage_overview")}
    assert int(daily) == int(users[0]) == sum(int(row["uses"]) for row in overview.values())
    assert users[1] == 1_000
    for row in it.ask(queries.adoption(tables=tables)):
        seen_there = overview[row.feature_name]
        assert (int(seen_there["uses"]), seen_there["users"]) == (row.uses, row.unique_users)


@settings(
    max_examples=10,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=pasts())
def test_they_show_what_plain_python_does(filled: Filled, rows: Rows) -> None:
    filled.fill(rows)
    answers = {view.name: filled.ask(sa.select(*_columns(view, filled.tables))) for view in VIEWS}
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    assume(oracle.floor("day", rows.now) == oracle.floor("day", now))
    for name, expected in shown(rows).items():
        agree(name, sorted(answers[name], key=repr), sorted(expected, key=repr))


def _columns(view: View, tables: Tables) -> list[sa.Label[Any]]:
    """Its columns, with the types that SQLite keeps to itself."""
    seen = sa.table(view.name, *(sa.column(name) for name in view.columns))
    types = [column.type for column in view.make(tables).selected_columns]
    return [sa.type_coerce(column, type_).label(column.name) for column, type_ in zip(seen.c, types, strict=True)]


def shown(rows: Rows) -> dict[str, Answer]:
    """What the views have to show; names that are NULL are no features."""
    today, named = rows.today, [row for row in rows.history if row.feature_name is not None]
    unused = {row[0]: row for row in oracle.unused_features(rows, None, None)}
    retired = {row[0] for row in oracle.unused_features(rows, 0 * DAY, None) if row[1] == "retired"}
    overview, daily, users = [], [], []
    for name in features([*rows.usage, *rows.catalog]) - {None}:
        its = [use for use in rows.usage if use.feature_name == name]
        last = max((use.last_used for use in its), default=None)
        recent = [row for row in named if row.feature_name == name and row.bucket_start >= today - 27 * DAY]
        declared = [each for each in rows.catalog if each.feature_name == name]
        text = max((each.description or "" for each in declared), default="") or None
        status = "dormant" if last is not None and last < rows.now - 90 * DAY else "used"
        status = unused[name][1] if name in unused else "retired" if name in retired else status
        people = rows.members(its)
        share = oracle.share(people, rows.population)
        first = min((each.declared_at for each in declared), default=None)
        overview.append((name, status, people, oracle.uses(its), oracle.uses(recent), last, share, first, text))
    for name in features(named):
        buckets = [row for row in named if row.feature_name == name]
        day = oracle.floor("day", min(row.bucket_start for row in buckets))
        while day <= today:
            mine = [row for row in buckets if oracle.floor("day", row.bucket_start) == day]
            anonymous = oracle.uses(row for row in mine if row.user_id is None)
            daily.append((day.date(), name, oracle.uses(mine), oracle.users(mine), anonymous))
            day += DAY
    for use in rows.usage:
        key = (use.user_id, use.feature_name)
        starts = [row.bucket_start for row in rows.history if (row.user_id, row.feature_name) == key]
        days = len({oracle.floor("day", start) for start in starts})
        users.append((*key, use.usage_count or 0, days, min([*starts, use.last_used]), use.last_used))
    last = max((use.last_used for use in rows.usage), default=None)
    return {
        "feature_usage_overview": overview,
        "feature_usage_daily": daily,
        "feature_usage_active": oracle.active_users(rows, None, None),
        "feature_usage_users": users,
        "feature_usage_quality": [(last, 0, 0, 0)],
    }


def test_they_are_replaced_and_dropped(seen: Seen) -> None:
    assert create_views(seen.engine) == NAMES
    with seen.engine.begin() as connection:
        assert create_views(connection, tables=seen.tables) == NAMES
    assert drop_views(seen.engine) == NAMES
    assert drop_views(seen.engine) == []
    assert sa.inspect(seen.engine).get_view_names() == []


def test_a_role_that_may_only_read(postgresql: Database) -> None:
    engine = postgresql.engine()
    made(engine)
    create_views(engine)
    role = f"analyst_{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role}")
        for name in NAMES:
            connection.exec_driver_sql(f"GRANT SELECT ON {name} TO {role}")
    try:
        with engine.begin() as connection:
            create_views(connection)  # what was granted stays
            connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
            for name in NAMES:
                connection.exec_driver_sql(f"SELECT * FROM {name}").all()
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_reader_of_mariadb_needs_no_table(mariadb: Database) -> None:
    engine = mariadb.engine()
    made(engine)
    create_views(engine)
    database, reader = engine.url.database, f"analyst_{uuid.uuid4().hex[:8]}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE USER {reader} IDENTIFIED BY 'secret'")
        for name in NAMES:
            connection.exec_driver_sql(f"GRANT SELECT ON {database}.{name} TO {reader}")
    create_views(engine)  # what was granted stays
    theirs = sa.create_engine(engine.url.set(username=reader, password="secret"), poolclass=sa.NullPool)
    try:
        with theirs.connect() as connection:
            for name in NAMES:
                connection.exec_driver_sql(f"SELECT * FROM {name}").all()
            with pytest.raises(sa.exc.DBAPIError, match="denied"):
                connection.exec_driver_sql("SELECT * FROM feature_usage")
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP USER {reader}")


def test_all_are_made_or_none(sqlite: Database) -> None:
    engine = sqlite.engine()
    made(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE feature_usage_quality (mine INTEGER)")
    with pytest.raises(sa.exc.OperationalError, match="feature_usage_quality"):
        create_views(engine)
    assert sa.inspect(engine).get_view_names() == []


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection", "ignore:autogenerate skipping")  # SQLite
def test_alembic_leaves_them_alone(database: Database) -> None:
    engine, metadata = database.engine(), sa.MetaData()
    define_tables(metadata, users=None)
    made(engine)
    create_views(engine)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    assert differences == []


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite", "mariadb"])
def test_their_sql_knows_no_moment(dialect: str) -> None:
    for view in VIEWS:
        sql = printed(view.make(define_tables(sa.MetaData())), sa.URL.create(dialect).get_dialect()())
        assert str(utcnow().year) not in sql


def test_they_say_what_they_are(postgresql: Database) -> None:
    engine = postgresql.engine()
    made(engine)
    create_views(engine)
    with engine.connect() as connection:
        for view in VIEWS:
            said = connection.exec_driver_sql(f"SELECT obj_description('{view.name}'::regclass)").scalar()
            assert said == view.comment
            columns = connection.exec_driver_sql(
                "SELECT a.attname, col_description(a.attrelid, a.attnum) FROM pg_attribute a "
                f"WHERE a.attrelid = '{view.name}'::regclass ORDER BY a.attnum"
            ).all()
            assert [tuple(column) for column in columns] == list(view.columns.items())


def test_another_schema(postgresql: Database) -> None:
    engine = postgresql.engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA product")
        tables = create_all(connection, schema="product").tables
        assert create_views(connection, tables=tables) == [f"product.{name}" for name in NAMES]
        assert connection.exec_driver_sql("SELECT count(*) FROM product.feature_usage_overview").scalar() == 0


def test_days_of_a_session_elsewhere(postgresql: Database) -> None:
    engine = postgresql.engine()
    tables = made(engine)
    now = utcnow()
    with engine.begin() as connection:
        connection.exec_driver_sql("SET TIME ZONE 'Pacific/Kiritimati'")
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        connection.execute(tables.history.insert().values(feature_name="f", bucket_start=today, usage_count=1))
        create_views(connection)
        assert connection.exec_driver_sql("SELECT day FROM feature_usage_daily").scalars().all() == [now.date()]


def test_what_cannot_work_is_said(sqlite: Database) -> None:
    with pytest.raises(SchemaError, match="usage-instrument db create"):
        create_views(sqlite.engine())
    tables = made(sqlite.engine())
    tables.losses.drop(sqlite.engine())
    with pytest.raises(SchemaError, match="no table feature_usage_losses: run `usage-instrument db create`"):
        create_views(sqlite.engine())
    with pytest.raises(ConfigurationError, match="run_sync"):
        create_views("sqlite://")  # type: ignore[arg-type]


def test_the_command(database: Database) -> None:
    made(database.engine())
    done = CliRunner().invoke(app, ["db", "views", "--url", database.url])
    assert done.exit_code == 0, done.output
    assert all(name in done.stdout for name in NAMES)
    done = CliRunner().invoke(app, ["db", "views", "--drop", "--url", database.url, "--format", "json"])
    assert done.exit_code == 0, done.output
    assert sa.inspect(database.engine()).get_view_names() == []
