"""Damaged journals: each is parked and reported, its neighbours are recovered, and no command ends in a traceback."""

from __future__ import annotations

import itertools
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from conftest import Database
from pipeline.recovering import ADA, die
from reading import counts, made
from usage_instrument.cli.app import app
from usage_instrument.pipeline.journal.records import pack, unpack

MARK = pack(0)[:4]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "journals"
    root.mkdir(0o700)
    return root


def raw(text: bytes) -> bytes:
    """A record with a right checksum around any text."""
    return MARK + len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little") + text


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(6 * 2**30)


HEAD = {"version": 2, "writer": "0" * 32, "registered": False, "positions": [], "losses": [], "batches": 0}
REST: dict[str, Any] = {"waiting": [], "accesses": []}


def snapshot(**changes: Any) -> bytes:
    return pack({**HEAD, **changes}) + pack(REST)


SNAPSHOTS: dict[str, Callable[[Path], object]] = {
    "mark-and-zeros": lambda path: path.write_bytes(MARK + bytes(100)),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "empty": lambda path: path.write_bytes(b""),
    "nested": lambda path: path.write_bytes(raw(b"[" * 200_000 + b"]" * 200_000)),
    "no-json": lambda path: path.write_bytes(raw(b"{")),
    "a-list": lambda path: path.write_bytes(pack([1]) + pack(2)),
    "other-positions": lambda path: path.write_bytes(snapshot(positions=[[0, "1", []]])),
    "a-position-behind-the-end": lambda path: path.write_bytes(snapshot(positions=[[0, 2**40, [-1]]])),
    "a-hole-behind-the-end": lambda path: path.write_bytes(snapshot(positions=[[0, 1, [2**22]]])),
    "no-writer": lambda path: path.write_bytes(snapshot(writer=5)),
    "a-loss-of-no-day": lambda path: path.write_bytes(snapshot(losses=[["2026-13-01", "f", 1]])),
    "a-count-of-another-shape": lambda path: path.write_bytes(
        pack(HEAD) + pack({**REST, "waiting": [[["f"], None, 1, "2026-01-01T00:00:00", None, []]]})
    ),
    "a-use-of-another-shape": lambda path: path.write_bytes(
        pack(HEAD) + pack({**REST, "accesses": [["f", None, None, 1, ["x", 1, 2, 3, 4]]]})
    ),
    "sparse": sparse,
}
DICTIONARIES: dict[str, Callable[[Path], object]] = {
    "mark-and-zeros": lambda path: path.write_bytes(MARK + bytes(100) + path.read_bytes()),
    "nested": lambda path: path.write_bytes(raw(b"[" * 200_000 + b"]" * 200_000) + path.read_bytes()),
    "other-shapes": lambda path: path.write_bytes(
        b"".join(map(pack, (5, [], [1], [[], "k"], [0, "t"], [0, "t", 1, 2**70], [7, "u", "f", None, "x", 1], {})))
        + path.read_bytes()
    ),
    "a-time-without-a-date": lambda path: path.write_bytes(path.read_bytes() + pack([0, "t", 9, 10**30])),
}


def left_by_three(sqlite: Database, root: Path) -> list[Path]:
    """The journals of three dead processes, which captured 1, 2 and 4 uses."""
    found: list[Path] = []
    for number in (1, 2, 4):
        die(sqlite.url, root, f"tracker.track('f', user=ADA, count={number})")
        found += [path for path in root.iterdir() if path not in found]
    return found


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(app, ["journal", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), "a traceback"
    return done


def commands(sqlite: Database, root: Path) -> tuple[Result, Result]:
    """What `status` and `recover` answer."""
    shown = run("status", "--journal", str(root), "--format", "json")
    return shown, run("recover", "--journal", str(root), "--url", sqlite.url)


def test_each_damaged_snapshot_is_parked_and_its_neighbours_are_recovered(sqlite: Database, root: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    first, *_ = left_by_three(sqlite, root)
    damaged = _copies(sqlite, root, len(SNAPSHOTS))
    for path, damage in zip(damaged, SNAPSHOTS.values(), strict=True):
        damage(path / "frame")
    begun = time.monotonic()
    shown, recovered = commands(sqlite, root)
    assert time.monotonic() < begun + 60
    notes = {row["writer"]: row["note"] for row in json.loads(shown.stdout)}
    assert sorted(map(bool, notes.values())) == [False] * 3 + [True] * len(SNAPSHOTS)
    assert recovered.exit_code == 1
    assert recovered.stderr.count("parked: ") == len(SNAPSHOTS)
    assert sorted(root.iterdir()) == sorted(damaged)
    assert counts(engine, tables) == {("f", ADA): 7}
    assert not first.exists()
    shown, recovered = commands(sqlite, root)
    assert (shown.exit_code, recovered.exit_code) == (1, 0), "they wait for a person"


def _copies(sqlite: Database, root: Path, number: int) -> list[Path]:
    """So many journals with one use each."""
    code = f"""
        for _ in range({number}):
            tracker = Tracker(tracker.database, tracker.settings)
            tracker.track("lost", user=ADA)
    """
    before = set(root.iterdir())
    die(sqlite.url, root, code)
    return sorted(set(root.iterdir()) - before)


@pytest.mark.parametrize("damage", DICTIONARIES.values(), ids=DICTIONARIES)
def test_a_damaged_part_of_a_dictionary_is_skipped(
    sqlite: Database, root: Path, damage: Callable[[Path], object]
) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    die(sqlite.url, root, "tracker.track('f', user=ADA, count=3)")
    (path,) = root.iterdir()
    damage(path / "00000000.log")
    shown, recovered = commands(sqlite, root)
    assert (shown.exit_code, recovered.exit_code, recovered.stderr) == (0, 0, "")
    assert counts(engine, tables) == {("f", ADA): 3}


def test_stray_files_are_ignored(sqlite: Database, root: Path) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    die(sqlite.url, root, "tracker.track('f', user=ADA, count=3)")
    (path,) = root.iterdir()
    for name in ("stray.slots", "00000000.slots.bak", "x.log", "core", "\N{ARABIC-INDIC DIGIT ZERO}" * 8 + ".slots"):
        (path / name).write_bytes(b"stray")
    (root / "stray").write_bytes(b"")
    (root / ("f" * 32)).write_bytes(b"")
    (root / "lost+found").mkdir()
    shown, recovered = commands(sqlite, root)
    assert (shown.exit_code, recovered.exit_code, recovered.stderr) == (0, 0, "")
    assert counts(engine, tables) == {("f", ADA): 3}
    assert not path.exists()


def test_a_sparse_dictionary_costs_its_uses_and_no_memory(sqlite: Database, root: Path) -> None:
    made(sqlite.engine())
    die(sqlite.url, root, "tracker.track('f', user=ADA, count=3)")
    (path,) = root.iterdir()
    sparse(path / "00000000.log")
    _, recovered = commands(sqlite, root)
    assert "dropped" in recovered.stdout


def test_parsing_is_linear() -> None:
    mebibyte = 2**20
    hard = [
        MARK * (mebibyte // 4),
        (MARK + (mebibyte // 2).to_bytes(4, "little") + bytes(4)) * (mebibyte // 12),
        b"".join(MARK + (8 * n).to_bytes(4, "little") + bytes(8) for n in range(mebibyte // 16)),
    ]
    for data in hard:
        begun = time.process_time()
        assert list(unpack(data)) == []
        assert time.process_time() < begun + 2


def test_torn_records_cost_themselves_alone() -> None:
    whole = [pack([number, "x" * number]) for number in range(5)]
    for cut in range(1, len(whole[2])):
        torn = b"".join([*whole[:2], whole[2][:cut], *whole[3:]])
        assert [number for number, _ in unpack(torn)] == [0, 1, 3, 4]
    for position, bit in itertools.product(range(len(whole[2])), range(8)):
        damaged = bytearray(whole[2])
        damaged[position] ^= 1 << bit
        found = [number for number, _ in unpack(b"".join([*whole[:2], bytes(damaged), *whole[3:]]))]
        assert found in ([0, 1, 3, 4], [0, 1, 2, 3, 4])
        assert found == [0, 1, 3, 4]
