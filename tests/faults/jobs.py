"""A Celery app whose tasks count, for a worker and for who sends to it: `jobs.send(…)`. All is in the directory that
they run in."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from celery import Celery
from celery.exceptions import TimeLimitExceeded

import usage_instrument as usage
from offspring import use

_BOX = Path.cwd() / "box"
_BOX.mkdir(exist_ok=True)
app = Celery("jobs", broker="filesystem://", backend=_BOX.as_uri())
app.conf.update(
    broker_transport_options={
        **dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), str(_BOX)),
        "polling_interval": 0.05,
    },
    worker_enable_remote_control=False,
)


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


def send(tasks: int, *, hanging: bool = False) -> None:
    """Have tasks done, 10 uses each, and wait for it; tell by how many processes."""
    results = [work.delay(10) for _ in range(tasks)]
    if hanging:
        with contextlib.suppress(TimeLimitExceeded):
            hang.delay(10).get(timeout=60, interval=0.05)
            raise AssertionError("it was not killed")
    sys.stdout.write(str(len({result.get(timeout=60, interval=0.05) for result in results})))
