"""Uses in the journal: every one once, whatever threads, sizes and disks do; and memory where the disk refuses."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import Database, writing_pipeline
from reading import balanced, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.events import Loss, Use
from usage_instrument.pipeline.journal import Journal, SavedSnapshot, Snapshot
from usage_instrument.pipeline.journal import journal as journal_module
from usage_instrument.typing import UserId


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the journals are."""
    root = tmp_path / "journals"
    root.mkdir()
    return root


class Bench:
    """A journal, and what it could not keep."""

    def __init__(self, root: Path, max_bytes: int = 2**26, max_keys: int = 100_000) -> None:
        self.spilt: Counter[tuple[str, UserId]] = Counter()
        self.journal = Journal(
            str(root), "", max_bytes, max_keys, lambda feature, user: self.spilt.update([(feature, user)])
        )
        self.read: Counter[tuple[str, UserId]] = Counter()

    def drain(self) -> None:
        """As the aggregator does."""
        self.journal.tick(1)
        while (taken := self.journal.take(1000, lambda taken: True)) is not None:
            for entry, number in taken.entries:
                if isinstance(entry, Use):
                    self.read[entry.feature, entry.user] += entry.uses * number
                elif not isinstance(entry, Loss):
                    self.read[entry] += number

    def save(self) -> None:
        assert self.journal.writer_id is not None
        self.journal.save(SavedSnapshot(self.journal.writer_id, True, Snapshot(self.journal.positions)))


def test_threads_lose_nothing_while_it_is_read(root: Path) -> None:
    bench = Bench(root, max_bytes=2**20)  # segments of 32,768 slots, so that they are changed on the way
    assert bench.journal.try_open()
    each, threads = 30_000, 4
    done = threading.Barrier(threads + 1, timeout=60)

    def use(number: int) -> None:
        for turn in range(each):
            if turn % 100:
                bench.journal.sink("f")(number) if turn % 1000 == 1 else sinks[number](number)
            elif not bench.journal.put(Use("rich", number, {"turn": turn})):
                bench.spilt["rich", number] += 1  # full, until `drain` makes the next segment
            if turn % 5000 == 0:
                sinks[number] = bench.journal.sink("f")
        done.wait()

    sinks: dict[int, Any] = {number: bench.journal.sink("f") for number in range(threads)}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        workers = [threading.Thread(target=use, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers) and done.n_waiting < threads:
            bench.drain()
            bench.save()
        done.wait()
    finally:
        sys.setswitchinterval(interval)
    bench.journal.seal(2)
    bench.drain()
    assert bench.journal.unread == 0
    for number in range(threads):
        assert bench.read["rich", number] + bench.spilt["rich", number] == each // 100
        assert bench.read["f", number] + bench.spilt["f", number] == each - each // 100


def test_uses_are_told_by_their_number_before_they_are_read(root: Path) -> None:
    bench = Bench(root)
    assert bench.journal.try_open()
    bench.journal.sink("f")(1)
    assert bench.journal.put(Use("rich", 1, None, 7))
    assert bench.journal.unread == 8
    bench.drain()
    assert bench.journal.unread == 0


def test_a_sealed_journal_takes_nothing_and_loses_nothing(root: Path) -> None:
    bench = Bench(root)
    assert bench.journal.try_open()
    append = bench.journal.sink("f")
    append(1)
    bench.journal.seal(1)
    append(2)
    assert not bench.journal.put(Use("f", 3))
    bench.drain()
    assert (bench.read, bench.spilt) == ({("f", 1): 1}, {("f", 2): 1})
    assert bench.journal.try_open()
    bench.journal.sink("f")(4)
    bench.drain()
    assert bench.read["f", 4] == 1


def test_it_is_not_deleted_with_a_use_that_nobody_read(root: Path) -> None:
    bench = Bench(root)
    assert bench.journal.try_open()
    bench.journal.sink("f")(1)
    assert not bench.journal.retire()
    bench.drain()
    assert bench.journal.retire()
    assert list(root.iterdir()) == []
    assert bench.read == {("f", 1): 1}


def test_segments_that_a_snapshot_holds_are_deleted(root: Path) -> None:
    bench = Bench(root, max_keys=10)
    assert bench.journal.try_open()
    for user in range(100):
        bench.journal.sink("f")(user)
        bench.drain()
        bench.save()
    assert bench.journal.directory is not None
    assert len(list(bench.journal.directory.path.glob("*.slots"))) <= 3
    assert len(bench.read) == 100


# ---- in a tracker


def test_a_clean_end_leaves_nothing_behind_and_the_next_use_starts_anew(database: Database, root: Path) -> None:
    engine = database.engine()
    tables = made(engine)
    tracker = Tracker(database.url, Settings(journal=str(root), flush_interval=3600))

    @tracker.tracks("f")
    def f() -> None: ...

    for round_ in range(1, 4):
        f()
        tracker.track("g", metadata={"round": round_})
        assert len(list(root.iterdir())) == 1
        assert tracker.shutdown(60)
        assert list(root.iterdir()) == []
        assert total(engine, tables) == 2 * round_
        assert balanced(tracker.stats())


def test_forked_children_have_journals_of_their_own(sqlite: Database, root: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    tracker = Tracker(sqlite.url, Settings(journal=str(root), flush_interval=3600, user_id_type="uuid"))

    @tracker.tracks("f")
    def f() -> None: ...

    f()
    child = os.fork()
    if not child:
        f()
        f()
        ended = tracker.shutdown(60)
        os._exit(0 if ended else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert total(engine, tables) == 2
    assert len(list(root.iterdir())) == 1
    assert tracker.shutdown(60)
    assert total(engine, tables) == 3


def test_where_the_disk_refuses_uses_are_kept_in_memory(
    sqlite: Database, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = made(sqlite.engine())
    root = root.parent / "file"
    root.touch()
    tracker = Tracker(sqlite.url, Settings(journal=str(root), flush_interval=3600))
    for _ in range(10):
        tracker.track("f")
    assert tracker.flush(60)
    assert total(sqlite.engine(), tables) == 10
    (record,) = caplog.records
    assert record.getMessage().startswith(f"the journal in {root} takes no more (")
    assert tracker.shutdown(60)


def test_a_full_disk_is_told_and_costs_no_use(
    sqlite: Database, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tables = made(sqlite.engine())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    tracker = Tracker(sqlite.url, Settings(journal=str(root), flush_interval=3600))
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        tracker.track("f")
    assert "No space left on device" in caplog.text
    assert list(root.glob("*/*.slots")) == []
    monkeypatch.setattr(journal_module, "_RETRY", 0.0)
    tracker.track("f")  # as a minute later, when there is space again
    assert len(list(root.glob("*/*.slots"))) == 2
    assert tracker.flush(60)
    assert tracker.shutdown(60)
    assert total(sqlite.engine(), tables) == 2


def test_beyond_its_bound_uses_go_to_memory(sqlite: Database, root: Path) -> None:
    tables = made(sqlite.engine())
    tracker = Tracker(sqlite.url, Settings(journal=str(root), journal_max_bytes=1, flush_interval=3600))

    @tracker.tracks("f")
    def f() -> None: ...

    for _ in range(20_000):
        f()
    assert tracker.flush(60)
    assert tracker.shutdown(60)
    assert total(sqlite.engine(), tables) == 20_000
    assert balanced(tracker.stats())


def test_a_full_one_grows_no_more(sqlite: Database, root: Path) -> None:
    tracker = Tracker(
        sqlite.url, Settings(journal=str(root), journal_max_bytes=1, flush_interval=3600, user_id_type="integer")
    )

    @tracker.tracks("f")
    def use() -> None: ...

    sizes = []
    for turn in range(20):
        for user in range(turn * 500, (turn + 1) * 500):  # always new ones
            for _ in range(3):
                with tracker.as_user(user):
                    use()
        writing_pipeline(tracker)._aggregator.aggregate()
        sizes.append(sum(file.stat().st_size for file in root.rglob("*.log")))
    assert sizes[-1] - sizes[5] < 1_000
    made(sqlite.engine(), user_id_type="integer")
    assert tracker.shutdown(60)
    assert tracker.stats().written == 30_000


def test_in_an_outage_what_exceeds_memory_waits_on_disk(sqlite: Database, root: Path) -> None:
    tracker = Tracker(sqlite.url, Settings(journal=str(root), max_pending=20, flush_interval=0.01))
    for turn in range(1_000):
        tracker.track(f"f{turn % 200}", count=2)
    assert not tracker.flush(5)  # there are no tables
    stats = tracker.stats()
    assert (stats.dropped, balanced(stats)) == (0, True)
    assert writing_pipeline(tracker)._pending.counts.keys <= 20
    tables = made(sqlite.engine())
    while not tracker.flush(60):
        pass
    assert total(sqlite.engine(), tables) == 2_000
    assert tracker.shutdown(60)


def test_what_waits_on_disk_takes_no_memory(sqlite: Database, root: Path) -> None:
    tracker = Tracker(
        sqlite.url, Settings(journal=str(root), max_pending=20, flush_interval=3600, user_id_type="integer")
    )

    @tracker.tracks("f")
    def use() -> None: ...

    for user in range(400):
        with tracker.as_user(user):
            use()
        if user % 20 == 19:
            writing_pipeline(tracker)._aggregator.aggregate()
    assert not tracker.flush(1)  # there are no tables
    open_files = [os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.exists()]
    assert len(list(root.rglob("*.slots"))) > 10
    assert len([file for file in open_files if file.startswith(str(root)) and "0000" in file]) <= 4
    journal = tracker._pipeline.journal
    assert journal is not None
    waiting = [segment for segment in journal._segments if segment.is_sealed]
    assert len(waiting) > 10
    assert not any(segment.dictionary.is_loaded for segment in waiting)
    assert tracker.stats().captured == 400
    tables = made(sqlite.engine(), user_id_type="integer")
    while not tracker.flush(60):
        pass
    assert total(sqlite.engine(), tables) == 400
    assert tracker.shutdown(60)
