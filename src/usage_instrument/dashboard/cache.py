"""What was slow to answer is not asked again at once, so that many millions of rows can be looked at freely."""

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
"""Seconds; an answer that took less is always asked for."""
PATIENCE = 30
"""For so many times as long as it took, an answer is kept: looking takes a thirtieth of the database at most."""
LONGEST = 300
"""Seconds that an answer is kept at most."""
ROOM = 256
"""How many answers are kept; the oldest go."""


@dataclass(frozen=True)
class _Kept:
    answer: Any
    as_of: dt.datetime
    until: float


class Memory:
    """The slow answers of one dashboard, for all of its visitors: they all may see the same."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._lock = Lock()

    def recall(self, key: Hashable, now: dt.datetime, ask: Callable[[], T]) -> tuple[T, dt.datetime]:
        """The answer of that name, kept or asked for now, and as of when it is."""
        begun = self._clock()
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and begun < kept.until:
            return kept.answer, kept.as_of
        answer = ask()
        ended = self._clock()
        if ended - begun >= SLOW:
            until = ended + min((ended - begun) * PATIENCE, LONGEST)
            with self._lock:
                self._kept.pop(key, None)
                self._kept[key] = _Kept(answer, now, until)
                while len(self._kept) > ROOM:
                    self._kept.popitem(last=False)
        return answer, now
