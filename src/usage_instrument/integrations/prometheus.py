"""Prometheus: the numbers of `stats()` as metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from .stats_metrics import METRICS, Metric, source

if TYPE_CHECKING:
    from usage_instrument.tracker import Tracker

__all__ = ["register"]

Family = CounterMetricFamily | GaugeMetricFamily


class UsageCollector(Collector):
    """Reads the stats of a tracker on each scrape."""

    def __init__(self, tracker: Tracker | None = None) -> None:
        self._stats = source(tracker)

    def describe(self) -> Iterator[Family]:
        """As Collector.describe."""
        return map(_family, METRICS)

    def collect(self) -> Iterator[Family]:
        """As Collector.collect."""
        stats = self._stats()
        for metric in METRICS:
            family, value = _family(metric), getattr(stats, metric.field)
            if value is not None:
                family.add_metric([], value)
            yield family


_registered: WeakKeyDictionary[CollectorRegistry, Tracker | None] = WeakKeyDictionary()


def register(registry: CollectorRegistry | None = None, *, tracker: Tracker | None = None) -> None:
    """Register the metrics of `tracker`, by default of the configured one, in `registry`, by default the global one.
    A second call with the same arguments does nothing. Raises ValueError for another tracker in the same registry.

    The metrics are those of this process. With `PROMETHEUS_MULTIPROC_DIR` the client shows no custom collectors.
    """
    registry = REGISTRY if registry is None else registry
    if registry not in _registered or _registered[registry] is not tracker:
        registry.register(UsageCollector(tracker))
        _registered[registry] = tracker


def _family(metric: Metric) -> Family:
    kind = CounterMetricFamily if metric.grows else GaugeMetricFamily
    name = "usage_instrument_" + metric.name.replace(" ", "_")
    return kind(f"{name}_seconds" if metric.unit == "s" else name, metric.description)
