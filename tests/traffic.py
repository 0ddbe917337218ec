"""Real servers with the example apps, and real HTTP to them: what succeeded is what has to be in the table."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from servers import free_port

EXAMPLES = Path(__file__).parents[1] / "examples"
FLASK, STARLETTE, FASTAPI = "flask_app:app", "starlette_app:app", "fastapi_app:app"
PORT = "{port}"

Uses: TypeAlias = "Counter[tuple[str, str | None]]"


def python_module(module: str, *arguments: str) -> list[str]:
    """A command that runs a module; `PORT` in it becomes the port."""
    return [sys.executable, "-m", module, *arguments]


def gunicorn(app: str, *options: str) -> list[str]:
    return python_module(
        "gunicorn", "--chdir", str(EXAMPLES), "-b", f"127.0.0.1:{PORT}", "--log-level", "warning", *options, app
    )


def uvicorn(app: str, *options: str) -> list[str]:
    return python_module("uvicorn", "--app-dir", str(EXAMPLES), "--port", PORT, "--log-level", "warning", *options, app)


class Server:
    """One that runs, in a process group of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def visits(self, visitors: int = 6) -> Uses:
        """Requests of so many visitors at a time; what succeeded."""
        with concurrent.futures.ThreadPoolExecutor(visitors) as pool:
            return sum(pool.map(_visit, [self.port] * visitors, range(visitors)), Counter[tuple[str, "str | None"]]())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Ask the server to end, and wait; what it said."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=60)[0]

    def kill(self) -> None:
        """kill -9 it and its workers, all at once, and wait for each: a dying worker still locks its journal."""
        with contextlib.ExitStack() as stack:
            ends = [stack.enter_context(os.fdopen(os.pidfd_open(pid), "rb")) for pid in _members(self.process.pid)]
            os.killpg(self.process.pid, signal.SIGKILL)
            for end in ends:
                assert select.select([end], [], [], 60)[0], "a pidfd is readable once its process has ended"
        self.process.wait()


def _members(group: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(int(path.name)) == group:
                found.append(int(path.name))
    return found


@contextlib.contextmanager
def serving(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[Server]:
    """A server that answers; it leaves no process behind."""
    port = free_port()
    process = subprocess.Popen(
        [argument.replace(PORT, str(port)) for argument in command],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.1)
        yield Server(process, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("HEAD", "/")  # never a use
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def _visit(port: int, visitor: int) -> Uses:
    """Twenty requests of one visitor; what succeeded."""
    succeeded: Uses = Counter()
    user = f"user-{visitor}" if visitor % 4 else None
    for number in range(20):
        method, path, feature = (
            ("GET", "/events", "list_events"),
            ("POST", "/events/7/follow", "calendar_follow_event"),
            ("POST", "/events/999/follow", "never"),
            ("GET", "/nowhere", "never"),
        )[number % 4]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)  # uWSGI closes it after each answer
        with contextlib.closing(connection):
            connection.request(method, path, headers={"X-User": user} if user else {})
            response = connection.getresponse()
            response.read()
        if response.status < 300:
            succeeded[feature, user] += 1
        else:
            assert feature == "never", response.status
    return succeeded
