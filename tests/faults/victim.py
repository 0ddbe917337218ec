"""Processes that count until they are killed. Each line on stdin starts one, and its pid is the answer: `collector` one
that writes what others hand over, if they do.

Each is forked from this one, which has imported everything, so that kills hit the first instants as well. A process
acknowledges its uses in a file of its own: by thread, after each call has returned.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

import usage_instrument as usage
from usage_instrument import Settings
from usage_instrument.events import canonical_user
from usage_instrument.pipeline import collector
from usage_instrument.pipeline.backend import Backend
from usage_instrument.typing import WriterKind

THREADS = 3
USERS = [uuid.UUID(int=number) for number in range(1, 41)]


@usage.tracks("plain")
def plain() -> None: ...


def acknowledged(folder: Path) -> int:
    """How many uses all processes have acknowledged."""
    return sum(
        int.from_bytes(data[at : at + 8], sys.byteorder) for data in _files(folder) for at in range(0, len(data), 8)
    )


def _files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.glob("*.acks")]


def _configure(url: str, journal: str, writer: WriterKind, interval: float) -> None:
    usage.configure(None if writer == "collector" else url, journal=journal, flush_interval=interval, writer=writer)


def _collect(url: str, journal: str) -> None:
    settings = Settings(journal=journal, flush_interval=0.02)
    collector.LOOK = 0.02  # so that kills hit each step
    collecting = collector.Collector(journal, Backend(url, settings, None), settings, canonical_user("uuid"))
    while not collecting.acquire():
        time.sleep(0.01)
    collecting.start()
    signal.pause()


def _live(url: str, journal: str, folder: Path, writer: WriterKind, interval: float, pause: float) -> None:
    path = folder / f"{os.getpid()}.acks"
    path.write_bytes(bytes(8 * THREADS))
    with path.open("r+b") as file:
        acks = memoryview(mmap.mmap(file.fileno(), 8 * THREADS)).cast("Q")
    _configure(url, journal, writer, interval)
    for number in range(THREADS):
        threading.Thread(target=_use, args=(number, acks, pause), daemon=True).start()
    signal.pause()


def _use(number: int, acks: memoryview, pause: float) -> None:
    dice = random.Random(os.getpid() * THREADS + number)
    uses = 0
    while True:
        user = dice.choice(USERS)
        if number == 0:
            usage.track("rich", user=user, metadata={"uses": uses}, count=2)
            uses += 2
        elif uses % 2:
            usage.variant("button", ["red", "blue"], user=user)
            uses += 1
        else:
            with usage.as_user(user):
                plain()
            uses += 1
        acks[number] = uses
        if pause:
            time.sleep(pause)


def main() -> None:
    url, journal, folder, writer, interval, pause = sys.argv[1:]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    _configure(url, journal, writer, float(interval))  # type: ignore[arg-type]  # as a master that preloads
    for line in sys.stdin:
        child = os.fork()
        if not child and line == "collector\n":
            _collect(url, journal)
        elif not child:
            _live(url, journal, Path(folder), writer, float(interval), float(pause))  # type: ignore[arg-type]
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
