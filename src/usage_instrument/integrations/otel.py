"""OpenTelemetry: the figures of `stats()` as metrics, and the trace of a use in its metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
from opentelemetry.trace import format_trace_id, get_current_span

from .stats_metrics import FIGURES, source

if TYPE_CHECKING:
    from usage_instrument.stats import Stats
    from usage_instrument.tracker import Tracker

_instrumented: WeakKeyDictionary[MeterProvider, list[Tracker | None]] = WeakKeyDictionary()


def instrument(meter_provider: MeterProvider | None = None, *, tracker: Tracker | None = None) -> None:
    """Report the figures of `tracker`, or of the one that `usage_instrument.configure` sets up, through
    `meter_provider`, or the global one. Again for the same is nothing.

    They are read when the provider's reader asks. The writer's own SQL makes no spans, with or without this.
    """
    provider = get_meter_provider() if meter_provider is None else meter_provider
    known = _instrumented.setdefault(provider, [])
    if any(tracker is one for one in known):
        return
    known.append(tracker)
    meter = provider.get_meter("usage_instrument")
    for figure in FIGURES:
        create = meter.create_observable_counter if figure.grows else meter.create_observable_gauge
        name = "usage_instrument." + figure.name.replace(" ", ".")
        create(name, [_observed(source(tracker), figure.field)], figure.unit, figure.description)


def trace_metadata(*_: object, **__: object) -> dict[str, str]:
    """The current trace's id, for the option `metadata=` of a middleware or of `tracks`: `{"trace_id": "4bf9…"}`;
    nothing outside of a trace."""
    span = get_current_span().get_span_context()
    return {"trace_id": format_trace_id(span.trace_id)} if span.is_valid else {}


def _observed(stats: Callable[[], Stats], field: str) -> Callable[[CallbackOptions], Iterator[Observation]]:
    def observe(options: CallbackOptions) -> Iterator[Observation]:
        value = getattr(stats(), field)
        if value is not None:
            yield Observation(value)

    return observe
