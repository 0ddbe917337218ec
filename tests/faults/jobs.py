"""A Celery app whose tasks count, for a worker and for who sends to it: `jobs.send(…)`. All is in the directory that
they run in."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from celery import Celery
from celery.exceptions import TimeLimitExceeded

import usage_instrument as usage
from offspring import use

# Of Celery's brokers that need no server, the one of files reads messages that are not written yet.
app = Celery("jobs", broker="sqla+sqlite:///broker.db", backend="db+sqlite:///results.db")
app.conf.worker_enable_remote_control = False


@app.task  # type: ignore[untyped-decorator]
@usage.tracks("task")
def work(number: int) -> int:
    use(number)
    return os.getpid()


@app.task(time_limit=1)  # type: ignore[untyped-decorator]
@usage.tracks("task")
def hang(number: int) -> None:
    """It does not live to end."""
    use(number)
    time.sleep(3600)


def prepare() -> None:
    """Make the tables of queues and results: a worker and a sender that both find none get in each other's way."""
    with app.connection_for_write() as connection:
        app.amqp.queues[app.conf.task_default_queue].bind(connection.default_channel).declare()
    app.backend.ResultSession().close()


def send(tasks: int, *, hanging: bool = False) -> None:
    """Have tasks done, 10 uses each, and wait for it; tell by how many processes."""
    results = [work.delay(10) for _ in range(tasks)]
    if hanging:
        with contextlib.suppress(TimeLimitExceeded):
            hang.delay(10).get(timeout=60, interval=0.05)
            raise AssertionError("it was not killed")
    sys.stdout.write(str(len({result.get(timeout=60, interval=0.05) for result in results})))
