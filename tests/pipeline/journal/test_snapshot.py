"""The snapshot: the same when it is read again, in the version that the release before reads where that is possible."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path

import pytest

from usage_instrument.events import Access, Batch, Count, Loss, Use
from usage_instrument.pipeline.journal import CorruptJournalError, Directory, ReadPosition, SavedSnapshot, Snapshot
from usage_instrument.pipeline.journal import snapshot as module

NOW = dt.datetime(2026, 11, 28, 12, 30, 1, 5)
ACCESS = Use("vault", uuid.UUID(int=3), '{"a":1}', 0, Access(uuid.UUID(int=9), "attempted", 5, "actor", "request"))
SNAPSHOT = Snapshot(
    (ReadPosition(0, 12, (3, 5)), ReadPosition(1, 0)),
    (
        Batch(4, (Count("f", uuid.UUID(int=1), 2, NOW, '{"page":2}', ((NOW, 1), (NOW, 1))),), (), (ACCESS,)),
        Batch(5, (Count("f", 7, 1, NOW), Count("f", "ada", 1, NOW), Count("f", None, 1, NOW))),
    ),
    (Count("g", 8, 3, NOW),),
    (Loss(NOW.date(), "memory full", 12),),
    (ACCESS,),
)


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory.create(str(tmp_path), uuid.uuid4(), "")


@pytest.mark.parametrize(
    ("snapshot", "version"), [(SNAPSHOT, 2), (Snapshot((), (Batch(1, SNAPSHOT.waiting),)), 1), (Snapshot(()), 1)]
)
def test_it_is_read_as_it_was_saved(directory: Directory, snapshot: Snapshot, version: int) -> None:
    assert module.load(directory) is None
    for _ in range(2):  # the second one replaces the first
        saved = SavedSnapshot(uuid.uuid4(), True, snapshot)
        module.save(saved, directory)
        assert module.load(directory) == saved
    assert b'{"version":%d,' % version in directory.read("frame")
    assert directory.names == ["database", "frame", "lock"]


def test_it_names_users() -> None:
    assert set(SNAPSHOT.users) == {uuid.UUID(int=1), 7, "ada", None, 8, uuid.UUID(int=3), "actor"}


def test_one_that_lacks_a_part_is_no_snapshot(directory: Directory) -> None:
    module.save(SavedSnapshot(uuid.uuid4(), True, SNAPSHOT), directory)
    data = (directory.path / "frame").read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(b"\xf5\x9d\xa7\xee", at)]
    assert len(starts) == 4
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        (directory.path / "frame").write_bytes(data[:start] + data[end:])
        with pytest.raises(CorruptJournalError, match="frame is damaged"):
            module.load(directory)
