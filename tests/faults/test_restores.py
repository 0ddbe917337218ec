"""A server is restored from a backup while its writers live: the writers send again what the backup lacks."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from captures import INTERVAL, assert_left_nothing
from conftest import Database
from proxy import Cut, through, url_through
from reading import all_of, balanced, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.schema import Tables


class Backup:
    """A copy of the tables."""

    def __init__(self, engine: sa.Engine, tables: Tables) -> None:
        self._engine = engine
        self._rows = {table: all_of(engine, table) for table in (tables.usage, tables.history, tables.writers)}

    def restore(self) -> None:
        with self._engine.begin() as connection:
            for table, rows in self._rows.items():
                connection.execute(table.delete())
                if rows:
                    connection.execute(table.insert(), [dict(row._mapping) for row in rows])


@pytest.mark.parametrize("journal", [False, True], ids=["memory", "journal"])
@pytest.mark.parametrize("doubt", [False, True], ids=["certain", "in-doubt"])
@pytest.mark.parametrize("known", [True, False], ids=["row-lowered", "row-gone"])
def test_a_restored_server_is_written_on(
    known: bool, doubt: bool, journal: bool, server: Database, tmp_path: Path
) -> None:
    engine = server.engine()
    tables = made(engine)
    with through(server) as proxy:
        tracker = Tracker(
            url_through(proxy, server.url), Settings(flush_interval=3600, journal=str(tmp_path) if journal else None)
        )
        backup = Backup(engine, tables)
        if known:
            tracker.track("f")
            assert tracker.flush(60)
            backup = Backup(engine, tables)
        for _ in range(3):
            tracker.track("f", count=10)
            assert tracker.flush(60)
        if doubt:
            proxy.cut(itertools.chain([Cut("after commit", 1)], itertools.repeat(Cut("byte", 0))))
            proxy.cut_now()
            tracker.track("f", count=100)
            while not proxy.made["after commit"]:
                tracker.flush(INTERVAL)
            assert total(engine, tables) == known + 130
        backup.restore()
        proxy.mend()
        for _ in range(3):
            tracker.track("f", count=1000)
            assert tracker.flush(60), tracker.stats()
        # The row shows what the backup lacks. Without one, nobody knows, and a batch in doubt is dropped.
        sent_again, dropped = (30 + 100 * doubt, 0) if known else (0, 100 * doubt)
        assert total(engine, tables) == known + sent_again + 3000
        stats = tracker.stats()
        assert stats.dropped == dropped
        assert balanced(stats)
        assert sum(row.uses for row in all_of(engine, tables.losses)) == stats.dropped
        assert_left_nothing(engine, tables, tracker)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["url", "async url", "engine"])
def test_a_file_of_sqlite_is_replaced_by_its_backup(kind: str, sqlite: Database, tmp_path: Path) -> None:
    """An open connection would go on writing to the former file, which nobody finds any more."""
    tables = made(sqlite.engine())
    path, backup = Path(sa.make_url(sqlite.url).database or ""), tmp_path / "backup.db"
    shutil.copy(path, backup)
    database: Any = {"url": sqlite.url, "async url": sqlite.async_url, "engine": sqlite.engine()}[kind]
    tracker = Tracker(database, Settings(flush_interval=3600, audit_timeout=30))
    tracker.track("f", count=10)
    tracker.track("g", audit="required")
    assert tracker.flush(60), tracker.stats()
    assert tracker.count(None, "f") == 10
    backup.replace(path)
    tracker.track("f", count=100)
    tracker.track("g", audit="required")
    assert tracker.flush(60), tracker.stats()
    assert tracker.count(None, "f") == 100
    engine = sa.create_engine(sqlite.url, poolclass=sa.NullPool)
    assert (total(engine, tables, "f"), len(all_of(engine, tables.access))) == (100, 1)
    assert_left_nothing(engine, tables, tracker)
