"""The flush of each dialect: values that survive a merge unchanged."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from conftest import Database
from reading import all_of, made, total
from usage_instrument.cli.app import app
from usage_instrument.database.dialects.mariadb import flush
from usage_instrument.database.dialects.postgresql.arrays import UsageArrays
from usage_instrument.database.engines import connect
from usage_instrument.database.ledger import QUEUE_ID, Ledger
from usage_instrument.events import Batch, Count
from usage_instrument.pipeline.store import Outcome, Store
from usage_instrument.schema import define_tables
from usage_instrument.settings import Settings
from usage_instrument.tracker import Tracker
from usage_instrument.typing import UserId, UserIdType

USERS: dict[UserIdType, list[UserId]] = {
    "uuid": [uuid.UUID(int=1), uuid.UUID(int=2**128 - 1)],
    "integer": [-(2**63) + 2, 2**63 - 1],
    "string": ["ada@example.org", "Ħäns 'ü\" \\ {1,NULL} 🎈"],
}
MIDNIGHT = dt.datetime(2026, 3, 29)


def cursor_of_a_function(*arguments: Any, **options: Any) -> psycopg.Cursor[Any]:
    return psycopg.Cursor(*arguments, **options)


@pytest.mark.parametrize("name", ["n", "two words", "ä"])
def test_integers_beyond_64_bits_survive_a_merge(database: Database, name: str) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = Tracker(database.url)
    big, negative, real = 2**64 + 1, -(2**70), 0.1
    for metadata in ({name: big, "negative": negative, "real": real}, {"more": 1}, {"more": 2}):
        tracker.track("search", metadata=metadata)
        assert tracker.flush(20), tracker.stats()
    tracker.shutdown(10)
    with engine.connect() as connection:
        (found,) = connection.scalars(sa.select(tables.usage.c.metadata)).all()
    assert found == {name: big, "negative": negative, "real": real, "more": 2}


def test_writers_of_galera_queue_for_a_row_that_is_no_process_and_stays(
    mariadb: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first row is that of another release's writer, which knows none of the queue."""
    monkeypatch.setattr(flush, "is_galera", lambda connection: True)
    engine = mariadb.engine()
    tables = made(engine)
    other, long_ago = uuid.UUID(int=2), dt.datetime(2020, 1, 1)
    with engine.begin() as connection:
        row = {"writer_id": other, "service": "", "last_batch": 3, "started_at": long_ago, "heartbeat_at": long_ago}
        connection.execute(tables.writers.insert(), row)
    trackers = [Tracker(mariadb.url), Tracker(mariadb.url)]
    for each in trackers:
        each.track("search")
        assert each.flush(20), each.stats()
    with engine.begin() as connection:
        first = "SELECT writer_id FROM feature_usage_writers ORDER BY writer_id LIMIT 1 FOR UPDATE"
        assert connection.scalar(sa.text(first).columns(tables.writers.c.writer_id)) == QUEUE_ID
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.writers)) == 4
        connection.execute(tables.writers.update().values(heartbeat_at=long_ago))
    doctor = CliRunner().invoke(app, ["doctor", "--url", mariadb.url])
    assert "0 active writers" in doctor.output
    assert "3 silent" in doctor.output
    assert CliRunner().invoke(app, ["prune", "--url", mariadb.url]).exit_code == 0
    with engine.begin() as connection:
        assert list(connection.scalars(sa.select(tables.writers.c.writer_id))) == [QUEUE_ID]
        connection.execute(tables.writers.delete())  # nothing but an order is lost with it
    for each in trackers:
        each.track("search")
        assert each.flush(20), each.stats()
        assert each.shutdown(20)
    assert total(engine, tables) == 4
    assert [row.writer_id for row in all_of(engine, tables.writers)] == [QUEUE_ID]


@pytest.mark.parametrize("form", ["psycopg", "psycopg_async", "psycopg2", "asyncpg", "client", "function", "latin1"])
@pytest.mark.parametrize("users", USERS)
def test_rows_are_the_same_in_each_form_in_which_they_are_sent(
    postgresql: Database, form: str, users: UserIdType
) -> None:
    engine = postgresql.engine()
    tables = made(engine, user_id_type=users)
    driver = form if form in {"psycopg_async", "psycopg2", "asyncpg"} else "psycopg"
    url = engine.url.set(drivername=f"postgresql+{driver}")
    options: dict[str, dict[str, Any]] = {
        "client": {"cursor_factory": psycopg.ClientCursor},
        "function": {"cursor_factory": cursor_of_a_function},
        "latin1": {"client_encoding": "latin1"},
    }
    host = sa.create_engine(url, connect_args=options[form]) if form in options else url
    store = Store(connect(host), tables, Settings())
    store.open()
    ledger = Ledger(tables, "tests")
    store.register(ledger)
    used = MIDNIGHT + dt.timedelta(hours=9, microseconds=1)
    every = [
        Count(feature, user, number, used, metadata, ((MIDNIGHT, number),))
        for user in (*USERS[users], None)
        for feature, number, metadata in (
            ("a", 1, None),
            ('b \\N, "{NULL}"', 2**31 - 1, '{"key":"\\u20ac","deep":{"a":[1,null,2.5]}}'),
            ("ü€🎈" * 33, 2, "{}"),
        )
    ]
    bare = [count._replace(metadata=None, history=()) for count in every]
    days = [count._replace(metadata=None, history=(*count.history, (used, 1))) for count in every]
    dated = [count._replace(metadata=None) for count in every]
    for number, counts in enumerate((every, bare, days, dated), 1):
        assert store.write(ledger, Batch(number, tuple(counts))) is Outcome.APPLIED
        ledger.number = number
    store.dispose()
    found = {(row.feature_name, row.user_id): row for row in all_of(engine, tables.usage)}
    history = {
        (row.feature_name, row.user_id, row.bucket_start): row.usage_count for row in all_of(engine, tables.history)
    }
    assert len(found) == len(every)
    assert len(history) == 2 * len(every)
    for count in every:
        row, key = found[count.feature, count.user], (count.feature, count.user)
        metadata = None if count.metadata is None else json.loads(count.metadata)
        assert (row.usage_count, row.last_used, row.metadata) == (min(4 * count.uses, 2**31 - 1), used, metadata)
        assert (history[*key, MIDNIGHT], history[*key, used]) == (min(3 * count.uses, 2**31 - 1), 1)


@pytest.mark.parametrize(("driver", "encoding"), [("psycopg", "utf8"), ("psycopg", "latin1"), ("psycopg2", "utf8")])
def test_connections_that_can_send_every_text_in_the_binary_format_send_arrays(
    postgresql: Database, driver: str, encoding: str
) -> None:
    url = postgresql.engine().url.set(drivername=f"postgresql+{driver}")
    with sa.create_engine(url, connect_args={"client_encoding": encoding}).connect() as connection:
        assert UsageArrays(define_tables(sa.MetaData())).fit(connection) is ((driver, encoding) == ("psycopg", "utf8"))


@pytest.mark.parametrize("type_", [sa.Uuid(native_uuid=False), sa.String(40, collation="C"), sa.CHAR(40)])
def test_users_of_a_type_of_its_own_count(postgresql: Database, type_: Any) -> None:
    engine, metadata = postgresql.engine(), sa.MetaData()
    users = sa.Table("users", metadata, sa.Column("id", type_, primary_key=True))
    tables = define_tables(metadata, user_id_type="uuid" if isinstance(type_, sa.Uuid) else "string", users=users)
    with engine.begin() as connection:
        metadata.create_all(connection)
        user = uuid.uuid4() if isinstance(type_, sa.Uuid) else "ada"
        connection.execute(users.insert().values(id=user))
    tracker = Tracker(engine, tables=tables)
    for _ in range(2):
        tracker.track("search", user=user)
        assert tracker.flush(20), tracker.stats()
    assert tracker.shutdown(10)
    assert [row.usage_count for row in all_of(engine, tables.usage)] == [2]
    with engine.connect() as connection:
        assert not UsageArrays(tables).fit(connection)
