"""What one would put into a decorator otherwise: each peer counts a use by its documented call, if it is installed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import wrapt

Function: TypeAlias = Callable[..., Any]
EMPTY = "an empty wrapt.decorator"
PROMETHEUS = "prometheus_client, labels(user, feature).inc()"


@wrapt.decorator
def empty(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """The decorator that everybody writes first."""
    return wrapped(*args, **kwargs)


def closure(function: Function) -> Function:
    """A plain function around a function."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def awaiting(function: Function) -> Function:
    """The same around a coroutine function."""

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return call


def after(use: Callable[[], object]) -> Callable[[Function], Function]:
    """A closure that does this after each call."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            use()
            return result

        return call

    return decorate


def installed() -> Iterator[tuple[str, Callable[[], object]]]:
    """Their names, and what counts one use of a user."""
    for name, make in _PEERS.items():
        try:
            yield name, make()
        except ImportError:
            continue


def _prometheus() -> Callable[[], object]:
    import prometheus_client

    uses = prometheus_client.Counter("uses", "Uses", ["user", "feature"], registry=None)
    return lambda: uses.labels("42", "bench").inc()


def _opentelemetry() -> Callable[[], object]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    uses = MeterProvider([InMemoryMetricReader()]).get_meter("bench").create_counter("uses")
    return lambda: uses.add(1, {"user": "42", "feature": "bench"})


def _statsd() -> Callable[[], object]:
    import statsd

    client = statsd.StatsClient("127.0.0.1", 8125)  # UDP: whether anybody listens is all the same
    return lambda: client.incr("bench")


def _segment() -> Callable[[], object]:
    from segment.analytics.client import Client

    client = Client("key", send=False)  # up to its queue
    return lambda: client.track("42", "bench")


def _posthog() -> Callable[[], object]:
    from posthog import Posthog

    client = Posthog("key", host="http://127.0.0.1:9", send=False)
    return lambda: client.capture("bench", distinct_id="42")


_PEERS: dict[str, Callable[[], Callable[[], object]]] = {
    PROMETHEUS: _prometheus,
    "OpenTelemetry, counter.add(1, attributes)": _opentelemetry,
    "statsd, incr() by UDP": _statsd,
    "Segment, track() up to its queue": _segment,
    "PostHog, capture() up to its queue": _posthog,
}
