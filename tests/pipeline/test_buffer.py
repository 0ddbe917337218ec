"""The buffer: what many threads append while another drains comes out once each."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

from usage_instrument.events import Use
from usage_instrument.pipeline.buffer import Buffer, CaptureFailure, Drained

THREADS, EACH = 4, 20_000


def test_an_empty_buffer() -> None:
    buffer = Buffer()
    buffer.plain("never used")
    assert buffer.drain() == Drained([], [], [])
    assert buffer.uses == 0


def test_what_goes_in_comes_out_once() -> None:
    buffer = Buffer()
    buffer.plain("a").append(1)
    buffer.plain("a").append(None)
    buffer.plain("b").append("x")
    buffer.rich.append(Use("a", 1, {"k": 1}, 5))
    buffer.failures.append(CaptureFailure("a", "why", 2, "detail"))
    assert buffer.uses == 3 + 5 + 2
    assert buffer.drain() == Drained(
        [("a", [1, None]), ("b", ["x"])], [Use("a", 1, {"k": 1}, 5)], [CaptureFailure("a", "why", 2, "detail")]
    )
    assert buffer.drain() == Drained([], [], [])
    assert buffer.uses == 0


def test_a_deque_stays_the_same_over_drains() -> None:
    buffer = Buffer()
    waiting = buffer.plain("a")
    waiting.append(1)
    buffer.drain()
    assert buffer.plain("a") is waiting
    waiting.append(2)
    assert buffer.drain().plain == [("a", [2])]


def test_nothing_is_lost_or_doubled_between_threads() -> None:
    buffer = Buffer()
    found: Counter[Any] = Counter()
    start = threading.Barrier(THREADS + 1)

    def capture(user: int) -> None:
        # Each thread looks its deque up anew, also for features that the drain has not met.
        start.wait()
        for number in range(EACH):
            buffer.plain(f"feature {number % 50}").append(user)
            if not number % 100:
                buffer.rich.append(Use("rich", user, None, 3))
                buffer.failures.append(CaptureFailure("bad", "why", 1, ""))

    def count(drained: Drained) -> None:
        for feature, users in drained.plain:
            found.update((feature, user) for user in users)
        for use in drained.rich:
            found[use.feature, use.user] += use.uses
        for failure in drained.failures:
            found[failure.feature] += failure.uses

    threads = [threading.Thread(target=capture, args=(user,)) for user in range(THREADS)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        start.wait()
        while any(thread.is_alive() for thread in threads):
            count(buffer.drain())
            assert buffer.uses >= 0
        for thread in threads:
            thread.join()
        count(buffer.drain())
    finally:
        sys.setswitchinterval(interval)
    expected: dict[Any, int] = {
        (f"feature {n}", user): EACH // 50 for n in range(50) for user in range(THREADS)
    }  # fmt: skip
    expected |= {("rich", user): 3 * EACH // 100 for user in range(THREADS)}
    expected["bad"] = THREADS * EACH // 100
    assert found == expected
