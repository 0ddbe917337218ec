"""Dramatiq, Huey, Taskiq, RQ and arq: what a task counts as, and whose it is. Celery has a file of its own."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

import servers
import usage_instrument as usage
from conftest import entered
from reading import all_of, counts, made
from usage_instrument.capture.context import Request, holder
from usage_instrument.capture.recording import acting_user
from usage_instrument.errors import DeclarationError
from usage_instrument.integrations.tasks import ACTOR, HEADER, TaskCounter, stamp
from usage_instrument.testing import capture_usage

ADA = uuid.UUID(int=2**64 + 7)
ACTORS: list[object] = []
"""Who acted in `export`, by each run."""


# ---- what the tasks do


def export(fails=False):
    usage.track("pdf_rendered")
    ACTORS.append(acting_user())
    if fails:
        raise ZeroDivisionError


@usage.tracks("report_sent")
def report():
    pass


TRIES: list[int] = []


def flaky():
    TRIES.append(1)
    if len(TRIES) == 1:
        raise ZeroDivisionError


# ---- the queues, in this process: each sends, then runs what was sent


class Dramatiq:
    prefix = ""

    def __init__(self, stack):
        dramatiq = pytest.importorskip("dramatiq")
        from dramatiq.brokers.stub import StubBroker

        from usage_instrument.integrations.dramatiq import UsageMiddleware

        self.broker = StubBroker()
        self.broker.add_middleware(UsageMiddleware())
        options = {"broker": self.broker, "min_backoff": 1, "max_backoff": 1}
        self.actors = {
            name: dramatiq.actor(function, max_retries=retries, **options)
            for name, function, retries in (("export", export, 0), ("report", report, 0), ("flaky", flaky, 1))
        }

    def send(self, name, **arguments):
        self.actors[name].send(**arguments)

    def run(self):
        import dramatiq

        worker = dramatiq.Worker(self.broker, worker_threads=2, worker_timeout=10)
        worker.start()
        self.broker.join("default", fail_fast=False, timeout=20_000)
        worker.join()
        worker.stop()


class Huey:
    prefix = __name__ + "."

    def __init__(self, stack):
        huey = pytest.importorskip("huey")
        from usage_instrument.integrations.huey import instrument

        self.huey = huey.MemoryHuey()
        instrument(self.huey)
        self.tasks = {
            name: self.huey.task(retries=retries)(function)
            for name, function, retries in (("export", export, 0), ("report", report, 0), ("flaky", flaky, 1))
        }

    def send(self, name, **arguments):
        self.tasks[name](**arguments)

    def run(self):
        while task := self.huey.dequeue():
            self.huey.execute(task)


class Taskiq:
    prefix = "shop:"

    def __init__(self, stack):
        taskiq = pytest.importorskip("taskiq")
        from usage_instrument.integrations.taskiq import UsageMiddleware

        self.loop = asyncio.new_event_loop()
        stack.callback(self.loop.close)
        self.broker = taskiq.InMemoryBroker().with_middlewares(UsageMiddleware(), taskiq.SimpleRetryMiddleware())
        stack.callback(lambda: self.loop.run_until_complete(self.broker.shutdown()))
        # Functions of its own, since Taskiq renames them.
        self.tasks = {
            "export": self.broker.task(task_name="shop:export")(lambda fails=False: export(fails)),
            "report": self.broker.task(task_name="shop:report")(usage.tracks("report_sent")(lambda: None)),
            "flaky": self.broker.task(task_name="shop:flaky", retry_on_error=True, max_retries=2)(lambda: flaky()),
        }

    def send(self, name, **arguments):
        self.loop.run_until_complete(self.tasks[name].kiq(**arguments))

    def run(self):
        self.loop.run_until_complete(self.broker.wait_all())


class RQ:
    prefix = __name__ + "."

    def __init__(self, stack):
        rq = pytest.importorskip("rq")
        import redis

        from usage_instrument.integrations.rq import CountsJobs, Queue

        class SimpleWorker(CountsJobs, rq.SimpleWorker):
            pass

        connection = stack.enter_context(redis.Redis(port=entered(servers.redis, stack)))
        self.queue = Queue(connection=connection)
        self.worker = SimpleWorker([self.queue], connection=connection)
        self.functions = {"export": (export, None), "report": (report, None), "flaky": (flaky, rq.Retry(max=1))}

    def send(self, name, **arguments):
        function, retry = self.functions[name]
        self.queue.enqueue(function, kwargs=arguments, retry=retry)

    def run(self):
        self.worker.work(burst=True)


of_arq = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")
"""What arq's own worker does with Redis."""


class Arq:
    """It fits beside no RQ and no Taskiq, since it needs a Redis client before 6: scripts/matrix installs it."""

    prefix = ""

    def __init__(self, stack):
        pytest.importorskip("arq")
        from arq import Retry, create_pool
        from arq.connections import RedisSettings
        from arq.worker import func

        from usage_instrument.integrations.arq import carry_user, instrument

        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        stack.callback(asyncio.set_event_loop, None)
        stack.callback(self.loop.close)

        async def exports(ctx, fails=False):
            export(fails)

        @usage.tracks("report_sent")
        async def reports(ctx):
            pass

        async def fails_once(ctx):
            try:
                flaky()
            except ZeroDivisionError:
                raise Retry from None

        async def follows(ctx):
            await ctx["redis"].enqueue_job("export")

        class WorkerSettings:
            functions = [
                func(coroutine, name=name)
                for name, coroutine in (("export", exports), ("report", reports), ("flaky", fails_once))
            ] + [func(follows, name="follow")]
            redis_settings = RedisSettings(port=entered(servers.redis, stack))
            burst = True
            handle_signals = False
            poll_delay = 0.01

        self.settings = instrument(WorkerSettings)
        self.pool = carry_user(self.loop.run_until_complete(create_pool(WorkerSettings.redis_settings)))
        stack.callback(lambda: self.loop.run_until_complete(self.pool.connection_pool.disconnect()))

    def send(self, name, **arguments):
        return self.loop.run_until_complete(self.pool.enqueue_job(name, **arguments))

    def run(self):
        from arq.worker import create_worker

        worker = create_worker(self.settings)
        self.loop.run_until_complete(worker.main())
        self.loop.run_until_complete(worker.close())


@pytest.fixture
def arq():
    ACTORS.clear()
    TRIES.clear()
    with contextlib.ExitStack() as stack:
        yield Arq(stack)


@pytest.fixture(params=[Dramatiq, Huey, Taskiq, RQ, pytest.param(Arq, marks=of_arq)])
def queue(request):
    ACTORS.clear()
    TRIES.clear()
    with contextlib.ExitStack() as stack:
        yield request.param(stack)


def test_a_success_is_a_use_of_the_user_who_sent_the_task(queue):
    name = queue.prefix
    request = Request("http", "POST")
    request.identify(7, actor=1)
    with capture_usage() as captured:
        for user in (ADA, 42, "ada:lovelace"):
            with usage.as_user(user):
                queue.send("export")
        token = holder.set(request)
        queue.send("export")
        queue.send("flaky")
        queue.send("report")
        holder.reset(token)
        queue.send("export")
        queue.send("export", fails=True)
        queue.run()
    for user in (ADA, 42, "ada:lovelace", 7):
        assert [captured.count(feature, user=user) for feature in (f"{name}export", "pdf_rendered")] == [1, 1], user
    assert [captured.count(feature, user=None) for feature in (f"{name}export", "pdf_rendered")] == [1, 2]
    assert sorted(ACTORS, key=str) == [1, None, None, None, None, None]
    assert [captured.count(feature, user=7) for feature in (f"{name}flaky", "report_sent", f"{name}report")] == [
        1,
        1,
        0,
    ]
    assert len(TRIES) == 2, "a retry counts once"
    assert (captured.rejected, captured.complaints) == ([], [])


def test_what_follows_a_task_of_huey_has_its_user():
    huey = pytest.importorskip("huey").MemoryHuey()
    from usage_instrument.integrations.huey import instrument

    instrument(huey)
    tasks = [huey.task(name=name)(function) for name, function in (("first", lambda: 3), ("then", lambda number: None))]
    with capture_usage() as captured:
        with usage.as_user(7):
            huey.enqueue(tasks[0].s().then(tasks[1]))
        while task := huey.dequeue():
            huey.execute(task)
    assert [(use.feature.rpartition(".")[2], use.user) for use in captured.uses] == [("first", 7), ("then", 7)]


@of_arq
def test_what_a_job_of_arq_enqueues_has_its_user(arq):
    with capture_usage() as captured:
        with usage.as_user(7):
            arq.send("follow")
        arq.run()
    assert sorted((use.feature, use.user) for use in captured.uses) == [
        ("export", 7),
        ("follow", 7),
        ("pdf_rendered", 7),
    ]


@of_arq
def test_a_worker_of_arq_that_is_not_instrumented_runs_such_jobs(arq):
    from arq.worker import create_worker, func

    async def plain(ctx, **arguments):
        ACTORS.append(arguments)

    class Plain:
        functions = (func(plain, name="export"),)
        redis_settings, burst, handle_signals = arq.settings.redis_settings, True, False

    with usage.as_user(7):
        job = arq.send("export", fails=False)
    worker = create_worker(Plain)
    arq.loop.run_until_complete(worker.main())
    assert arq.loop.run_until_complete(job.result(timeout=20)) is None
    arq.loop.run_until_complete(worker.close())
    assert ACTORS == [{"fails": False}]


@of_arq
def test_options_and_serialisers_of_arq(arq, caplog):
    from arq import cron
    from arq.connections import RedisSettings
    from arq.worker import create_worker, func

    from usage_instrument.errors import ConfigurationError
    from usage_instrument.integrations.arq import carry_user, instrument

    jobs = []

    async def mail(ctx, address):
        return address

    async def nightly(ctx):
        pass

    class WorkerSettings:
        functions = (func(mail, name="mail"),)
        cron_jobs = (cron(nightly, name="nightly", run_at_startup=True, unique=False),)
        redis_settings: RedisSettings = arq.settings.redis_settings
        burst, handle_signals, queue_name = True, False, "json"
        job_serializer = staticmethod(lambda data: json.dumps(data).encode())
        job_deserializer = staticmethod(json.loads)

    def metadata(job):
        jobs.append(job)
        return {"to": job.args[0] if job.args else None, "try": job.context["job_try"]}

    instrument(WorkerSettings, features={"mail": "never"})
    instrument(WorkerSettings, features={"mail": "mail_sent"}, metadata=metadata)
    assert "the new options hold" in caplog.text
    arq.pool.job_serializer = WorkerSettings.job_serializer
    arq.pool.job_deserializer = WorkerSettings.job_deserializer
    assert carry_user(carry_user(arq.pool)) is arq.pool
    with capture_usage() as captured:
        with usage.as_user("ada", actor=9):
            job = arq.loop.run_until_complete(arq.pool.enqueue_job("mail", "bob", _queue_name="json"))
        worker = create_worker(WorkerSettings)
        arq.loop.run_until_complete(worker.main())
        assert arq.loop.run_until_complete(job.result(timeout=20)) == "bob"
        arq.loop.run_until_complete(worker.close())
    assert captured.count("mail_sent", user="ada") == 1
    assert captured.count("nightly", user=None) == 1
    assert [use.metadata for use in captured.uses if use.feature == "mail_sent"] == [{"to": "bob", "try": 1}]
    assert {job.name for job in jobs} == {"mail", "nightly"}
    for wrong in (type("NoFunctions", (), {}), {"functions": [mail]}):
        with pytest.raises(ConfigurationError, match="with functions or cron_jobs"):
            instrument(wrong)
    with pytest.raises(TypeError, match="did you mean 'features'"):
        instrument(WorkerSettings, feature={})


def test_headers_that_hold_no_user_reject_instead_of_counting_for_nobody():
    counter = TaskCounter({})
    refused = Request("http", "POST")
    with pytest.raises(TypeError):
        refused.identify(3.5)
    stamped: dict[str, object] = {}
    token = holder.set(refused)
    stamp(stamped)
    holder.reset(token)
    with capture_usage() as captured:
        for headers in ({HEADER: "int:seven"}, {HEADER: 7}, {HEADER: "int:7", ACTOR: "nobody"}, stamped):
            run = counter.begin(None, headers)
            run.succeed("export", None)
            run.end()
            run.end()
    assert captured.uses == []
    assert len(captured.rejected) == 4


def test_a_message_that_is_sent_again_keeps_its_user():
    headers = {HEADER: "int:7"}
    with usage.as_user(8, actor=9):
        stamp(headers)
    assert headers == {HEADER: "int:7"}


@pytest.mark.parametrize("name", ["dramatiq", "taskiq"])
def test_options_that_cannot_work_raise_at_once(name):
    pytest.importorskip(name)
    middleware = importlib.import_module(f"usage_instrument.integrations.{name}").UsageMiddleware
    with pytest.raises(TypeError, match="did you mean 'features'"):
        middleware(feature={})
    with pytest.raises(DeclarationError):
        middleware(exclude="tmp.*")


# ---- real workers, in processes of their own

COMMANDS = {
    "arq": ["arq", "task_queues.WorkerSettings"],
    "dramatiq": ["dramatiq", "task_queues", "--processes", "1", "--threads", "1"],
    "huey": ["huey_consumer", "task_queues.queue", "-k", "process", "-w", "1"],
    "taskiq": ["taskiq", "worker", "task_queues:list_broker", "--workers", "1", "--max-async-tasks", "1"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_worker_writes_what_is_pending_when_it_is_terminated(name, sqlite, tmp_path):
    pytest.importorskip(name)
    engine = sqlite.engine()
    tables = made(engine, user_id_type="integer")
    program, *arguments = COMMANDS[name]
    with contextlib.ExitStack() as stack:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            "QUEUE": name,
            "REDIS_PORT": str(entered(servers.redis, stack)),
            "DONE": str(tmp_path / "done"),
            "USAGE_INSTRUMENT_DATABASE_URL": sqlite.url,
            "USAGE_INSTRUMENT_USER_ID_TYPE": "integer",
            "USAGE_INSTRUMENT_ENABLED": "true",
        }
        os.mkfifo(environment["DONE"])
        worker = subprocess.Popen(
            [str(Path(sys.executable).with_name(program)), *arguments],
            env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        stack.callback(worker.kill)
        subprocess.run(
            [sys.executable, "-c", "import task_queues; task_queues.send_for_user()"],
            env=environment, cwd=tmp_path, check=True, timeout=60,
        )  # fmt: skip
        assert Path(environment["DONE"]).read_text() == "done"
        worker.send_signal(signal.SIGTERM)
        log, _ = worker.communicate(timeout=60)  # until its children have ended as well
    found = counts(engine, tables)
    assert {user for _, user in found} == {7}, log
    assert {feature.rpartition(":")[2].rpartition(".")[2] for feature, _ in found} == {"export", "pdf_rendered"}
    assert all_of(engine, tables.writers) == []
