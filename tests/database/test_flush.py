"""The flush of each dialect: values that survive a merge unchanged."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from conftest import Database
from reading import made
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
