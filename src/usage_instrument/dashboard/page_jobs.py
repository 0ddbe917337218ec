"""Makes pages in the background, so that a visitor gets an answer within a second, however long the page takes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Hashable
from threading import BoundedSemaphore, Event, Lock, Thread

from .http import Response

SOON = 0.7
"""Seconds after which a visitor gets an intermediate page."""
KEPT = 10.0
"""Seconds that a finished page waits for the visitors who got an intermediate one."""
AT_ONCE = 8
"""Pages made at the same time. The others wait."""


class PageJobs:
    """The pages being made, each once for all visitors, in threads that no exit waits for."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, _Job] = {}
        self._turns = BoundedSemaphore(AT_ONCE)
        self._lock = Lock()

    def page(self, key: Hashable, make: Callable[[], Response]) -> Response | float:
        """The page that `make` returns; the seconds so far if it is not ready soon. `make` must not raise."""
        job = self._job((os.getpid(), key), make)  # a forked child has none of its parent's threads
        if job.is_done.wait(SOON):
            return job.response
        job.is_awaited = True
        return time.monotonic() - job.begun

    def _job(self, key: Hashable, make: Callable[[], Response]) -> _Job:
        with self._lock:
            now = time.monotonic()
            self._jobs = {known: job for known, job in self._jobs.items() if now < job.until}
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = _Job(now)
                Thread(target=self._run, args=(job, make), name="usage-instrument-page", daemon=True).start()
            return job

    def _run(self, job: _Job, make: Callable[[], Response]) -> None:
        with self._turns:
            job.response = make()
        job.until = time.monotonic() + KEPT if job.is_awaited else 0.0
        job.is_done.set()


class _Job:
    response: Response

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.until = math.inf
        self.is_done = Event()
        self.is_awaited = False
