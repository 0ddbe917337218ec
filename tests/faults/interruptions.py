"""Programs whose captures are interrupted by captures: `interruptions.py WAY…` runs some at once.

What was used stands on stdout at the end: `{"plain": …, "rich": …}`. The database, and the journal where there is one,
come from the environment. A thread that waits for itself shows its stacks after two minutes.
"""

from __future__ import annotations

import faulthandler
import gc
import itertools
import json
import logging
import signal
import sys
import threading
import uuid
from collections.abc import Callable

import usage_instrument as usage

USERS = [uuid.UUID(int=number) for number in range(1, 200)]
SECONDS = 120
DEPTH = 5
"""Signal handlers that interrupt each other at once: without a limit, a busy machine exceeds the recursion limit."""


@usage.tracks("plain", user_arg="user")
def plain(user: uuid.UUID) -> None: ...


class Uses:
    """Counts them, in any order of interruptions: a number that is read and written back would lose some."""

    def __init__(self) -> None:
        self._plain, self._rich, self._users = itertools.count(), itertools.count(), itertools.cycle(USERS)
        self.threads: set[int] = set()
        self.ended = False

    def make(self) -> None:
        """One of each kind, by the next user, who may be new."""
        self.threads.add(threading.get_ident())
        # Not by as_user: Python 3.11 dies of a context variable that is set while it is being set.
        plain(next(self._users))
        next(self._plain)
        usage.track("rich", user=next(self._users), metadata={"of": [len(self.threads)]})
        next(self._rich)
        usage.stats()

    def made(self) -> dict[str, int]:
        return {"plain": next(self._plain), "rich": next(self._rich)}


uses = Uses()


class Cycle:
    """Garbage that uses when it is collected, by whichever thread that happens to be."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        uses.make()


class Handler(logging.Handler):
    """Uses with every line of anybody's, in the midst of what it does."""

    def emit(self, record: logging.LogRecord) -> None:
        uses.make()


def collect() -> Callable[[], object]:
    gc.set_threshold(50, 2, 2)
    return lambda: [Cycle() for _ in range(10)]


def interrupt() -> Callable[[], object]:
    turns = itertools.count(1)
    depth = 0

    def arm() -> None:
        if not uses.ended:
            signal.setitimer(signal.ITIMER_REAL, 0.002)

    def handle(number: int, frame: object) -> None:
        nonlocal depth
        depth += 1
        try:
            if depth < DEPTH:
                arm()
            uses.make()
            if not next(turns) % 100:
                usage.flush(0)
        finally:
            depth -= 1
            arm()

    signal.signal(signal.SIGALRM, handle)
    arm()
    return lambda: None


def log() -> Callable[[], object]:
    logging.getLogger().addHandler(Handler())
    for name in ("sqlalchemy.engine", "sqlalchemy.pool", "usage_instrument"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    return lambda: None


WAYS = {"gc": collect, "signal": interrupt, "log": log}


def main() -> None:
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    usage.configure(flush_interval=0.01)
    steps = [WAYS[way]() for way in sys.argv[1:]]
    for turn in range(1, 5):
        for _ in range(5):
            for _ in range(30):
                uses.make()
            for step in steps:
                step()
        usage.flush(SECONDS)
        if turn % 2 == 0:
            usage.shutdown(SECONDS)  # the next use, on any thread, starts threads and journal anew
    uses.ended = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.set_threshold(0)
    gc.collect()
    logging.getLogger().handlers.clear()
    assert usage.flush(SECONDS), usage.stats()
    assert len(uses.threads) > (sys.argv[1:] != ["signal"]), "only the main thread was interrupted"
    sys.stdout.write(json.dumps(uses.made()))


if __name__ == "__main__":
    main()
