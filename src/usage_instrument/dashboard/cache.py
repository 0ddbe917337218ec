"""Caches slow answers, so that a page over many millions of rows does not load the database again and again."""

from __future__ import annotations

import datetime as dt
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")

SLOW = 0.5
"""Seconds. A faster answer is never cached."""
FACTOR = 30
"""An answer is kept for this many times as long as it took: pages use a thirtieth of the database at most."""
LONGEST = 300
"""Seconds that an answer is kept at most."""
SIZE = 256
"""Answers that are kept. The oldest goes first."""


@dataclass(frozen=True)
class _Entry:
    answer: Any
    as_of: dt.datetime
    until: float


class Cache:
    """The slow answers of one dashboard, for all visitors: they all may see the same."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, now: dt.datetime, ask: Callable[[], T]) -> tuple[T, dt.datetime]:
        """The answer for a key, cached or asked for now, and its time."""
        begun = self._clock()
        with self._lock:
            entry = self._entries.get(key)
        if entry is not None and begun < entry.until:
            return entry.answer, entry.as_of
        answer = ask()
        ended = self._clock()
        if ended - begun >= SLOW:
            until = ended + min((ended - begun) * FACTOR, LONGEST)
            with self._lock:
                self._entries.pop(key, None)
                self._entries[key] = _Entry(answer, now, until)
                while len(self._entries) > SIZE:
                    self._entries.popitem(last=False)
        return answer, now
