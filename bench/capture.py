"""What a tracked call costs, beside the decorators that one knows. Run it: python bench/capture.py"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from databases import configured
from peers import EMPTY, PROMETHEUS, Function, after, awaiting, closure, empty, installed
from rounds import Bar, Case, Result, Table, compare, main, now, times

import usage_instrument as usage
from usage_instrument.capture.context import Request, holder

TRACKED = "@tracks"
BARE = "bare"
VARIANT, COLORS = "variant()", ["red", "blue"]
PEER = "closure with "
CALLS, FEW = 4_000, 200
"""A case and round; the others are slow."""
THREADS = 4


# ---- what is called


def function(x: int, y: int = 2) -> int:
    return x


async def coroutine(x: int, y: int = 2) -> int:
    return x


def generator(x: int, y: int = 2) -> Iterator[int]:
    yield x


async def asynchronous(x: int, y: int = 2) -> AsyncIterator[int]:
    yield x


def call(called: Function, calls: int = CALLS) -> float:
    """Seconds a call."""
    every = itertools.repeat(1, calls)
    start = now()
    for x in every:
        called(x)
    return (now() - start) / calls


def call_method(view: Any) -> float:
    every = itertools.repeat(1, CALLS)
    start = now()
    for x in every:
        view.method(x)
    return (now() - start) / CALLS


def exhaust(called: Function) -> float:
    start = now()
    for x in itertools.repeat(1, CALLS):
        for _ in called(x):
            pass
    return (now() - start) / CALLS


def run(work: Any) -> float:
    """A coroutine in which nothing ever waits, so that no event loop is in the way."""
    try:
        work.send(None)
    except StopIteration as stop:
        return float(stop.value)
    raise RuntimeError("the coroutine waited")


def await_it(called: Function) -> float:
    async def work() -> float:
        start = now()
        for x in itertools.repeat(1, CALLS):
            await called(x)
        return (now() - start) / CALLS

    return run(work())


def exhaust_async(called: Function) -> float:
    async def work() -> float:
        start = now()
        for x in itertools.repeat(1, CALLS):
            async for _ in called(x):
                pass
        return (now() - start) / CALLS

    return run(work())


def call_in_threads(called: Function) -> float:
    """Seconds a call of all threads together, each in the same request."""
    ready = threading.Barrier(THREADS + 1)
    request = holder.get()

    def work() -> None:
        holder.set(request)
        ready.wait()
        call(called)
        ready.wait()

    for _ in range(THREADS):
        threading.Thread(target=work).start()
    ready.wait()
    start = time.perf_counter()
    ready.wait()
    return (time.perf_counter() - start) / (CALLS * THREADS)


# ---- where


@contextlib.contextmanager
def in_a_request() -> Iterator[None]:
    request = Request("http", "GET")
    request.identify(42)
    token = holder.set(request)
    try:
        yield
    finally:
        holder.reset(token)


# ---- measured


def side_by_side(title: str, loop: Callable[[Any], float], cases: dict[str, Any], rounds: int) -> Table:
    """In a request, with what was captured written between the rounds."""

    def case(name: str, target: Any) -> Case:
        return (lambda: call(target, FEW)) if name.startswith(PEER) else lambda: loop(target)

    with in_a_request():
        return compare(
            title,
            {name: case(name, target) for name, target in cases.items()},
            EMPTY,
            rounds=rounds,
            between=usage.flush,
        )


def measure(scale: float) -> Iterator[Result]:
    rounds = times(60, scale)
    tracks = usage.tracks("bench")
    with configured():
        plain = {
            BARE: function,
            "functools.wraps closure": closure(function),
            EMPTY: empty(function),
            TRACKED: tracks(function),
            "@tracks(user=callable)": usage.tracks("bench_user", user=lambda *args: 42)(function),
            "@tracks(user_arg=, metadata=)": usage.tracks("bench_rich", user_arg="x", metadata=["x", "y"])(function),
            VARIANT: lambda x: usage.variant("bench_button", COLORS),
        }
        peers = {f"{PEER}{name}": after(use)(function) for name, use in installed()}
        found = side_by_side("A function, its user from the request", call, plain | peers, rounds)
        yield found
        yield Bar("tracked function / empty wrapt decorator", found[TRACKED].ratio, 0.5)
        yield Bar("variant() for a known user / tracked function", found[VARIANT].ratio / found[TRACKED].ratio, 1.5)
        rival = f"{PEER}{PROMETHEUS}"
        if rival in peers:
            yield Bar("tracked function / prometheus_client", found[TRACKED].ratio / found[rival].ratio, 0.25)

        methods = {name: wrap(function_of_self) for name, wrap in ((BARE, _same), (EMPTY, empty), (TRACKED, tracks))}
        views = {name: type("View", (), {"method": method})() for name, method in methods.items()}
        found = side_by_side("A method", call_method, views, rounds)
        yield found
        yield Bar("tracked method / empty wrapt decorator", found[TRACKED].ratio, 0.85)

        # Counting when the await ends takes a second coroutine, which an empty decorator does not pay.
        kinds = {BARE: coroutine, "async closure": awaiting(coroutine), EMPTY: empty(coroutine)}
        found = side_by_side("A coroutine, awaited", await_it, {**kinds, TRACKED: tracks(coroutine)}, rounds)
        yield found
        yield Bar("tracked coroutine / empty wrapt decorator", found[TRACKED].ratio, 0.75)
        for title, loop, target in (
            ("A generator of one item, exhausted", exhaust, generator),
            ("An async generator of one item, exhausted", exhaust_async, asynchronous),
        ):
            cases = {BARE: target, EMPTY: empty(target), TRACKED: tracks(target)}
            yield side_by_side(title, loop, cases, rounds)
        threaded = {name: plain[name] for name in (BARE, EMPTY, TRACKED)}
        yield side_by_side(f"A function, called by {THREADS} threads at once", call_in_threads, threaded, rounds)
    with configured(journal=True):
        cases = {BARE: function, EMPTY: empty(function), TRACKED: tracks(function)}
        found = side_by_side("A function, with the journal on", call, cases, rounds)
        yield found
        yield Bar("tracked function with the journal / empty wrapt decorator", found[TRACKED].ratio, 0.75)


def function_of_self(self: object, x: int, y: int = 2) -> int:
    return x


def _same(target: Function) -> Function:
    return target


if __name__ == "__main__":
    main(measure, __doc__, "prometheus-client", "opentelemetry-sdk", "statsd", "posthog", "segment-analytics-python")
