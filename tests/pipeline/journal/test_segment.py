"""Slots: filled without a lock, read in their order, and released from memory once they are sealed."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest

from usage_instrument.events import Use
from usage_instrument.pipeline.journal import Directory, Entry, ReadPosition
from usage_instrument.pipeline.journal.segment import Chunk, Segment, State, numbers


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory.create(str(tmp_path), uuid.uuid4(), "")


def spill(feature: str, user: object) -> None:
    raise AssertionError((feature, user))


def read(segment: Segment) -> list[object]:
    """Everything that can be read now, by one entry for each use."""
    found: list[object] = []
    while (chunk := segment.take(1000, lambda chunk: True)) is not None:
        for entry, number in chunk.entries:
            found += [entry] * number
    return found


def test_a_slot_that_is_filled_late_is_read_late(directory: Directory) -> None:
    segment = Segment.create(directory, 0, 1024)
    append = segment.sink("f", spill)
    append(1)
    late = next(segment._next)  # a thread that was interrupted between taking its slot and the store
    append(2)
    assert read(segment) == [("f", 1), ("f", 2)]
    assert segment.position == ReadPosition(0, 3, (late,))
    segment._store[late] = segment.dictionary.add_key("f", 3)
    assert read(segment) == [("f", 3)]
    assert segment.position == ReadPosition(0, 3, ())


def test_slots_that_were_filled_late_are_read_as_memory_has_room(directory: Directory) -> None:
    segment = Segment.create(directory, 0, 1024)
    late = [next(segment._next) for _ in range(10)]
    segment.sink("f", spill)(99)
    assert read(segment) == [("f", 99)]
    for slot in late:
        segment._store[slot] = segment.dictionary.add_key("f", slot)
    found: list[Entry] = []
    while (chunk := segment.take(4, lambda chunk: len(chunk.entries) <= 3)) is not None:
        found += [entry for entry, _ in chunk.entries]
    assert found == [("f", slot) for slot in late]
    assert segment.take(4, lambda chunk: False) is None
    assert segment.position.holes == ()


def state_of(segment: Segment) -> State:
    return segment.state


def test_its_states(directory: Directory) -> None:
    segment = Segment.create(directory, 0, 1024)
    assert state_of(segment) is State.OPEN
    segment.sink("f", spill)(1)
    kept = Use("kept", 1, {"a": 1}, 2, None, 1_714_564_800_000_000)
    assert segment.put(Use("rich", 1, None, 5))
    assert segment.put(kept)
    segment.rest()
    assert state_of(segment) is State.OPEN, "captures still fill it"
    segment.seal()
    assert state_of(segment) is State.SEALED
    assert not segment.put(Use("rich", 1))
    segment.rest()
    assert (state_of(segment), segment.dictionary.is_loaded) == (State.RESTING, False)
    assert (segment.unread, state_of(segment)) == (8, State.RESTING), "which is known without the file"
    assert read(segment) == [("f", 1), Use("rich", 1, None, 5), kept]
    assert (state_of(segment), segment.is_done, segment.unread) == (State.SEALED, True, 0)
    segment.remove()
    assert numbers(directory) == []


def test_uses_that_are_read_while_another_thread_counts_them(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = Segment.create(directory, 0, 1024)
    segment.sink("f", spill)(1)
    segment.seal()
    look_up = segment.dictionary.look_up

    def meanwhile(codes: Iterable[int]) -> list[tuple[Entry, int]]:
        monkeypatch.setattr(segment.dictionary, "look_up", look_up)
        found = look_up(codes)
        assert read(segment) == [("f", 1)]
        return found

    monkeypatch.setattr(segment.dictionary, "look_up", meanwhile)
    assert segment.unread == 1
    segment.rest()
    assert segment.unread == 0


def test_it_is_loaded_with_its_position_and_times(directory: Directory) -> None:
    segment = Segment.create(directory, 7, 1024)
    append = segment.sink("f", spill)
    for user in (1, 2):
        append(user)
        segment.tick(user * 1_000_000)
    append(3)
    loaded = Segment.load(directory, 7, ReadPosition(7, 1))
    assert (loaded.state, loaded.unread, loaded.clock) == (State.SEALED, 2, 2_000_000)
    chunks = [loaded.take(1000, lambda chunk: True) for _ in range(3)]
    assert chunks == [Chunk([(("f", 2), 1)], 2_000_000), Chunk([(("f", 3), 1)], 2_000_000), None]
    assert loaded.is_done


def test_what_does_not_fit_is_left(directory: Directory) -> None:
    segment = Segment.create(directory, 0, 1024)
    append = segment.sink("f", spill)
    for user in range(8):
        append(user)
    chunk = segment.take(1000, lambda chunk: len(chunk.entries) <= 3)
    assert chunk is not None
    assert chunk.entries == [(("f", user), 1) for user in range(2)], "halved until it fits"
    assert segment.unread == 6
    assert segment.take(1000, lambda chunk: False) is None
