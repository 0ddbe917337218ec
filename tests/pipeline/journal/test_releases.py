"""Journals across releases: what another release wrote is recovered exactly, or left to the release that can read it.

`data/` holds journals that processes of the commit ce94095 left when they were killed.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa

from conftest import Database
from pipeline.recovering import ADA, BOB, recover
from reading import all_of, counts, made
from usage_instrument.database.engines import named
from usage_instrument.pipeline.journal import segment, snapshot, status
from usage_instrument.pipeline.journal.records import pack, unpack
from usage_instrument.schema import Tables


def unpacked(name: str, root: Path, url: str) -> Path:
    """A journal of `data`, as if its uses were for this database."""
    with zipfile.ZipFile(Path(__file__).parent / "data" / f"{name}.zip") as file:
        file.extractall(root)
    (path,) = root.iterdir()
    (path / "database").write_text(named(url, None))
    return path


def register(engine: sa.Engine, tables: Tables, path: Path, last_batch: int) -> None:
    """Give its writer the row in the ledger that it had."""
    (found,) = status(str(path.parent))
    row = {"writer_id": found.writer, "service": "", "last_batch": last_batch}
    now = sa.func.current_timestamp()
    with engine.begin() as connection:
        connection.execute(tables.writers.insert().values(**row, started_at=now, heartbeat_at=now))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "journals"
    root.mkdir()
    return root


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("plain", {}, {("plain", ADA): 2, ("plain", BOB): 1, ("plain", None): 1, ("rich", ADA): 6}),
        ("audited", {}, {("vault", ADA): 3}),
        ("integer", {"user_id_type": "integer"}, {("f", 1): 2, ("f", 2**40): 2, ("f", -5): 2}),
    ],
)
def test_uses_in_no_batch(
    sqlite: Database, root: Path, name: str, options: dict[str, Any], expected: dict[tuple[str, Any], int]
) -> None:
    engine = sqlite.engine()
    tables = made(engine, **options)
    unpacked(name, root, sqlite.url)
    recovered = recover(sqlite.url, root, **options)
    assert (recovered.journals, recovered.written) == (1, sum(expected.values()))
    assert counts(engine, tables) == expected
    assert sum(row.usage_count for row in all_of(engine, tables.history)) == sum(expected.values())
    assert [row.outcome for row in all_of(engine, tables.access)] == ["success"] * (3 if name == "audited" else 0)
    assert list(root.iterdir()) == []


def test_metadata(sqlite: Database, root: Path) -> None:
    tables = made(sqlite.engine())
    unpacked("plain", root, sqlite.url)
    assert recover(sqlite.url, root).journals == 1
    (rich,) = [row for row in all_of(sqlite.engine(), tables.usage) if row.feature_name == "rich"]
    assert rich.metadata == {"format": "csv", "page": 2, "nested": {"a": [1, None]}}


@pytest.mark.parametrize(("last_batch", "written", "accesses"), [(1, 632, 2), (3, 422, 2), (5, 0, 2)])
def test_batches_are_applied_from_the_ledgers_number_on(
    sqlite: Database, root: Path, last_batch: int, written: int, accesses: int
) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    register(engine, tables, unpacked("snapshot", root, sqlite.url), last_batch)
    recovered = recover(sqlite.url, root)
    assert (recovered.journals, recovered.written, recovered.audited) == (1, written, accesses)
    assert sum(counts(engine, tables).values()) == written
    assert len(all_of(engine, tables.access)) == accesses
    assert all_of(engine, tables.writers) == []


def test_counts_that_waited_for_their_user(sqlite: Database, root: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    register(engine, tables, unpacked("deferred", root, sqlite.url), 2)
    assert recover(sqlite.url, root).written == 7
    assert counts(engine, tables) == {("f", BOB): 7}


# ---- newer formats


def newer_slots(path: Path) -> None:
    """Version 2 in the header of the first segment."""
    data = bytearray((path / "00000000.slots").read_bytes())
    head = struct.pack("<8sIIQI", b"usagejnl", 2, *struct.unpack_from("<IQI", data, 12))
    data[: len(head) + 4] = head + struct.pack("<I", zlib.crc32(head))
    (path / "00000000.slots").write_bytes(data)


def newer_snapshot(path: Path) -> None:
    """Version 4 in the head of the snapshot, which is followed by what this release does not know."""
    head, *rest = unpack((path / "frame").read_bytes())
    (path / "frame").write_bytes(b"".join(map(pack, ({**head, "version": 4}, *rest))))


@pytest.mark.parametrize("parked", [False, True], ids=["met", "parked-by-ce94095"])
@pytest.mark.parametrize(
    ("name", "change", "module", "version"),
    [("plain", newer_slots, segment, 2), ("snapshot", newer_snapshot, snapshot, 4)],
)
def test_one_release_writes_the_one_before_meets_and_the_first_recovers(
    sqlite: Database,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[Path], None],
    module: ModuleType,
    version: int,
    parked: bool,
) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    path = unpacked(name, root, sqlite.url)
    if name == "snapshot":
        register(engine, tables, path, 1)
    change(path)
    if parked:
        (path / "parked").write_text(f"{path}/frame is of version {version}, and this release reads 1\n")
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    for _ in range(2):
        recovered = recover(sqlite.url, root)
        assert (recovered.uses, recovered.parked) == (0, ())
        assert recovered.unfinished == (() if parked else (path,))
        (found,) = status(str(root))
        assert found.state == ("parked" if parked else "newer")
        assert f"is of version {version}, and this release reads {version - 1}" in found.note or parked
        assert {file.name: file.read_bytes() for file in path.iterdir()} == files
    monkeypatch.setattr(module, "VERSION", version)
    recovered = recover(sqlite.url, root)
    assert (recovered.journals, recovered.written) == (1, 10 if name == "plain" else 632)
    assert sum(counts(engine, tables).values()) == recovered.written
    assert list(root.iterdir()) == []


def test_a_parked_one_stays_parked(sqlite: Database, root: Path) -> None:
    made(sqlite.engine())
    unpacked("parked", root, sqlite.url)
    assert recover(sqlite.url, root).journals == 0
    (found,) = status(str(root))
    assert (found.state, found.pending, found.note) == ("parked", 1, "its row is gone")
