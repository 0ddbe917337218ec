"""Processes that are audited until somebody kills them: each pid is forked from this one, as in `victim`.

Each call has a token of its own, which is in its metadata. Those that did happen stand in a file, written by the call
itself; those of `noticed` that have returned as well.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

import usage_instrument as usage

USER = uuid.UUID(int=7)
_descriptor = -1


def _note(token: str) -> None:
    os.write(_descriptor, f"{token}\n".encode())


@usage.tracks("required", audit="required", metadata=["token"])
def required(token: str) -> None:
    _note(token)


@usage.tracks("awaited", audit="required", metadata=["token"])
async def awaited(token: str) -> None:
    _note(token)


@usage.tracks("noticed", audit=True, metadata=["token"])
def noticed(token: str) -> None: ...


def _live(url: str, journal: str, folder: Path) -> None:
    global _descriptor
    _descriptor = os.open(folder / f"{os.getpid()}.calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    usage.configure(url, journal=journal, flush_interval=0.02, audit_timeout=30)
    threading.Thread(target=_call, daemon=True).start()
    threading.Thread(target=lambda: asyncio.run(_await()), daemon=True).start()
    threading.Thread(target=_notice, daemon=True).start()
    signal.pause()


def _tokens(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex}"


def _call() -> None:
    with usage.as_user(USER):
        while True:
            required(_tokens("required"))


async def _await() -> None:
    with usage.as_user(USER):
        while True:
            await awaited(_tokens("awaited"))


def _notice() -> None:
    with usage.as_user(USER):
        while True:
            token = _tokens("noticed")
            noticed(token)
            _note(token)
            time.sleep(0.005)  # without it, a process leaves thousands of accesses to recover


def main() -> None:
    url, journal, folder = sys.argv[1:]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            _live(url, journal, Path(folder))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
