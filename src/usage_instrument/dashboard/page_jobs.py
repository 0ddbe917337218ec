"""Makes pages in the background, so that a visitor gets an answer within a second, however long the page takes."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Hashable
from threading import Event, Lock, Thread

from .errors import PageError
from .http import Response

SOON = 0.7
"""Seconds after which a visitor gets an intermediate page, which asks again every second."""
KEPT = 10.0
"""Seconds that a finished page waits for the visitors who got an intermediate one."""
ABANDONED = 10.0
"""Seconds after the last request for a page until its queries are cancelled: its visitors have left."""
MAX_JOBS = 16
"""Pages made at the same time, each in a thread and on a connection."""


class TooManyJobsError(Exception):
    """All jobs are taken by other pages."""


class Job:
    """A page in the making."""

    response: Response

    def __init__(self) -> None:
        self.begun = self.asked = time.monotonic()
        self.until = math.inf
        self.is_done = Event()
        self.is_awaited = False
        self.is_cancelled = False
        self._cancel: Callable[[], object] = lambda: None

    def cancel_by(self, cancel: Callable[[], object]) -> None:
        """Set the function that ends the running query from another thread."""
        self._cancel = cancel

    def cancel(self) -> None:
        """End the running query, and refuse the next one."""
        self.is_cancelled = True
        with contextlib.suppress(Exception):  # of a driver: the query ends by its timeout
            self._cancel()

    def check(self) -> None:
        """Raises PageError if the visitors have left."""
        if self.is_cancelled:
            raise PageError(503, "This page was cancelled", "Nobody waited for it. Load it again.")


class PageJobs:
    """The pages being made, each once for all visitors, in threads that no exit waits for."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[int, Hashable], Job] = {}
        self._lock = Lock()

    def page(self, key: Hashable, make: Callable[[Job], Response]) -> Response | float:
        """The page that `make` returns; the seconds so far if it is not ready soon. `make` must not raise.

        Raises TooManyJobsError.
        """
        job = self._job((os.getpid(), key), make)  # a forked child has none of its parent's threads
        is_done = job.is_done.wait(SOON)
        job.asked = time.monotonic()
        if is_done:
            return job.response
        if not job.is_awaited:
            job.is_awaited = True
            _watch(job)
        return job.asked - job.begun

    def _job(self, key: tuple[int, Hashable], make: Callable[[Job], Response]) -> Job:
        with self._lock:
            now, pid = time.monotonic(), os.getpid()
            self._jobs = {known: job for known, job in self._jobs.items() if now < job.until and known[0] == pid}
            job = self._jobs.get(key)
            if job is None:
                if sum(not other.is_done.is_set() for other in self._jobs.values()) >= MAX_JOBS:
                    raise TooManyJobsError
                job = self._jobs[key] = Job()
                Thread(target=self._run, args=(job, make), name="usage-instrument-page", daemon=True).start()
            job.asked = now
            return job

    def _run(self, job: Job, make: Callable[[Job], Response]) -> None:
        job.response = make(job)
        job.until = time.monotonic() + KEPT if job.is_awaited and not job.is_cancelled else 0.0
        job.is_done.set()


def _watch(job: Job) -> None:
    """Cancel the job once nobody has asked for it for a while."""

    def run() -> None:
        while not job.is_done.wait(max(job.asked + ABANDONED - time.monotonic(), 0)):
            if time.monotonic() >= job.asked + ABANDONED:
                job.cancel()
                return

    Thread(target=run, name="usage-instrument-page-watch", daemon=True).start()
