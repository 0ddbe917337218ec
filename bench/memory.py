"""What a pending key takes in memory. Run it: python bench/memory.py"""

from __future__ import annotations

import ctypes
import gc
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from rounds import Bar, Result, main

from usage_instrument.ledger import utcnow
from usage_instrument.pending import Counts

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
    before, counts = resident(), Counts()
    today, known = utcnow(), list(users(kind))
    for feature in range(FEATURES):
        counts.add(today, f"feature {feature}", ((user, 1) for user in known), STAMP, KEYS)
    del known
    if counts.keys != KEYS:
        raise RuntimeError(f"{counts.keys} keys")
    return (resident() - before) / KEYS


def measure(scale: float) -> Iterator[Result]:
    for kind, most in (("integer", 200), ("UUID", 270)):
        done = subprocess.run([sys.executable, __file__, kind], capture_output=True, text=True, check=True)
        yield Bar(f"a pending key, {kind} users, {KEYS:,} keys", float(done.stdout), most, unit="bytes")


if __name__ == "__main__":
    if sys.argv[1:2] in (["integer"], ["UUID"]):
        print(fill(sys.argv[1]))  # in a process of its own: what was freed before is not in it
    else:
        main(measure, __doc__)
