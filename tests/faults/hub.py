"""A gevent program that measures how often a greenlet gets its turn while another waits for a flush.

It says `{"ticks": …, "pending": …}`, ticks a second, then waits for a line, and does it all again, which is when its
database may stall. Another line, and it writes what is left.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json
import sys
import time

import gevent

import usage_instrument as usage

STALL = 1.5


def tell(**said: object) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


class Ticker:
    """A greenlet that wants a turn a hundred times a second."""

    def __init__(self) -> None:
        self._ticks = 0
        gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            gevent.sleep(0.01)
            self._ticks += 1

    def during(self, seconds: float, timeout: float) -> float:
        """Ticks a second, while a flush waits for as long as it may, and for so many seconds at least."""
        before, start = self._ticks, time.monotonic()
        usage.track("during")
        usage.flush(timeout)
        gevent.sleep(max(start + seconds - time.monotonic(), 0.0))
        return (self._ticks - before) / (time.monotonic() - start)


def main() -> None:
    usage.configure(flush_interval=0.05, shutdown_timeout=30)
    ticker = Ticker()
    for timeout in (30, STALL):
        tell(ticks=ticker.during(STALL, timeout), pending=usage.stats().pending)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
