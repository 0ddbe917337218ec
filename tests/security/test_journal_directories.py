"""Attacks on the journal through its directory: other users' directories, links, pipes and planted snapshots."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Database
from pipeline.recovering import ADA, die, recover
from reading import counts, made, total
from usage_instrument import Settings, Tracker
from usage_instrument.errors import ConfigurationError
from usage_instrument.events import Batch, Count
from usage_instrument.pipeline.journal import Directory, SavedSnapshot, Snapshot, directories_naming, snapshot, status

STRANGER = 54321
"""The uid of another user."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which only root may do")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "journals"
    root.mkdir(0o700)
    return root


def plant(root: Path) -> Path:
    """A snapshot of a million uses that nobody captured."""
    directory = Directory.create(str(root), uuid.uuid4(), "")
    count = Count("planted", None, 1_000_000, dt.datetime(2026, 1, 1))
    snapshot.save(SavedSnapshot(directory.writer_id, False, Snapshot((), (Batch(1, (count,)),))), directory)
    (directory.path / "database").unlink()
    directory.release()
    return directory.path


@pytest.mark.parametrize("mode", [0o1777, 0o770, 0o702, 0o2775])
def test_a_directory_that_others_can_write_to_is_refused(sqlite: Database, root: Path, mode: int) -> None:
    tables = made(sqlite.engine())
    path = plant(root)
    root.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"is writable for others .*: run `chmod go-w "):
        Tracker(sqlite.url, Settings(journal=str(root)))
    recovered = recover(sqlite.url, root)
    assert (recovered.uses, recovered.unfinished) == (0, (root,))
    assert "is writable for others" in str(recovered.last_error)
    with pytest.raises(OSError, match="is writable for others"):
        list(status(str(root)))
    assert total(sqlite.engine(), tables) == 0
    root.chmod(0o700)
    path.chmod(mode)
    recovered = recover(sqlite.url, root)
    assert (recovered.uses, recovered.unfinished) == (0, (path,))
    (found,) = status(str(root))
    assert (found.state, "is writable for others" in found.note) == ("dead", True)
    assert list(directories_naming(str(root), lambda users: False)) == [path], "it cannot be searched"


def test_erasure_reports_a_directory_that_it_may_not_read(sqlite: Database, root: Path) -> None:
    made(sqlite.engine())
    tracker = Tracker(sqlite.url, Settings(journal=str(root), flush_interval=3600, privacy_key="k" * 32))
    path = plant(root)
    path.chmod(0o770)
    assert tracker.privacy.forget(ADA, force=True, keep_audit=True).journals == (str(path),)
    assert tracker.shutdown(60)


@needs_root
def test_a_directory_of_another_user_is_refused(sqlite: Database, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    tables = made(sqlite.engine())
    path = plant(root)
    os.chown(path, STRANGER, STRANGER)
    recovered = recover(sqlite.url, root)
    assert (recovered.uses, recovered.unfinished) == (0, (path,))
    assert f"belongs to the user {STRANGER}, and this process is 0" in str(recovered.last_error)
    os.chown(path, 0, 0)
    os.chown(root, STRANGER, STRANGER)
    assert recover(sqlite.url, root).unfinished == (root,)
    tracker = Tracker(sqlite.url, Settings(journal=str(root), flush_interval=3600))  # root may become that user yet
    tracker.track("f")
    assert f"belongs to the user {STRANGER}" in caplog.text
    assert tracker.shutdown(60)
    assert counts(sqlite.engine(), tables) == {("f", None): 1}, "kept in memory meanwhile"


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.symlink_to(path.parent.parent.parent / "precious")


def _directory(path: Path) -> None:
    path.mkdir()


NAMES = ["lock", "database", "parked", "frame", "00000000.slots", "00000000.log"]


@pytest.mark.parametrize("make", [_pipe, _link, _directory])
def test_only_regular_files_are_opened(
    sqlite: Database, root: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    tables = made(sqlite.engine())
    precious = tmp_path / "precious"
    precious.write_text("kept")
    die(sqlite.url, root, "tracker.track('f', user=ADA)")
    (original,) = root.iterdir()
    for name in NAMES:
        path = root / uuid.uuid4().hex
        shutil.copytree(original, path)
        (path / name).unlink(missing_ok=True)
        make(path / name)
    before = time.monotonic()
    assert recover(sqlite.url, root).written == 1, "the one that nobody touched"
    assert len(list(status(str(root)))) <= len(NAMES)
    assert recover(sqlite.url, root).uses == 0
    list(directories_naming(str(root), lambda users: ADA in users))
    assert time.monotonic() < before + 60, "nothing waits for a pipe"
    assert total(sqlite.engine(), tables) == 1
    assert precious.read_text() == "kept"


def test_a_directory_that_is_swapped_for_a_link_deletes_nothing(sqlite: Database, root: Path, tmp_path: Path) -> None:
    made(sqlite.engine())
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in ("lock", "frame", "00000000.slots", "anything"):
        (precious / name).write_text("kept")
    die(sqlite.url, root, "tracker.track('f', user=ADA)")
    (path,) = root.iterdir()
    adopted = Directory.adopt(path)
    assert adopted is not None
    path.rename(tmp_path / "away")
    path.symlink_to(precious)
    with pytest.raises(OSError, match=r".*"):
        adopted.remove()
    path.unlink()
    shutil.copytree(precious, path)  # another directory under its name
    with pytest.raises(FileNotFoundError, match="another directory is in its place"):
        adopted.unlink("frame")
    assert (path / "frame").read_text() == "kept"
    assert {file.read_text() for file in precious.iterdir()} == {"kept"}
