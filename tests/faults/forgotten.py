"""Processes in which users do things, one of them somebody who is forgotten meanwhile; each is forked, as in `victim`.

A line on stdin makes one, in which nobody else does anything if the line is not empty. What all users but that one have
done stands in a file of each process's own when it ends, which it does by SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import sys
import threading
import uuid
from collections import Counter
from pathlib import Path

import usage_instrument as usage

ADA = uuid.UUID("a1b2c3d4-e5f6-4a1b-8c2d-3e4f5a6b7c8d")
OTHERS = [uuid.UUID(int=number) for number in range(1, 21)]


@usage.tracks("plain")
def plain() -> None: ...


@usage.tracks("noticed", audit=True)
def noticed() -> None: ...


@usage.tracks("required", audit="required")
def required() -> None: ...


def _live(folder: Path, users: list[uuid.UUID]) -> None:
    logging.basicConfig(filename=folder / f"{os.getpid()}.log", level=logging.DEBUG)
    usage.configure()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    done: list[Counter[str]] = []
    threads = [threading.Thread(target=_use, args=(users, number, stop, done)) for number in range(2)]
    for thread in threads:
        thread.start()
    while not stop.wait(0.05):
        pass
    for thread in threads:
        thread.join()
    assert usage.shutdown(60), usage.stats()
    (folder / f"{os.getpid()}.uses").write_text(json.dumps(sum(done, Counter())))
    os._exit(0)


def _use(users: list[uuid.UUID], number: int, stop: threading.Event, done: list[Counter[str]]) -> None:
    dice = random.Random(os.getpid() * 2 + number)
    uses: Counter[str] = Counter()
    while not stop.wait(0.02):
        user = ADA if dice.random() < 0.3 else dice.choice(users)
        with usage.as_user(user):
            for _ in range(10):
                plain()
            noticed()
            if dice.random() < 0.05:
                with contextlib.suppress(usage.AuditUnavailable):
                    required()
                    uses[f"required {user}"] += 1
        usage.track("rich", user=user, metadata={"email": f"{user}@example.org"}, count=2)
        with usage.as_user(users[0], actor=user):
            usage.track("acted", audit=True)
        uses += Counter({f"plain {user}": 10, f"noticed {user}": 1, f"rich {user}": 2, f"acted {users[0]}": 1})
    done.append(Counter({key: number for key, number in uses.items() if str(ADA) not in key}))


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are nobody's concern
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _live(Path(sys.argv[1]), OTHERS if line == "\n" else [ADA])
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
