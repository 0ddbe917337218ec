"""Damage at random: the three parsers read it or refuse it, and what they read is aggregated without an exception.

$USAGE_TEST_FUZZ is the number of examples a test: few by default, many in `scripts/faults`.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.journal.test_snapshot import SNAPSHOT
from usage_instrument import Settings
from usage_instrument.events import Access, Use, canonical_user
from usage_instrument.pipeline.aggregator import Aggregator
from usage_instrument.pipeline.buffer import Buffer
from usage_instrument.pipeline.journal import CorruptJournalError, Directory, Journal, SavedSnapshot, snapshot, status
from usage_instrument.pipeline.journal.records import pack, read, unpack
from usage_instrument.pipeline.journal.segment import Segment
from usage_instrument.pipeline.pending_counts import PendingCounts

FUZZ = settings(
    max_examples=int(os.environ.get("USAGE_TEST_FUZZ", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MARK = pack(0)[:4]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["k", "u", "t", "f", "u" + "0" * 31 + "1", "{}", ""]),
    lambda children: st.lists(children, max_size=7) | st.dictionaries(st.sampled_from(["a", "version"]), children),
    max_leaves=12,
)
LINES = st.tuples(st.integers(-1, 5), st.sampled_from(["k", "u", "t"])).flatmap(
    lambda head: st.lists(VALUES, max_size=6).map(lambda rest: [*head, *rest])
)
INSERTED = st.binary(max_size=20) | st.just(MARK) | VALUES.map(pack) | LINES.map(pack) | st.just(bytes(64))
DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), INSERTED), max_size=4)


def damaged(data: bytes, damage: list[tuple[float, int, bytes]]) -> bytes:
    """Some bytes replaced by others, at a few places."""
    for where, length, inserted in damage:
        at = int(where * len(data))
        data = data[:at] + inserted + data[at + length :]
    return data


@contextlib.contextmanager
def journal() -> Iterator[Path]:
    """The journal of a dead process, with each kind of use in it."""
    with tempfile.TemporaryDirectory() as root:
        directory = Directory.create(root, uuid.uuid4(), "")
        segment = Segment.create(directory, 0, 64)
        append = segment.sink("f", lambda feature, user: None)
        for user in (uuid.UUID(int=1), 7, "ada", None):
            append(user)
        segment.tick(1_700_000_000_000_000)
        access = Access(uuid.UUID(int=9), "success", 1_700_000_000_000_000, "actor")
        for use in (Use("g", 1, {"a": 1}, 5), Use("g", 1, '{"b":[1]}'), Use("vault", 1, None, 1, access)):
            assert segment.put(use)
        segment.dictionary.close()
        snapshot.save(SavedSnapshot(directory.writer_id, False, SNAPSHOT._replace(positions=())), directory)
        directory.release()
        yield directory.path


def aggregated(path: Path) -> None:
    """As a recovery reads it."""
    (found,) = status(str(path.parent))
    directory = Directory.adopt(path)
    assert directory is not None
    try:
        loaded, _ = Journal.load(directory, str(path.parent), 2**30)
    except CorruptJournalError:
        assert found.note
        return
    finally:
        directory.release()
    pending = PendingCounts(1000)
    aggregator = Aggregator(Buffer(), pending, Settings(), canonical_user("string"), loaded)
    aggregator.aggregate()
    assert loaded.unread == 0
    assert aggregator.drained == pending.counts.uses + aggregator.dropped + aggregator.rejected


@pytest.mark.parametrize("name", ["00000000.log", "00000000.slots", "frame"])
@FUZZ
@given(damage=DAMAGE)
def test_a_damaged_file_is_read_or_refused(name: str, damage: list[tuple[float, int, bytes]]) -> None:
    with journal() as path:
        (path / name).write_bytes(damaged((path / name).read_bytes(), damage))
        aggregated(path)


@FUZZ
@given(lines=st.lists(LINES, max_size=8))
def test_entries_of_any_shape(lines: list[Any]) -> None:
    with journal() as path:
        with (path / "00000000.log").open("ab") as file:
            file.writelines(map(pack, lines))
        aggregated(path)


@FUZZ
@given(values=st.lists(VALUES, max_size=4))
def test_snapshots_of_any_shape(values: list[Any]) -> None:
    with journal() as path:
        (path / "frame").write_bytes(b"".join(map(pack, values)))
        aggregated(path)


@FUZZ
@given(values=st.lists(VALUES, max_size=5), damage=DAMAGE)
def test_records(values: list[Any], damage: list[tuple[float, int, bytes]]) -> None:
    data = b"".join(map(pack, values))
    assert list(unpack(data)) == list(read(io.BytesIO(data), len(data))) == values
    data = damaged(data, damage)
    found = list(unpack(data))
    with contextlib.suppress(ValueError, RecursionError):
        assert list(read(io.BytesIO(data), len(data))) == found
