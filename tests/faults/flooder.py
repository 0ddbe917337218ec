"""A process that counts as fast as it can while its database is away: `flooder.py URL JOURNAL SECONDS`, no journal: ''.

It says a line when it is ready, one with what it has used of memory after the flood, and one with its figures at the
end; in between it waits for a line.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import mmap
import sys
import threading
import time
from pathlib import Path

from usage_instrument import Settings, Tracker

USERS = 20_000
MAX_PENDING = 2_000
MOST = 200_000_000
"""Uses, so many as the journal can hold; a long flood is a slower one."""
_HOT = range(USERS, USERS + 980)
_RARE = 20
"""Of a thousand uses, most are of few users, and these of one of many each."""


def _nothing() -> None: ...


class Flood:
    """Two threads that use one feature for so many seconds, and the memory that the process takes meanwhile."""

    def __init__(self, tracker: Tracker, seconds: float) -> None:
        self._tracker = tracker
        self._feature = tracker.tracks("flooded")(_nothing)
        self._end = time.monotonic() + seconds
        self._pause = 2 * seconds * (len(_HOT) + _RARE) / MOST
        self.memory: list[int] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self._use, args=(first,)) for first in (0, USERS // 2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            self.memory.append(_private_memory())
        for thread in threads:
            thread.join()

    def _use(self, first: int) -> None:
        rare = itertools.cycle([*range(first, USERS), *range(first)])
        for turn in itertools.count():
            if time.monotonic() >= self._end and turn * _RARE >= MAX_PENDING:  # on a busy machine, the keys take longer
                break
            for user in itertools.chain(_HOT, itertools.islice(rare, _RARE)):
                with self._tracker.as_user(user):
                    self._feature()
            time.sleep(self._pause)


def _private_memory() -> int:
    """Bytes that are this process's own: what a journal maps belongs to the kernel's cache."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * mmap.PAGESIZE


def _say(said: object) -> None:
    print(json.dumps(said), flush=True)


def main() -> None:
    url, journal, seconds = sys.argv[1:]
    tracker = Tracker(
        url,
        Settings(
            journal=journal or None,
            journal_max_bytes=2**32,  # a segment is left early here, for it has met as many users as it may remember
            max_pending=MAX_PENDING,
            user_id_type="integer",
            flush_interval=0.1,
        ),
    )
    tracker.track("ready")
    _say(tracker.flush(60))
    sys.stdin.readline()
    flood = Flood(tracker, float(seconds))
    flood.run()
    _say(flood.memory)
    sys.stdin.readline()
    flushed = tracker.flush(300 + float(seconds))
    stats = tracker.stats()
    _say({**dataclasses.asdict(stats), "flushed": flushed, "shut_down": tracker.shutdown(60)})


if __name__ == "__main__":
    main()
