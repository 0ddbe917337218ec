"""What a pending key takes in memory, and an outage of an hour. Run it: python bench/memory.py"""

from __future__ import annotations

import ctypes
import gc
import logging
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from rounds import Bar, Result, main

import usage_instrument as usage
from usage_instrument.database.ledger import utcnow
from usage_instrument.events import Use, canonical_user
from usage_instrument.pipeline.aggregator import Aggregator
from usage_instrument.pipeline.buffer import Buffer
from usage_instrument.pipeline.pending_counts import Aggregates, PendingCounts
from usage_instrument.settings import Settings

KEYS, FEATURES = 1_000_000, 10
STAMP = 1_767_225_600_000_000
"""Microseconds since 1970."""


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def users(kind: str) -> Iterator[Any]:
    dice = random.Random(7)
    for number in range(KEYS // FEATURES):
        yield number if kind == "integer" else UUID(int=dice.getrandbits(128), version=4)


def fill(kind: str) -> float:
    """Bytes a key, with what the keys themselves take."""
    ctypes.CDLL(None).malloc_trim(0)
    gc.collect()
    before, counts = resident(), Aggregates()
    today, known = utcnow(), list(users(kind))
    for feature in range(FEATURES):
        counts.add(today, f"feature {feature}", ((user, 1) for user in known), STAMP, KEYS)
    del known
    if counts.keys != KEYS:
        raise RuntimeError(f"{counts.keys} keys")
    return (resident() - before) / KEYS


def metadata() -> float:
    """MiB that as many keys as may wait take, each with 4 KiB of metadata, by the default settings."""
    settings = Settings(user_id_type="integer")
    buffer, pending = Buffer(), PendingCounts(settings.max_pending, settings.max_pending_bytes)
    aggregator = Aggregator(buffer, pending, settings, canonical_user("integer"))
    logging.disable()
    ctypes.CDLL(None).malloc_trim(0)
    gc.collect()
    before = resident()
    for user in range(settings.max_pending):
        buffer.rich.append(Use("export", user, {"note": f"{user:04000}"}))
        if user % 1_000 == 999:
            aggregator.aggregate()
    if pending.counts.keys != settings.max_pending:
        raise RuntimeError(f"{pending.counts.keys} keys")
    return (resident() - before) / 2**20


def outage() -> float:
    """The memory of a process at the end of an outage, to that of its first minute.

    An hour of flushes every 5 seconds without the seconds between: each is refused by a port that nobody listens on.
    Meanwhile 1,000 users use 20 features, 5,000 times between two flushes.
    """
    logging.disable()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg://127.0.0.1:{nobody.getsockname()[1]}/usage"
        tracker = usage.configure(url, flush_interval=60, shutdown_timeout=0)
        dice, first, known = random.Random(7), 0, list(users("UUID"))[:1_000]
        for number in range(720):
            for _ in range(5_000):
                usage.track(f"feature {dice.randrange(20)}", user=dice.choice(known))
            if tracker.flush(0.05):
                raise RuntimeError("somebody listened")
            if number == 11:
                first = resident()
        grown = resident() / first
        if tracker.stats().pending != 720 * 5_000:
            raise RuntimeError(tracker.stats())
    return grown


def measure(scale: float) -> Iterator[Result]:
    for kind, most in (("integer", 200), ("UUID", 270)):
        yield Bar(f"a pending key, {kind} users, {KEYS:,} keys", alone(kind), most, unit="bytes")
    yield Bar("100,000 pending keys with 4 KiB of metadata each", alone("metadata"), 110, unit="MiB")
    yield Bar("a process through an hour's outage, memory at its end / after a minute", alone("outage"), 1.1)


def alone(what: str) -> float:
    """Measured in a process of its own: what was freed before is not in it."""
    done = subprocess.run([sys.executable, __file__, what], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    if sys.argv[1:2] in (["integer"], ["UUID"]):
        print(fill(sys.argv[1]))
    elif sys.argv[1:2] == ["metadata"]:
        print(metadata())
    elif sys.argv[1:2] == ["outage"]:
        print(outage())
    else:
        main(measure, __doc__)
