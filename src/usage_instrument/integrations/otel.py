"""OpenTelemetry: the numbers of `stats()` as metrics, and the trace id as metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
from opentelemetry.trace import format_trace_id, get_current_span

from .stats_metrics import METRICS, source

if TYPE_CHECKING:
    from usage_instrument.stats import Stats
    from usage_instrument.tracker import Tracker

__all__ = ["instrument", "trace_metadata"]

_instrumented: WeakKeyDictionary[MeterProvider, list[Tracker | None]] = WeakKeyDictionary()


def instrument(meter_provider: MeterProvider | None = None, *, tracker: Tracker | None = None) -> None:
    """Report the metrics of `tracker`, by default of the configured one, through `meter_provider`, by default the
    global one. A second call with the same arguments does nothing.

    The provider's reader reads them. The writer's own SQL makes no spans, with or without this function.
    """
    provider = get_meter_provider() if meter_provider is None else meter_provider
    known = _instrumented.setdefault(provider, [])
    if any(tracker is one for one in known):
        return
    known.append(tracker)
    meter = provider.get_meter("usage_instrument")
    for metric in METRICS:
        create = meter.create_observable_counter if metric.grows else meter.create_observable_gauge
        name = "usage_instrument." + metric.name.replace(" ", ".")
        create(name, [_observed(source(tracker), metric.field)], metric.unit, metric.description)


def trace_metadata(*_: object, **__: object) -> dict[str, str]:
    """The current trace id, for the option `metadata=` of a middleware or of `tracks`: `{"trace_id": "4bf9…"}`; empty
    outside of a trace."""
    span = get_current_span().get_span_context()
    return {"trace_id": format_trace_id(span.trace_id)} if span.is_valid else {}


def _observed(stats: Callable[[], Stats], field: str) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def observe(options: CallbackOptions) -> Iterator[Observation]:
        value = getattr(stats(), field)
        if value is not None:
            yield Observation(value)

    return observe
