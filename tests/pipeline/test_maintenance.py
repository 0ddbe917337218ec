"""Heartbeat, catalogue, recovery and pruning between batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from usage_instrument.capture.registry import Catalog
from usage_instrument.database.driver_errors import Fault
from usage_instrument.pipeline import maintenance as maintenance_module
from usage_instrument.pipeline.maintenance import HEARTBEAT, Maintenance
from usage_instrument.pipeline.store import WriteError
from usage_instrument.settings import Settings
from usage_instrument.stats import Recovered
from usage_instrument.typing import UNSET

LOCKED = WriteError(Fault.TRANSIENT, "locked")


class Bench:
    """Maintenance with a store that records what it is asked for, and a clock."""

    exposure_problem = dimension_problem = "there is no such table"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, recover: Any = None) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(maintenance_module, "time", clock)
        self.done: list[str] = []
        self.declared: list[str] = []
        self.error: WriteError | None = None
        self.catalog = Catalog()
        self.maintenance = Maintenance(self.catalog, Settings(), recover)

    def beat(self, ledger: object) -> int:
        return 7

    def declare(self, features: Any, service: str) -> None:
        if self.error is not None:
            raise self.error
        self.declared += [feature.name for feature in features]

    @property
    def retention(self) -> Any:
        def prune(before: object) -> Any:
            self.done.append("prune")
            if self.error is not None:
                raise self.error
            yield 1

        return SimpleNamespace(
            first_day=lambda keep: None,
            first_month=lambda day: day,
            make_partitions=lambda since: (),
            prune=prune,
            dead_writers=lambda known: [],
            forget=lambda dead: 0,
            renew_rollups=lambda since: (),
        )

    def run(
        self, *, final: bool = False, asked: bool = False, interrupted: Callable[[], bool] = lambda: False
    ) -> list[str]:
        self.done.clear()
        self.maintenance.run(self, object(), final=final, asked=asked, interrupted=interrupted)  # type: ignore[arg-type]
        return list(self.done)


def test_an_idle_writer_beats_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    store: Any = bench
    bench.maintenance.registered()
    assert bench.maintenance.beat(store, store) is UNSET
    bench.now += HEARTBEAT
    assert bench.maintenance.beat(store, store) == 7
    assert bench.maintenance.beat(store, store) is UNSET


def test_each_feature_is_declared_once_and_again_the_next_day(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.catalog.declare("a")
    bench.run()
    bench.catalog.declare("b")
    bench.run()
    bench.run()
    assert bench.declared == ["a", "b"]
    bench.now += 86_400
    bench.run()
    assert bench.declared == ["a", "b", "a", "b"]
    bench.maintenance.end()
    bench.run()
    assert bench.declared[4:] == ["a", "b"]


def test_a_lock_on_the_catalogue_delays_it_and_a_lasting_error_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(monkeypatch)
    bench.catalog.declare("a")
    bench.error = LOCKED
    bench.run()
    bench.error = None
    bench.run()
    assert bench.declared == []
    bench.now += 15
    bench.run()
    assert bench.declared == ["a"]
    assert caplog.records == []
    bench.error = WriteError(Fault.CONFIGURATION, "permission denied")
    bench.catalog.declare("b")
    bench.run()
    bench.error = None
    bench.run()
    assert bench.declared == ["a"]
    assert [record.getMessage() for record in caplog.records] == ["the catalogue was not written: permission denied"]


def test_recovery_runs_once_a_minute_and_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = itertools.count(1)

    def recover(store: object, stop: Callable[[], bool]) -> Recovered:
        next(runs)
        return Recovered(written=2)

    bench = Bench(monkeypatch, recover)
    bench.run()
    bench.run()
    bench.run(final=True)
    bench.now += 60
    bench.run()
    assert next(runs) == 3
    assert bench.maintenance.recovered.written == 4


def test_pruning_waits_while_a_flush_is_asked_for_and_after_a_lock(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(monkeypatch)
    bench.maintenance.registered()
    bench.maintenance._next_beat = float("inf")
    bench.maintenance._next_pruning = bench.now
    assert bench.run(asked=True) == []
    bench.error = LOCKED
    assert bench.run() == ["prune"]
    assert bench.run() == []
    bench.now += 900
    bench.error = None
    assert bench.run(interrupted=lambda: True) == ["prune"]
    assert bench.run() == [], "the rest of the same walk"
    bench.now += 85_000
    assert bench.run() == []
    assert caplog.records == []
