"""RQ: jobs that succeed become uses of the user whose request enqueued them; their processes write before they end."""

from __future__ import annotations

from typing import Any, ClassVar

from rq import Queue as _Queue
from rq import Worker as _Worker
from rq.job import Job, JobStatus
from rq.worker import SpawnWorker as _SpawnWorker

from usage_instrument.runtime import processes

from .tasks import TaskCounter, TaskOptions, stamp

__all__ = ["CarriesUser", "CountsJobs", "Queue", "SpawnWorker", "Worker"]


class CarriesUser:
    """Mix it into a queue class of your own, before RQ's: `class MyQueue(CarriesUser, rq.Queue)`.

    The user of the code that enqueues a job is the user of the job, and so is who acts as them. They are in its `meta`.
    """

    def create_job(self, *args: Any, **options: Any) -> Job:
        """As rq.Queue.create_job."""
        job: Job = super().create_job(*args, **options)  # type: ignore[misc]
        stamp(job.meta)
        return job


class Queue(CarriesUser, _Queue):
    """`Queue(connection=redis).enqueue(export, 42)`, or `--queue-class usage_instrument.integrations.rq.Queue`."""


class CountsJobs:
    """Mix it into a worker class of your own, before RQ's: `class MyWorker(CountsJobs, rq.Worker)`.

    Each success of a job counts under the name of its function; retries and failures do not. RQ runs a job in a process
    that it leaves by `os._exit`, which runs no exit handler. That process writes its pending uses after the job, within
    `shutdown_timeout`, whether the job succeeded or failed. A worker that runs jobs in its own process, such as
    SimpleWorker, goes on writing in the background.
    """

    usage_options: ClassVar[TaskOptions[Job]] = {}
    """The options are those of the middlewares; callables get the job, and patterns match the name."""

    def perform_job(self, job: Job, *args: Any, **options: Any) -> bool:
        """As rq.Worker.perform_job."""
        try:
            run = TaskCounter(self.usage_options).begin(job, job.meta)
            try:
                done: bool = super().perform_job(job, *args, **options)  # type: ignore[misc]
                if job.get_status(refresh=False) == JobStatus.FINISHED:
                    run.succeed(job.func_name or "", job.func)
            finally:
                run.end()
            return done
        finally:
            if self.is_horse:  # type: ignore[attr-defined]
                processes.leave()


class Worker(CountsJobs, _Worker):
    """`rq worker --worker-class usage_instrument.integrations.rq.Worker`."""


class SpawnWorker(CountsJobs, _SpawnWorker):
    """As Worker, for RQ's SpawnWorker (RQ 3 and later)."""
