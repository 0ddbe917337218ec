"""Children of every kind and ends of every kind: each process writes its own uses, once, and the total is exact."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import forked
from conftest import Database
from reading import all_of, counts, made, total
from traffic import PORT, python_module, serving
from usage_instrument import Settings, Tracker
from usage_instrument.schema import Tables

FAULTS = Path(__file__).parent
ENDS = ("unhandled", "in words", "interrupted")
HARD_ENDS = ("os._exit", "abort", "sigterm", "segfault", "exec")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="raw forks are supported on Linux")


class World:
    """A database, a place for journals, and the processes that count there."""

    def __init__(self, database: Database, place: Path) -> None:
        self.url = database.url
        self.engine = database.engine()
        self.tables: Tables = made(self.engine)
        self.place = place
        self.journal = place / "journal"

    def environ(self, *, journal: bool) -> dict[str, str]:
        kept = {"USAGE_INSTRUMENT_JOURNAL": str(self.journal)} if journal else {}
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONWARNINGS": "ignore::DeprecationWarning",  # of a fork beside threads
            "USAGE_INSTRUMENT_DATABASE_URL": self.url,
            **kept,
        }

    def run(self, way: str, *, journal: bool = False) -> tuple[int, str]:
        """Run one of `offspring.WAYS` until it and all that it started have ended; its return code, and what it said
        on stderr."""
        process = subprocess.Popen(
            [sys.executable, "-c", f"import offspring; offspring.WAYS[{way!r}]()"],
            cwd=self.place,
            env=self.environ(journal=journal),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            errors = process.communicate(timeout=120)[1]  # a server of forks holds stderr until it has ended too
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode, errors

    def recover(self) -> None:
        """What any process does that counts in the same place."""
        tracker = Tracker(self.url, Settings(journal=str(self.journal), flush_interval=60))
        tracker.track("recovering")
        assert tracker.flush(60), tracker.stats()
        assert tracker.shutdown(60)
        assert list(self.journal.iterdir()) == []

    @property
    def counted(self) -> Counter[str]:
        """The uses in the table by feature."""
        found: Counter[str] = Counter()
        for (feature, _), uses in counts(self.engine, self.tables).items():
            found[feature] += uses
        with self.engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.sum(self.tables.history.c.usage_count))) == found.total()
        assert all_of(self.engine, self.tables.losses) == []
        assert all_of(self.engine, self.tables.writers) == []
        found.pop("recovering", None)
        return found


@pytest.fixture
def world(postgresql: Database, tmp_path: Path) -> World:
    return World(postgresql, tmp_path)


def uses(number: int, imports: int = 1) -> dict[str, int]:
    """What `offspring.use` makes of numbers that add up to this."""
    return {"plain": number, "rich": number // 10, "import": imports}


@pytest.mark.parametrize(("way", "imports"), [("fork", 1), ("spawn", 5), ("forkserver", 3)])
def test_processes(world: World, way: str, imports: int) -> None:
    """Who imports the module has a use to write from the start: with a server of forks that has preloaded it, that is
    the parent, the server, and the grandchild, whose own server has not."""
    assert world.run(way) == (0, "")
    assert world.counted == uses(387, imports)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_an_executors_workers(world: World, method: str) -> None:
    assert world.run(f"executor-{method}") == (0, "")
    found = world.counted
    # A worker that came too late for any work has imported the module all the same, or has not even that.
    assert found == uses(200, 1 if method == "fork" else found["import"])


def test_a_pools_workers_that_are_replaced(world: World) -> None:
    assert world.run("recycled-pool") == (0, "")
    assert world.counted == uses(200)


def test_a_pools_workers_that_are_sent_sigterm(world: World) -> None:
    """They have no handler for it, and die at once."""
    assert world.run("terminated-pool", journal=True) == (0, "")
    world.recover()
    assert world.counted == uses(200)


def test_families(world: World) -> None:
    assert world.run("families") == (0, "")
    assert world.counted == uses(2 * 10 * (1 + 2 + 4))


@LINUX
def test_children_of_raw_forks_that_are_killed(world: World) -> None:
    assert world.run("raw-forks", journal=True) == (0, "")
    world.recover()
    assert world.counted == uses(300)


def test_a_fork_before_each_program_that_is_started(world: World) -> None:
    assert world.run("preexec") == (0, "")
    assert world.counted == uses(40_000)


def test_what_is_used_between_fork_and_exec(world: World) -> None:
    """Nobody is left to write it: exec drops memory and threads, and only the files stay."""
    assert world.run("preexec-uses", journal=True) == (0, "")
    world.recover()
    assert world.counted == uses(40_000 + 10 * 10)


def test_ends_that_python_runs_write(world: World) -> None:
    code, said = world.run("ends")
    assert code == 0, said
    assert world.counted == {**dict.fromkeys(ENDS, 10), "import": 1}


def test_other_ends_leave_it_in_the_journal(world: World) -> None:
    assert world.run("hard-ends", journal=True) == (0, "")
    world.recover()
    assert world.counted == {**dict.fromkeys(HARD_ENDS, 10), "import": 1}


# ---- Celery


@contextlib.contextmanager
def celery(world: World, *options: str, journal: bool) -> Iterator[subprocess.Popen[str]]:
    """A worker of Celery with two children, or greenlets."""
    forked.run("import jobs; jobs.prepare()", cwd=world.place, env=world.environ(journal=journal)).check_returncode()
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "jobs", "worker", "-c", "2", "-l", "warning", *options],
        cwd=world.place,
        env=world.environ(journal=journal),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def send(world: World, what: str, *, journal: bool) -> int:
    """Have tasks done; how many processes did them."""
    done = forked.run(f"import jobs; jobs.send({what})", cwd=world.place, env=world.environ(journal=journal))
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


POOLS = {"prefork": 2, "eventlet": 1, "gevent": 1}
"""By the number of processes."""
if "USAGE_TEST_KILLS" not in os.environ:  # scripts/faults; tests/runtime/test_eventlet.py is quick
    POOLS = {"prefork": 2}


@pytest.mark.parametrize(("pool", "processes"), POOLS.items())
def test_a_worker_of_celery_writes_when_it_is_stopped(
    pool: str, processes: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The children of a prefork pool leave by os._exit, and nobody in the app has connected a signal."""
    monkeypatch.setenv("EVENTLET_NO_GREENDNS", "yes")  # which imports trio, and that does not bear patched sockets
    with celery(world, "-P", pool, journal=False) as worker:
        assert send(world, "20", journal=False) == processes
        worker.send_signal(signal.SIGTERM)
        said = worker.communicate(timeout=60)[0]
        assert worker.returncode == 0, said
    assert world.counted == {**uses(200, 3), "task": 20}, said


def test_celerys_children_write_when_they_are_replaced_and_leave_a_journal_when_they_are_killed(world: World) -> None:
    with celery(world, "--max-tasks-per-child", "1", journal=True) as worker:
        assert send(world, "4, hanging=True", journal=True) == 4  # the last until a hard time limit
        deadline = time.monotonic() + 60
        while total(world.engine, world.tables, "task") < 4:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(worker.pid, signal.SIGKILL)
        said = worker.communicate(timeout=60)[0]
    world.recover()
    assert world.counted == {**uses(50, 3), "task": 4}, said


# ---- gunicorn


def test_workers_that_gunicorn_kills_for_their_silence(world: World) -> None:
    command = python_module(
        "gunicorn", "--chdir", str(FAULTS), "-b", f"127.0.0.1:{PORT}", "-w", "2", "--timeout", "1",
        "--log-level", "critical", "hanging:app",
    )  # fmt: skip
    with serving(command, world.environ(journal=True)) as server:
        answered = sum(answers(server.port, "/") for _ in range(40))
        assert answered == 40
        hanging = [threading.Thread(target=answers, args=(server.port, path)) for path in ("/python", "/c")]
        for thread in hanging:
            thread.start()
        for thread in hanging:
            thread.join()  # whose worker is gone, and with it the connection
        answered += sum(answers(server.port, "/") for _ in range(10))
        said = server.stop()
    world.recover()
    assert answered == 50
    assert world.counted == {"home": answered}, said


def answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
