"""Two tasks on the queue that QUEUE names, for real workers on a real Redis: worker and sender import this module."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import usage_instrument as usage

PORT = int(os.environ["REDIS_PORT"])
URL = f"redis://127.0.0.1:{PORT}"

usage.configure(flush_interval=3600)


def export() -> None:
    """A use, and the task's own, which is counted when it returns."""
    usage.track("pdf_rendered")


def finish() -> None:
    """Tell the test that the first task has been counted: the workers run one task after the other."""
    with usage.paused():
        Path(os.environ["DONE"]).write_text("done")


if os.environ["QUEUE"] == "dramatiq":
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    from usage_instrument.integrations.dramatiq import UsageMiddleware

    broker = RedisBroker(url=URL)
    broker.add_middleware(UsageMiddleware(exclude=["finish"]))
    dramatiq.set_broker(broker)
    tasks = [dramatiq.actor(export), dramatiq.actor(finish)]

    def send() -> None:
        for task in tasks:
            task.send()

elif os.environ["QUEUE"] == "huey":
    from huey import RedisHuey

    from usage_instrument.integrations.huey import instrument

    queue = RedisHuey(url=URL)
    instrument(queue, exclude=["*.finish"])
    jobs = [queue.task()(export), queue.task()(finish)]

    def send() -> None:
        for job in jobs:
            job()

elif os.environ["QUEUE"] == "arq":
    from arq import create_pool
    from arq.connections import RedisSettings
    from arq.worker import func

    from usage_instrument.integrations.arq import carry_user
    from usage_instrument.integrations.arq import instrument as instrument_arq

    async def exports(ctx: object) -> None:
        export()

    async def finishes(ctx: object) -> None:
        finish()

    class WorkerSettings:
        functions = (func(exports, name="export"), func(finishes, name="finish"))
        redis_settings = RedisSettings(port=PORT)
        max_jobs = 1

    instrument_arq(WorkerSettings, exclude=["finish"])

    async def _enqueue() -> None:
        pool = carry_user(await create_pool(WorkerSettings.redis_settings))
        await pool.enqueue_job("export")
        await pool.enqueue_job("finish", _defer_by=0.1)  # arq runs the jobs of one millisecond in any order
        await pool.connection_pool.disconnect()

    def send() -> None:
        asyncio.run(_enqueue())

else:
    from taskiq_redis import ListQueueBroker

    from usage_instrument.integrations.taskiq import UsageMiddleware as TaskiqUsage

    list_broker = ListQueueBroker(URL).with_middlewares(TaskiqUsage(exclude=["*finish"]))
    kicked = [list_broker.task(task_name=f"shop:{function.__name__}")(function) for function in (export, finish)]

    async def _kick() -> None:
        await list_broker.startup()
        for one in kicked:
            await one.kiq()
        await list_broker.shutdown()

    def send() -> None:
        asyncio.run(_kick())


def send_for_user() -> None:
    """Send both tasks for user 7."""
    with usage.as_user(7):
        send()
