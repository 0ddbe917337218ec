"""A writer's directory: locked as long as its process lives, and on a local file system."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from conftest import Database
from pipeline.recovering import recover
from reading import made
from usage_instrument import Settings, Tracker
from usage_instrument.errors import ConfigurationError
from usage_instrument.pipeline.journal import Directory
from usage_instrument.pipeline.journal import directory as module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the journals are."""
    root = tmp_path / "journals"
    root.mkdir()
    return root


def test_a_lock_lasts_as_long_as_its_process(root: Path) -> None:
    directory = Directory.create(str(root), uuid.uuid4(), "")
    assert Directory.adopt(directory.path) is None
    child = os.fork()
    if not child:
        directory.release()  # closes the child's descriptor, and no more
        os._exit(0)
    os.waitpid(child, 0)
    assert Directory.adopt(directory.path) is None
    directory.release()
    again = Directory.adopt(directory.path)
    assert again is not None
    again.remove()
    assert list(root.iterdir()) == []


def test_a_directory_that_was_being_made_or_deleted(sqlite: Database, root: Path) -> None:
    made(sqlite.engine())
    young, old, unnamed, empty = (root / f"{prefix}{uuid.uuid4().hex}" for prefix in (".", ".", ".", ""))
    for hidden in (young, old, unnamed):
        hidden.mkdir()
        (hidden / "lock").touch()
    (unnamed / "database").touch()  # and there its maker was killed
    os.utime(old, (0, 0))
    os.utime(unnamed, (0, 0))
    empty.mkdir()
    assert recover(sqlite.url, root).uses == 0
    assert list(root.iterdir()) == [young]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_file_system", lambda path: kind)
    with pytest.raises(ConfigurationError, match=f"is on {kind}, whose locks cannot be trusted"):
        Tracker("sqlite:///x.db", Settings(journal="somewhere"))


def test_the_file_system_of_a_path_is_found() -> None:
    assert module._file_system("/proc/self") == "proc"
    assert module._file_system("/nowhere/yet")
