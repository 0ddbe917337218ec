"""The aggregator: what is drained is folded under the right time, within the bound on memory, and no loss is silent."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
import uuid
from typing import Any

import pytest

from usage_instrument.events import Access, Count, Use, canonical_user
from usage_instrument.pipeline import aggregator as aggregator_module
from usage_instrument.pipeline import losses
from usage_instrument.pipeline.aggregator import Aggregator
from usage_instrument.pipeline.buffer import Buffer, CaptureFailure
from usage_instrument.pipeline.pending_counts import PendingCounts
from usage_instrument.settings import Settings

NOON = 1_714_564_800_000_000_000
"""2024-05-01 12:00 UTC in ns."""
DAY = dt.datetime(2024, 5, 1)


class Clock:
    """The wall clock that the aggregator reads."""

    def __init__(self) -> None:
        self.now = NOON

    def time_ns(self) -> int:
        return self.now

    monotonic = staticmethod(time.monotonic)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(aggregator_module, "time", clock)
    return clock


class Bench:
    """A aggregator between a buffer and pending counts."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**{"user_id_type": "integer", **settings})
        self.buffer = Buffer()
        self.pending = PendingCounts(self.settings.max_pending, self.settings.max_pending_bytes)
        self.aggregator = Aggregator(
            self.buffer, self.pending, self.settings, canonical_user(self.settings.user_id_type)
        )

    def plain(self, feature: str, *users: Any) -> None:
        self.buffer.plain(feature).extend(users)

    def aggregate(self) -> None:
        self.aggregator.aggregate()

    def taken(self) -> list[Count]:
        counts = self.pending.counts.take(10**6)
        return sorted(counts, key=lambda count: (count.feature, str(count.user)))

    def balanced(self) -> bool:
        aggregator = self.aggregator
        return aggregator.drained == self.pending.uses + aggregator.dropped + aggregator.rejected


def test_nothing_to_fold() -> None:
    bench = Bench()
    bench.aggregate()
    assert bench.taken() == []
    assert bench.aggregator.drained == 0


def test_uses_are_folded_under_the_time_of_the_drain(clock: Clock) -> None:
    bench = Bench()
    bench.plain("a", 1, 1, None, "1")
    bench.plain("b", 2)
    bench.buffer.rich.append(Use("b", 2, None, 10))
    bench.aggregate()
    noon = dt.datetime(2024, 5, 1, 12)
    assert bench.taken() == [
        Count("a", 1, 3, noon, None, ((DAY, 3),)),
        Count("a", None, 1, noon, None, ((DAY, 1),)),
        Count("b", 2, 11, noon, None, ((DAY, 11),)),
    ]
    assert bench.aggregator.drained == 15


@pytest.mark.parametrize(
    ("history", "expected"), [("day", ((DAY, 1),)), ("hour", ((DAY.replace(hour=12), 1),)), (None, ())]
)
def test_the_grain_of_the_history(clock: Clock, history: str | None, expected: object) -> None:
    bench = Bench(history=history)
    bench.plain("a", 1)
    clock.now += 59 * 60 * 10**9
    bench.aggregate()
    assert bench.taken()[0].history == expected


def test_an_outage_past_midnight_keeps_both_days(clock: Clock) -> None:
    bench = Bench()
    bench.plain("a", 1)
    bench.aggregate()
    clock.now += 12 * 3600 * 10**9
    bench.plain("a", 1, 1)
    bench.aggregate()
    [count] = bench.taken()
    assert count.uses == 3
    assert sorted(count.history) == [(DAY, 1), (DAY + dt.timedelta(days=1), 2)]
    assert count.last_used == DAY + dt.timedelta(days=1)


def test_a_use_that_a_transaction_kept_has_the_time_of_its_call(clock: Clock) -> None:
    bench = Bench()
    yesterday = (NOON - 86_400 * 10**9) // 1000
    bench.buffer.rich.append(Use("a", 1, {"format": "csv"}, 1, None, yesterday))
    bench.aggregate()
    before = DAY - dt.timedelta(days=1)
    assert bench.taken() == [Count("a", 1, 1, before + dt.timedelta(hours=12), '{"format":"csv"}', ((before, 1),))]
    bench.plain("a", 1)
    bench.buffer.rich.append(Use("a", 1, None, 2, None, yesterday))
    bench.aggregate()
    [count] = bench.taken()
    assert count.last_used == dt.datetime(2024, 5, 1, 12)
    assert sorted(count.history) == [(before, 2), (DAY, 1)]


def test_the_wall_clock_jumps_back(clock: Clock) -> None:
    bench = Bench()
    bench.plain("a", 1)
    bench.aggregate()
    clock.now -= 3 * 86400 * 10**9
    bench.plain("a", 1)
    bench.plain("b", 1)
    bench.aggregate()
    before = DAY - dt.timedelta(days=3)
    counts = {count.feature: count for count in bench.taken()}
    assert counts["a"].last_used == dt.datetime(2024, 5, 1, 12)  # never backwards
    assert sorted(counts["a"].history) == [(before, 1), (DAY, 1)]
    assert counts["b"].history == ((before, 1),)  # one slip of the clock spoils no later day


# ---- memory


def test_beyond_the_bound_uses_are_dropped_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(max_pending=3)
    bench.plain("a", 1, 2, 3, 3)
    bench.aggregate()
    assert caplog.records == []
    bench.plain("a", 3, 4, 5, 5)
    bench.plain("b", 1)
    bench.buffer.rich.append(Use("c", 1, {"k": 1}, 6))
    bench.aggregate()
    assert bench.aggregator.dropped == 3 + 1 + 6
    assert bench.balanced()
    assert bench.pending.losses == {(losses.today(), losses.MEMORY): 10}
    assert [record.message for record in caplog.records] == [
        "3 keys wait for the database (max_pending) (dropped 10, rejected 0, metadata lost 0 so far)"
    ]
    assert [count.uses for count in bench.taken()] == [1, 1, 3]


def test_what_the_writer_holds_counts_against_the_bound() -> None:
    bench = Bench(max_pending=2)
    bench.plain("a", 1, 2)
    bench.aggregate()
    bench.pending.take()
    bench.plain("a", 1)
    bench.aggregate()
    assert bench.aggregator.dropped == 1
    assert bench.balanced()


def test_metadata_of_dropped_uses_takes_no_memory() -> None:
    bench = Bench(max_pending=1)
    bench.plain("a", 1)
    bench.buffer.rich.append(Use("a", 2, {"k": 1}))
    bench.aggregate()
    bench.pending.counts.take(10)
    bench.plain("a", 2)
    bench.aggregate()
    assert bench.taken()[0].metadata is None


def test_beyond_the_bytes_metadata_is_lost_and_the_uses_count(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(max_pending_bytes=3_000)
    for user in range(10):
        bench.buffer.rich.append(Use("a", user, {"k": "x" * 800}))
    bench.aggregate()
    assert (bench.aggregator.metadata_lost, bench.aggregator.dropped) == (8, 0)
    assert bench.pending.bytes <= 3_000
    assert bench.balanced()
    assert "3000 bytes wait for the database (max_pending_bytes)" in caplog.text
    bench.pending.take()
    assert 2_000 < bench.pending.bytes <= 3_000, "the writer has them"
    bench.pending.with_writer_bytes = 0
    bench.buffer.rich.append(Use("a", 99, {"k": "x" * 800}))
    bench.aggregate()
    assert bench.aggregator.metadata_lost == 8


def test_beyond_the_bytes_an_access_is_lost_and_counted() -> None:
    bench = Bench(max_pending_bytes=3_000)
    for user in range(5):
        access = Access(uuid.UUID(int=user + 1), "success", 0)
        bench.buffer.rich.append(Use("a", user, {"k": "x" * 800}, 1, access))
    bench.aggregate()
    assert len(bench.pending.accesses) + bench.aggregator.audit_lost == 5
    assert bench.aggregator.audit_lost > 0
    assert bench.pending.losses[losses.today(), losses.ACCESS] == bench.aggregator.audit_lost
    assert bench.pending.uses == 5


# ---- metadata


def metadata_of(bench: Bench) -> Any:
    [count] = bench.taken()
    return None if count.metadata is None else json.loads(count.metadata)


def test_newer_metadata_lies_over_older() -> None:
    bench = Bench()
    bench.buffer.rich.append(Use("a", 1, {"x": 1, "y": 1}))
    bench.buffer.rich.append(Use("a", "1", '{"y":[2]}'))
    bench.aggregate()
    bench.buffer.rich.append(Use("a", 1, {"z": None}))
    bench.plain("a", 1)
    bench.aggregate()
    assert metadata_of(bench) == {"x": 1, "y": [2], "z": None}


def test_metadata_that_is_too_large_is_lost_and_the_use_counts(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(metadata_max_bytes=20)
    bench.buffer.rich.append(Use("a", 1, {"x": 1}))
    bench.buffer.rich.append(Use("a", 1, {"y": "x" * 20}))
    bench.buffer.rich.append(Use("a", 1, json.dumps({"y": ["x" * 20]})))
    bench.aggregate()
    assert bench.aggregator.metadata_lost == 2
    assert bench.aggregator.rejected == 0
    assert bench.balanced()
    assert [count.uses for count in bench.pending.counts.take(5)] == [3]
    assert caplog.text.count("metadata_max_bytes (20)") == 1


def test_metadata_that_is_too_large_together_keeps_the_newer() -> None:
    bench = Bench(metadata_max_bytes=20)
    for key in "xyz":
        bench.buffer.rich.append(Use("a", 1, {key: "1234567"}))
    bench.aggregate()
    assert bench.aggregator.metadata_lost == 0
    assert metadata_of(bench) == {"z": "1234567"}


def test_the_bound_on_metadata_is_exact() -> None:
    text = '{"k":"1234"}'
    for size, lost in ((len(text), 0), (len(text) - 1, 1)):
        bench = Bench(metadata_max_bytes=size)
        bench.buffer.rich.append(Use("a", 1, {"k": "1234"}))
        bench.aggregate()
        assert bench.aggregator.metadata_lost == lost


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "a\0", "\ud800", 10**5000], ids=range(5))
def test_flat_metadata_that_json_refuses_never_costs_the_use(value: object) -> None:
    bench = Bench()
    bench.buffer.rich.append(Use("a", 1, {"k": value}))
    bench.aggregate()
    assert bench.aggregator.metadata_lost == 1
    assert metadata_of(bench) is None


# ---- what is refused


def test_a_user_of_another_type_is_rejected_and_the_others_count(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.plain("a", 1, "x", "x", uuid.UUID(int=1), 2**63, 2)
    bench.buffer.rich.append(Use("a", "jane", {"k": 1}, 5))
    bench.aggregate()
    assert bench.aggregator.rejected == 9
    assert bench.balanced()
    assert bench.pending.losses == {(losses.today(), losses.USER_TYPE): 9}
    assert [(count.user, count.uses, count.metadata) for count in bench.taken()] == [(1, 1, None), (2, 1, None)]
    assert len(caplog.records) == 1
    assert caplog.text.count("'a': a user id of type integer is an int or its decimal digits") == 1
    assert "jane" not in caplog.text


def test_an_int_that_has_no_text_is_rejected() -> None:
    bench = Bench(user_id_type="string")
    bench.plain("a", 10**5000, "x")
    bench.aggregate()
    assert bench.aggregator.rejected == 1
    assert [count.user for count in bench.taken()] == ["x"]


def test_mishaps_are_booked(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.buffer.failures.append(CaptureFailure("a", losses.CAPTURE, 3, "wrong"))
    bench.buffer.failures.append(CaptureFailure("a", losses.CAPTURE, 1, "wrong again"))
    bench.buffer.failures.append(CaptureFailure("a", "metadata", 0, "metadata lost: why"))
    bench.aggregate()
    assert (bench.aggregator.rejected, bench.aggregator.metadata_lost) == (4, 1)
    assert bench.balanced()
    assert bench.pending.losses == {(losses.today(), losses.CAPTURE): 4}
    assert [record.message for record in caplog.records] == [
        "'a': wrong (dropped 0, rejected 4, metadata lost 1 so far)",
        "'a': metadata lost: why (dropped 0, rejected 4, metadata lost 1 so far)",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_a_hostile_name_is_one_short_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.buffer.failures.append(CaptureFailure("\ud800\nERROR forged" + "x" * 10**6, losses.CAPTURE, 1, "wrong"))
    bench.aggregate()
    [record] = caplog.records
    assert len(record.message) < 300
    assert "\n" not in record.message
    record.message.encode()


# ---- turns


def test_without_waiting_nobody_is_disturbed() -> None:
    bench = Bench()
    bench.plain("a", 1)
    with bench.aggregator._turn:
        bench.aggregator.aggregate(wait=False)
        assert bench.aggregator.drained == 0
    bench.aggregator.aggregate(wait=False)
    assert bench.aggregator.drained == 1
