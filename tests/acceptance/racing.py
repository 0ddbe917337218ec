"""One of several writers that race for the same keys: `racing.py URL SEED FLUSHES KEYS`."""

from __future__ import annotations

import random
import sys

from usage_instrument import Settings, Tracker

if __name__ == "__main__":
    url, seed, flushes, keys = sys.argv[1], *map(int, sys.argv[2:])
    shuffled = random.Random(seed)
    tracker = Tracker(url, Settings(flush_interval=3600, user_id_type="integer"))
    numbers = list(range(keys))
    for _ in range(flushes):
        shuffled.shuffle(numbers)
        for number in numbers:  # every other key is an anonymous one
            tracker.track(f"feature_{number // 2}", user=None if number % 2 else number)
        if not tracker.flush(60):
            sys.exit(f"not flushed: {tracker.stats()}")
    if not tracker.shutdown(60):
        sys.exit(f"not shut down: {tracker.stats()}")
    stats = tracker.stats()
    if stats.written != flushes * keys or stats.dropped or stats.rejected:
        sys.exit(f"not exact: {stats}")
