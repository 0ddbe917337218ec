"""RQ: a job's process writes what the job has used before it ends."""

from __future__ import annotations

from typing import Any

from rq import Worker as _Worker
from rq.worker import SpawnWorker as _SpawnWorker

from usage_instrument.runtime import processes

__all__ = ["SpawnWorker", "Worker", "WritesAtJobEnd"]


class WritesAtJobEnd:
    """Mix it into a worker class of your own, before RQ's: `class MyWorker(WritesAtJobEnd, rq.Worker)`.

    RQ runs each job in a process that it leaves by `os._exit`, which runs no exit handler. That process writes its
    pending uses after the job, within `shutdown_timeout`, whether the job succeeded or failed. A worker that runs jobs
    in its own process, such as SimpleWorker, goes on writing in the background.
    """

    def perform_job(self, *args: Any, **options: Any) -> bool:
        """As rq.Worker.perform_job."""
        try:
            done: bool = super().perform_job(*args, **options)  # type: ignore[misc]
            return done
        finally:
            if self.is_horse:  # type: ignore[attr-defined]
                processes.leave()


class Worker(WritesAtJobEnd, _Worker):
    """`rq worker --worker-class usage_instrument.integrations.rq.Worker`."""


class SpawnWorker(WritesAtJobEnd, _SpawnWorker):
    """As Worker, for RQ's SpawnWorker (RQ 3 and later)."""
