"""The flush of each dialect: values that survive a merge unchanged."""

from __future__ import annotations

import datetime as dt
import uuid

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from conftest import Database
from reading import all_of, made, total
from usage_instrument.cli.app import app
from usage_instrument.database.dialects.mariadb import flush
from usage_instrument.database.ledger import QUEUE_ID
from usage_instrument.tracker import Tracker


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
    other, long_ago = uuid.UUID(int=1), dt.datetime(2020, 1, 1)
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
