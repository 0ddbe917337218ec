"""Prometheus: the figures of `stats()` as metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from .stats_metrics import FIGURES, Figure, source

if TYPE_CHECKING:
    from usage_instrument.tracker import Tracker

Family = CounterMetricFamily | GaugeMetricFamily


class UsageCollector(Collector):
    """Looks at a tracker when Prometheus asks, and not before."""

    def __init__(self, tracker: Tracker | None = None) -> None:
        self._stats = source(tracker)

    def describe(self) -> Iterator[Family]:
        """As Collector.describe."""
        return map(_family, FIGURES)

    def collect(self) -> Iterator[Family]:
        """As Collector.collect."""
        stats = self._stats()
        for figure in FIGURES:
            family, value = _family(figure), getattr(stats, figure.field)
            if value is not None:
                family.add_metric([], value)
            yield family


_registered: WeakKeyDictionary[CollectorRegistry, Tracker | None] = WeakKeyDictionary()


def register(registry: CollectorRegistry | None = None, *, tracker: Tracker | None = None) -> None:
    """Show the figures of `tracker`, or of the one that `usage_instrument.configure` sets up, in `registry`, or in the
    default one. Again for the same is nothing; raises ValueError for another tracker in the same registry.

    They are this process's. With `PROMETHEUS_MULTIPROC_DIR` the client shows no collectors of this kind.
    """
    registry = REGISTRY if registry is None else registry
    if registry not in _registered or _registered[registry] is not tracker:
        registry.register(UsageCollector(tracker))
        _registered[registry] = tracker


def _family(figure: Figure) -> Family:
    kind = CounterMetricFamily if figure.grows else GaugeMetricFamily
    name = "usage_instrument_" + figure.name.replace(" ", "_")
    return kind(f"{name}_seconds" if figure.unit == "s" else name, figure.description)
