"""The figures as Prometheus reads them."""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest

import usage_instrument as usage
from conftest import Database
from reading import made
from usage_instrument import Settings, Stats, Tracker
from usage_instrument.integrations.prometheus import register
from usage_instrument.integrations.stats_metrics import METRICS


def test_the_figures_of_the_configured_tracker(sqlite: Database) -> None:
    registry = CollectorRegistry()
    register(registry)
    assert registry.get_sample_value("usage_instrument_uses_captured_total") == 0
    assert registry.get_sample_value("usage_instrument_heartbeat_seconds") is None
    made(sqlite.engine(), user_id_type="integer")
    usage.configure(sqlite.url, user_id_type="integer")
    usage.track("secret_feature", user=4711, count=3)
    usage.track("secret_feature", user=3.5)
    assert usage.flush()
    usage.track("secret_feature", user=4711)
    found = {
        name: registry.get_sample_value(f"usage_instrument_uses_{name}")
        for name in ("captured_total", "written_total", "rejected_total", "dropped_total", "pending")
    }
    assert found == {
        "captured_total": 5, "written_total": 3, "rejected_total": 1, "dropped_total": 0, "pending": 1,
    }  # fmt: skip
    heartbeat = registry.get_sample_value("usage_instrument_heartbeat_seconds")
    assert heartbeat is not None
    assert heartbeat >= 0
    shown = generate_latest(registry).decode()
    assert "{" not in shown, "no labels at all"
    assert "secret_feature" not in shown
    assert "4711" not in shown
    assert "# HELP usage_instrument_uses_written_total Uses that are in the table." in shown


def test_every_number_of_the_stats_is_a_figure() -> None:
    numbers = {name for name in Stats.__dataclass_fields__ if name not in ("last_error", "writer_id")}
    assert {metric.field for metric in METRICS} == numbers


def test_registering_again_is_nothing_and_another_tracker_is_told(sqlite: Database) -> None:
    registry = CollectorRegistry()
    register(registry)
    register(registry)
    tracker = Tracker(sqlite.url, Settings(user_id_type="integer"))
    with pytest.raises(ValueError, match="usage_instrument_uses_captured"):
        register(registry, tracker=tracker)
    own = CollectorRegistry()
    register(own, tracker=tracker)
    tracker.track("f", user=1)
    captured = "usage_instrument_uses_captured_total"
    assert (registry.get_sample_value(captured), own.get_sample_value(captured)) == (0, 1)
    tracker.shutdown(0)
