"""Earlier snapshots: which are kept, what is sent again from them, and when they are deleted."""

from __future__ import annotations

import datetime as dt
import errno
import os
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from conftest import Database
from pipeline.recovering import ADA, die, recover
from reading import counts, made
from usage_instrument.events import Batch, Count
from usage_instrument.pipeline.journal import Directory, Journal, SavedSnapshot, Snapshot, archive, directories_naming
from usage_instrument.stats import Recovered

WRITER = uuid.uuid4()
NOW = dt.datetime(2026, 11, 28, 12, 30)


def saved(*numbers: int, writer: uuid.UUID = WRITER, uses: int = 1) -> SavedSnapshot:
    batches = tuple(Batch(number, (Count("f", number, uses, NOW),)) for number in numbers)
    return SavedSnapshot(writer, True, Snapshot((), batches))


class Bench:
    """A journal, and its directory."""

    def __init__(self, root: Path, max_bytes: int = 10**6) -> None:
        self.directory = Directory.create(str(root), WRITER, "")
        self.journal = Journal(str(root), "", 10**6, 0, lambda feature, user: None, max_bytes)
        self.journal.directory = self.directory

    def sent(self, last: SavedSnapshot, number: int) -> list[int]:
        return [batch.number for batch in self.journal.sent_before(last, number)]


def test_what_was_sent_before_the_last_snapshot(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for numbers in ((1, 2, 3), (2, 3, 4), (2, 3), (4, 5)):  # batches 3 and 4 of the second one were not sent
        bench.journal.save(saved(*numbers, uses=len(numbers)))
    last = saved(4, 5)
    assert [(batch.number, batch.uses) for batch in bench.journal.sent_before(last, 0)] == [(1, 3), (2, 2), (3, 2)]
    assert archive.numbers(bench.directory) == [2, 4]
    assert bench.sent(last, 2) == [3]
    assert bench.sent(last, 3) == []
    assert bench.sent(saved(4, writer=uuid.uuid4()), 0) == []
    bench.journal.save(saved(8))
    bench.journal.save(saved(6, 7))  # and one that was rolled back
    assert bench.sent(saved(6, 7), 0) == [1, 2, 3, 4, 5]
    assert bench.sent(saved(7, 8), 0) == []  # nothing has 6
    assert set(directories_naming(str(tmp_path), lambda users: 3 in users)) == {bench.directory.path}
    bench.journal.save(saved(7), anew=True)
    assert archive.numbers(bench.directory) == []


def test_the_oldest_go_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_bytes=1000)
    for number in range(1, 8):
        bench.journal.save(saved(number))
    size = bench.directory.size_of("frame")
    kept = archive.numbers(bench.directory)
    assert kept == list(range(8 - len(kept), 8))
    assert 1 < len(kept) == 1000 // size
    bench.journal.save(saved(*range(8, 50)))
    bench.journal.save(saved(50))  # the one before is larger than all may be
    assert archive.numbers(bench.directory) == []


@pytest.mark.parametrize("call", ["link", "stat"])
def test_where_none_can_be_kept_the_last_one_is(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, "not here")

    bench = Bench(tmp_path)
    bench.journal.save(saved(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        bench.journal.save(saved(2))
    assert archive.numbers(bench.directory) == []
    assert b'"number":2' in bench.directory.read("frame")


@pytest.mark.parametrize("damage", [False, True])
def test_a_restored_database_gets_what_it_had_acknowledged(sqlite: Database, tmp_path: Path, damage: bool) -> None:
    """Also from a process that was killed."""
    engine = sqlite.engine()
    tables = made(engine)
    die(sqlite.url, tmp_path, "for _ in range(3): tracker.track('f', user=ADA); assert tracker.flush(60)")
    with engine.begin() as connection:
        connection.execute(sa.update(tables.usage).values(usage_count=1))
        connection.execute(sa.update(tables.history).values(usage_count=1))
        connection.execute(sa.update(tables.writers).values(last_batch=1))
    if damage:  # which costs what is in the file, and nothing else
        (kept,) = tmp_path.glob("*/frame.3")
        kept.unlink()
        kept.write_bytes(b"\0" * 40)
    assert recover(sqlite.url, tmp_path) == Recovered(journals=1, written=1 if damage else 2)
    assert counts(engine, tables) == {("f", ADA): 2 if damage else 3}
