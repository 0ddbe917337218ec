"""Fork and exit, in real processes: children start empty, all counts are exact, and an exit ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import forked
from conftest import Database
from reading import all_of, made, total
from usage_instrument.schema import Tables

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="raw forks are supported on Linux")

START = """
import os, sys, time
import usage_instrument as usage
from usage_instrument.stats import Stats

@usage.tracks("plain")
def plain():
    pass

def use(number):
    for _ in range(number):
        plain()

def child(work, leave):
    work()
    leave()

tracker = usage.configure(sys.argv[1], flush_interval=float(os.environ.get("INTERVAL", "60")), shutdown_timeout=30)
"""


@pytest.fixture
def tables(sqlite: Database) -> Tables:
    return made(sqlite.engine())


def run(tmp_path: Path, script: str, *arguments: str, **environ: str) -> str:
    """Run a script in a new interpreter; it has to end by itself, well."""
    path = tmp_path / "script.py"
    path.write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(path), *arguments],
        env={**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning", **environ},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):  # no child of it is left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert (process.returncode, errors) == (0, ""), errors
    return out


def run_forked(tmp_path: Path, script: str, *arguments: str, **environ: str) -> None:
    """Run a script that forks by `os.fork`. It may have been forked itself, which costs less than its imports."""
    path = tmp_path / "script.py"
    path.write_text(script)
    done = forked.run(path, *arguments, cwd=tmp_path, env={**os.environ, **environ})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


# ---- exit


def test_an_exit_writes_all_and_leaves_no_writer_behind(sqlite: Database, tables: Tables, tmp_path: Path) -> None:
    run(tmp_path, START + "use(1000); usage.track('rich', count=5, metadata={'a': [1]})", sqlite.url)
    assert total(sqlite.engine(), tables) == 1005
    assert all_of(sqlite.engine(), tables.writers) == []


@pytest.mark.parametrize("leave", ["sys.exit(0)", "raise SystemExit", "import _thread; time.sleep(0)"])
def test_every_way_out_that_python_runs(sqlite: Database, tables: Tables, tmp_path: Path, leave: str) -> None:
    run(tmp_path, START + f"use(10); {leave}", sqlite.url)
    assert total(sqlite.engine(), tables) == 10


def test_a_thread_that_is_not_a_daemon_is_waited_for(sqlite: Database, tables: Tables, tmp_path: Path) -> None:
    script = """
import threading
ended = threading.Event()
def work():
    threading.main_thread().join()
    use(10)
threading.Thread(target=work).start()
use(5)
"""
    run(tmp_path, START + script, sqlite.url)
    assert total(sqlite.engine(), tables) == 15


@pytest.mark.parametrize("first", ["", "use(5)", "use(5); usage.flush(30)"], ids=["nothing", "pending", "flushed"])
def test_a_capture_inside_atexit_counts(sqlite: Database, tables: Tables, tmp_path: Path, first: str) -> None:
    """Registered before the first capture, hence run after what a first capture could register."""
    script = START + f"import atexit; atexit.register(use, 7)\n{first}\n"
    run(tmp_path, script, sqlite.url)
    assert total(sqlite.engine(), tables) == 7 + (5 if first else 0)


@pytest.mark.parametrize("first", ["", "use(5)"], ids=["nothing", "pending"])
def test_a_capture_of_an_exit_handler_that_runs_last_counts(
    sqlite: Database, tables: Tables, tmp_path: Path, first: str
) -> None:
    """Registered before our import, hence run after our own handler."""
    script = """
import atexit
def late():
    use(3)
    usage.track("rich", count=4, metadata={"a": [1]})
    use(1)
atexit.register(late)
"""
    run(tmp_path, script + START + first, sqlite.url)
    assert total(sqlite.engine(), tables) == 8 + (5 if first else 0)
    assert all_of(sqlite.engine(), tables.writers) == []


def test_a_tracker_that_was_replaced_is_written_too(sqlite: Database, tables: Tables, tmp_path: Path) -> None:
    script = """
import logging
logging.disable()
use(5)
usage.configure(sys.argv[1], service="other")
use(5)
"""
    run(tmp_path, START + script, sqlite.url)
    assert total(sqlite.engine(), tables) == 10


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A server that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield server.getsockname()[1]


@pytest.mark.parametrize("configured", [1, 3])
def test_with_the_database_away_an_exit_still_ends(silent_server: int, tmp_path: Path, configured: int) -> None:
    """The connection alone would wait for an hour; the process ends within its `shutdown_timeout`."""
    url = f"postgresql+psycopg://u:p@127.0.0.1:{silent_server}/db?connect_timeout=3600"
    script = f"""
import logging, sys
logging.disable()
import usage_instrument as usage
trackers = [usage.Tracker(sys.argv[1], usage.Settings(shutdown_timeout=0.5)) for _ in range({configured})]
for tracker in trackers:
    tracker.track("export")
"""
    run(tmp_path, script, url)


def test_a_process_that_captured_nothing_opens_nothing(tmp_path: Path) -> None:
    script = START + "import threading; print(threading.active_count(), len(sys._current_frames()))"
    assert run(tmp_path, script, f"sqlite:///{tmp_path}/nowhere/usage.db") == "1 1\n"


# ---- fork

FORKS = """
pids = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        assert usage.stats() == Stats(), usage.stats()
        use(100 + number)
        sys.exit(0)
    pids.append(pid)
use(1000)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
"""
BEFORE = {"nothing before": "", "pending": "use(10)", "written": "use(10); assert usage.flush(30)"}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
@pytest.mark.parametrize("interval", ["60", "0.01"])
def test_forked_children_start_empty_and_all_counts_are_exact(
    sqlite: Database, tables: Tables, tmp_path: Path, before: str, interval: str
) -> None:
    run_forked(tmp_path, START + before + FORKS, sqlite.url, INTERVAL=interval)
    assert total(sqlite.engine(), tables) == (10 if before else 0) + 4 * 100 + 6 + 1000
    assert all_of(sqlite.engine(), tables.writers) == []


def test_a_fork_over_a_servers_connection(database: Database, tmp_path: Path) -> None:
    tables = made(database.engine())
    run_forked(tmp_path, START + BEFORE["written"] + FORKS, database.url)
    assert total(database.engine(), tables) == 10 + 4 * 100 + 6 + 1000


def test_a_fork_over_an_async_connection(database: Database, tmp_path: Path) -> None:
    tables = made(database.engine())
    run_forked(tmp_path, START + BEFORE["written"] + FORKS, database.async_url)
    assert total(database.engine(), tables) == 10 + 4 * 100 + 6 + 1000


def test_grandchildren(sqlite: Database, tables: Tables, tmp_path: Path) -> None:
    script = """
use(1)
for generation in range(3):
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        break
    use(10)
"""
    run_forked(tmp_path, START + script, sqlite.url)
    assert total(sqlite.engine(), tables) == 31


def test_a_child_that_captures_nothing_writes_nothing(sqlite: Database, tables: Tables, tmp_path: Path) -> None:
    script = """
use(10)
pid = os.fork()
if not pid:
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    run_forked(tmp_path, START + script, sqlite.url)
    assert total(sqlite.engine(), tables) == 10


def test_a_fork_while_other_threads_capture(sqlite: Database, tables: Tables, tmp_path: Path) -> None:
    script = """
import threading
started = threading.Barrier(3)
def work():
    started.wait()
    use(20_000)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
started.wait()
pids = []
for _ in range(5):
    pid = os.fork()
    if not pid:
        use(100)
        usage.shutdown(30)
        os._exit(0)
    pids.append(pid)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0
for thread in threads:
    thread.join()
"""
    run_forked(tmp_path, START + script, sqlite.url, INTERVAL="0.01")
    assert total(sqlite.engine(), tables) == 2 * 20_000 + 5 * 100


NO_FLUSH = "1000000"
"""Seconds. The first flush comes at a random moment of the interval, and must import nothing during a raw fork."""
RAW_FORK = """
import _queue, collections, ctypes, os, select, sys, threading, time

class Pipe:
    # Python >= 3.13 keeps who waits for a queue in a table that only its own hook cleans: with what is left there, a
    # put in the child may wake a thread that is no more, which ends the process. Nobody waits for these in there.
    def __init__(self):
        self.items = collections.deque()
        self.ends = os.pipe()
    def put(self, item):
        self.items.append(item)
        os.write(self.ends[1], b".")
    def get(self, block=True, timeout=None):
        if not select.select(self.ends[:1], [], [], timeout)[0]:
            raise _queue.Empty
        os.read(self.ends[0], 1)
        return self.items.popleft()
    def get_nowait(self):
        return self.get(timeout=0)
    def empty(self):
        return not self.items
    def __del__(self):
        for end in self.ends:
            os.close(end)

_queue.SimpleQueue = Pipe
from usage_instrument.pipeline import aggregator

aggregator.INTERVAL = 60  # so that a thread which is idle stays so

def raw_fork():
    # Not while a thread waits for the interpreter's lock, which a child could not repair.
    def idle(frame):
        return frame.f_code is Pipe.get.__code__
    def others():
        return [frame for id_, frame in sys._current_frames().items() if id_ != threading.get_ident()]
    time.sleep(0.1)  # a thread that has just been started has no frame yet
    while not all(map(idle, others())):
        time.sleep(0.1)
    return ctypes.PyDLL(None).fork()
"""


@LINUX
@pytest.mark.parametrize("first", ["plain()", "usage.track('plain')", "usage.flush(30)", "usage.stats()"])
def test_a_fork_that_runs_no_python_hook_is_noticed(
    sqlite: Database, tables: Tables, tmp_path: Path, first: str
) -> None:
    """As uWSGI's or a C library's: the child finds out at its first use that nobody told it."""
    script = f"""
for _ in range(10):
    usage.track("plain")
before = usage.stats().captured
pid = raw_fork()
if not pid:
    from usage_instrument.runtime import processes
    assert processes.ALIVE[0] == 0
    processes.notice_fork()
    assert processes.ALIVE[0] == 1
    assert usage.stats() == Stats(), usage.stats()
    {first}
    use(100)
    assert usage.shutdown(30)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert usage.stats().captured == before == 10
use(5)
"""
    run(tmp_path, RAW_FORK + START + script, sqlite.url, INTERVAL=NO_FLUSH)
    assert total(sqlite.engine(), tables) == 10 + 5 + 100 + ("plain" in first)


@LINUX
@pytest.mark.parametrize("use", ["usage.track('plain')", "usage.track('plain', metadata={'a': 1}, count=1)"])
def test_a_raw_fork_is_noticed_by_a_use_alone(sqlite: Database, tables: Tables, tmp_path: Path, use: str) -> None:
    script = f"""
use(10)
pid = raw_fork()
if not pid:
    {use}
    assert usage.stats().captured == 1, usage.stats()
    assert usage.shutdown(30)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    run(tmp_path, RAW_FORK + START + script, sqlite.url, INTERVAL=NO_FLUSH)
    assert total(sqlite.engine(), tables) == 11
