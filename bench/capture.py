"""What a tracked call costs, next to the decorators that one knows. Run it: python bench/capture.py

All in one process and in many short, interleaved rounds, so that what slows the machine slows everything alike. The
times are medians over the rounds; the ratios are medians of the rounds' own ratios to an empty `wrapt.decorator`.
Trust the ratios; the nanoseconds are this machine's, now.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import sqlalchemy
import wrapt

import usage_instrument as usage
from usage_instrument import lifecycle, schema
from usage_instrument.context import Request, holder

REFERENCE = "empty wrapt.decorator"
AIMS = {"function": 0.5, "method": 0.85, "coroutine": 0.75}
"""Tracked, user from the context, in a request: the highest ratio that we aim at."""


@wrapt.decorator
def empty(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args, **kwargs)


def closure(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def awaiting(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return call


def fork_check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The closure again, with the look that would notice a fork that runs no hook."""
    alive = lifecycle.ALIVE

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if not alive[0]:
            lifecycle.notice_fork()
        return result

    return call


def prometheus() -> dict[str, Callable[..., Any]]:
    """prometheus_client doing the same by its documented call, if it is installed."""
    try:
        import prometheus_client  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return {}
    uses = prometheus_client.Counter("uses", "Uses", ["user", "feature"])

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            uses.labels("42", "bench").inc()
            return result

        return call

    return {"closure with prometheus_client labels().inc()": counted}


def decorators() -> dict[str, Callable[..., Any]]:
    return {
        REFERENCE: empty,
        "bare": lambda function: function,
        "empty functools.wraps closure": closure,
        "the same, looking for forks": fork_check,
        "tracked": usage.tracks("bench"),
        "tracked, user=callable": usage.tracks("bench_callable", user=lambda *args: 42),
        "tracked, user_arg and metadata": usage.tracks("bench_rich", user_arg="x", metadata=["x", "y"]),
        **prometheus(),
    }


Loop = Callable[[Any, int], float]


def call_function(function: Any, calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        function(1)
    return (time.perf_counter_ns() - start) / calls


def call_method(view: Any, calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        view.method(1)
    return (time.perf_counter_ns() - start) / calls


def call_coroutine(function: Any, calls: int) -> float:
    async def run() -> float:
        start = time.perf_counter_ns()
        for _ in range(calls):
            await function(1)
        return (time.perf_counter_ns() - start) / calls

    coroutine = run()
    try:
        coroutine.send(None)  # nothing in it ever waits, so no event loop is in the way
    except StopIteration as stop:
        return float(stop.value)
    raise RuntimeError("the coroutine waited")


def targets() -> Iterator[tuple[str, Loop, dict[str, Any]]]:
    """The kinds of calls, how to time them, and each of them under each decorator."""

    def function(x: int, y: int = 2) -> int:
        return x

    def method(self: object, x: int, y: int = 2) -> int:
        return x

    async def coroutine(x: int, y: int = 2) -> int:
        return x

    found = decorators()
    of_methods = {name: wrap for name, wrap in found.items() if "prometheus" not in name}
    of_coroutines = {**of_methods, "empty functools.wraps closure": awaiting}
    del of_coroutines["the same, looking for forks"]
    yield "function", call_function, {name: wrap(function) for name, wrap in found.items()}
    classes = {name: type("View", (), {"method": wrap(method)}) for name, wrap in of_methods.items()}
    yield "method", call_method, {name: cls() for name, cls in classes.items()}
    # Counting when the await ends takes a second coroutine, which a decorator that only passes on does not pay.
    yield "coroutine", call_coroutine, {name: wrap(coroutine) for name, wrap in of_coroutines.items()}


@contextlib.contextmanager
def in_a_request() -> Iterator[None]:
    request = Request("http", "GET")
    request.identify(42)
    token = holder.set(request)
    try:
        yield
    finally:
        holder.reset(token)


PLACES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "in a request of an identified user": in_a_request,
    "under as_user": lambda: usage.as_user(42),
    "outside of any": contextlib.nullcontext,
}


def measure(rounds: int, calls: int) -> list[dict[str, Any]]:
    """One row for each kind of call, place and decorator."""
    rows = []
    for kind, loop, cases in targets():
        times: dict[tuple[str, str], list[float]] = {(place, name): [] for place in PLACES for name in cases}
        for _ in range(rounds):
            for place, enter in PLACES.items():
                with enter():
                    for name, case in cases.items():
                        times[place, name].append(loop(case, calls))
            usage.flush()  # between the rounds, so that the writing is not in them
        for place in PLACES:
            reference = times[place, REFERENCE]
            rows += [
                {
                    "kind": kind,
                    "place": place,
                    "name": name,
                    "ns": round(statistics.median(times[place, name]), 1),
                    "ratio": round(
                        statistics.median(a / b for a, b in zip(times[place, name], reference, strict=True)), 3
                    ),
                }
                for name in cases
            ]
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    for kind, aim in AIMS.items():
        for place in PLACES:
            print(f"\n{kind}, {place}")
            for row in rows:
                if (row["kind"], row["place"]) == (kind, place):
                    said = f"  (aim: {aim})" if row["name"] == "tracked" else ""
                    print(f"  {row['name']:<46} {row['ns']:8.0f} ns {row['ratio']:7.2f}{said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="interleaved rounds (default 60)")
    parser.add_argument("--calls", type=int, default=5_000, help="calls a round and case (default 5,000)")
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    options = parser.parse_args()

    versions = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "wrapt": metadata.version("wrapt"),
        "sqlalchemy": sqlalchemy.__version__,
        "usage-instrument": usage.__version__,
        "platform": platform.platform(),
    }
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{Path(directory) / 'usage.db'}"
        engine = sqlalchemy.create_engine(url)
        schema.create_all(engine, user_id_type="integer")
        engine.dispose()
        usage.configure(url, user_id_type="integer")
        rows = measure(options.rounds, options.calls)
        stats = usage.stats()
        usage.shutdown()
    if options.json:
        json.dump({"versions": versions, "captured": stats.captured, "rows": rows}, sys.stdout, indent=1)
        return
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    show(rows)
    print(f"\n{stats.captured:,} uses captured, {stats.written:,} written, {stats.dropped:,} dropped")


if __name__ == "__main__":
    main()
