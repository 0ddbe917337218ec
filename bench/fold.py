"""What aggregating uses into counts costs, and whether a capture costs more with many features or users.

Run it: python bench/fold.py
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from rounds import Bar, Case, Result, compare, main, now, times

import usage_instrument as usage
from capture import call, configured, function
from usage_instrument.capture.context import Request, holder
from usage_instrument.events import canonical_user
from usage_instrument.pipeline.aggregator import Aggregator
from usage_instrument.pipeline.buffer import Buffer
from usage_instrument.pipeline.pending_counts import PendingCounts
from usage_instrument.settings import Settings

USES = 200_000
"""A fold."""


def folding(users: int, features: int, *, uuids: bool) -> Case:
    """Seconds a use: of all features in turn, by as many users, each in the same number."""
    dice = random.Random(7)
    known: list[Any] = [UUID(int=dice.getrandbits(128), version=4) if uuids else number for number in range(users)]
    settings = Settings(user_id_type="uuid" if uuids else "integer", max_pending=10_000_000)

    def work() -> float:
        buffer, pending = Buffer(), PendingCounts(settings.max_pending)
        aggregator = Aggregator(buffer, pending, settings, canonical_user(settings.user_id_type))
        each = USES // features
        for number in range(features):
            buffer.plain(f"feature {number}").extend(dice.choices(known, k=each))
        start = now()
        aggregator.aggregate()
        return (now() - start) / USES

    return work


def capturing(features: int, users: int) -> Case:
    """Seconds a call, each of the features in turn, each by another user."""
    tracked = [usage.tracks(f"scale {number}")(function) for number in range(features)]
    number = 0

    def one(x: int) -> None:
        nonlocal number
        number += 1
        request.user = number % users
        tracked[number % features](x)

    request = Request("http", "GET")
    request.identify(1)

    def work() -> float:
        token = holder.set(request)
        try:
            return call(one)
        finally:
            holder.reset(token)

    return work


def measure(scale: float) -> Iterator[Result]:
    rounds = times(20, scale)
    thousand = "1,000 uses a key"
    for kind in ("integer", "UUID"):
        uuids = kind == "UUID"
        cases = {
            thousand: folding(20, 10, uuids=uuids),
            "20 uses a key": folding(1_000, 10, uuids=uuids),
            "one use a key, all new": folding(1_000_000, 1, uuids=uuids),
        }
        found = compare(f"Aggregating, {kind} users, seconds a use", cases, thousand, rounds=rounds)
        yield found
        yield Bar(f"aggregating a use, 1,000 uses a key, {kind} users, nanoseconds", found[thousand].seconds * 1e9, 200)
    with configured():
        few = "1 feature, 100 users"
        cases = {
            few: capturing(1, 100),
            "1,000 features, 100 users": capturing(1_000, 100),
            "1 feature, 1,000,000 users": capturing(1, 1_000_000),
            "1,000 features, 1,000,000 users": capturing(1_000, 1_000_000),
        }
        yield compare(
            "A capture, and choosing whose and which", cases, few, rounds=times(60, scale), between=usage.flush
        )


if __name__ == "__main__":
    main(measure, __doc__)
