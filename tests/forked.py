"""Short programs in processes of their own, forked from one that has imported SQLAlchemy and its drivers.

Those imports are most of what a short process costs. The package itself is imported by each process, unless `loaded`
names it. A test of a start, of an end (the order of exit handlers), of a raw fork or of a server takes a new
interpreter.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DRIVERS = (
    "sqlalchemy.dialects.sqlite.pysqlite", "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.mysql.pymysql", "sqlalchemy.ext.asyncio", "sqlalchemy.orm", "sqlite3", "psycopg", "pymysql",
)  # fmt: skip


def run(
    program: str | Path,
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    typed: str = "",
    timeout: float = 120,
    loaded: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a program, a source or its file, as `python` would, until it and all that hold its output have ended.

    It leads a session of its own, of which nothing is left behind. It finds `DRIVERS` and the modules `loaded`
    imported, and reads `typed` from its standard input. PYTHONPATH of `env` has its effect. What else the interpreter
    reads as it starts, such as PYTHONWARNINGS, has none; a DeprecationWarning is ignored.

    Raises:
        subprocess.TimeoutExpired: it has not ended within so many seconds
    """
    request = {
        "program": str(program) if isinstance(program, Path) else None,
        "source": program.read_text(encoding="utf-8") if isinstance(program, Path) else program,
        "arguments": arguments,
        "cwd": str(cwd or Path.cwd()),
        "env": dict(os.environ if env is None else env),
    }
    deadline = time.monotonic() + timeout
    control = _parent(loaded)
    texts: dict[str, bytearray] = {"out": bytearray(), "errors": bytearray()}
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        ends = []
        for value in (json.dumps(request), typed):
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(value.encode())
            file.seek(0)
            ends.append(file.fileno())
        for name in texts:
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            ends.append(writing)
            selector.register(reading, selectors.EVENT_READ, name)
        try:
            socket.send_fds(control, [b"."], ends)
        finally:
            for end in ends[2:]:
                os.close(end)
        pid = int(_answer(control))
        try:
            while selector.get_map():
                ready = selector.select(deadline - time.monotonic())
                if not ready:
                    raise subprocess.TimeoutExpired(str(program), timeout, bytes(texts["out"]), bytes(texts["errors"]))
                for key, _ in ready:
                    read = os.read(key.fd, 65536)
                    texts[key.data] += read
                    if not read:
                        selector.unregister(key.fd)
        finally:
            with contextlib.suppress(ProcessLookupError):
                if selector.get_map():
                    os.killpg(pid, signal.SIGKILL)
            code = int(_answer(control))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    return subprocess.CompletedProcess([str(program), *arguments], code, *(text.decode() for text in texts.values()))


@functools.cache
def _parent(loaded: tuple[str, ...]) -> socket.socket:
    """The process that forks, by its socket; it ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import forked; del sys.path[0]; "
        serve = f"forked._serve({theirs.fileno()}, {(*DRIVERS, *loaded)!r})"
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", start + serve],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours


def _answer(control: socket.socket) -> bytes:
    """A line of the process that forks."""
    line = b""
    while not line.endswith(b"\n"):
        read = control.recv(1)
        if not read:
            raise RuntimeError("the process that forks has ended")
        line += read
    return line


def _serve(number: int, modules: tuple[str, ...]) -> None:
    """Fork at each request. Returns in a child, when its program has ended, and at the end of the socket."""
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a child that ends would visit, hence copy, all that was imported
    with socket.socket(fileno=number) as control:
        while True:
            _, fds, _, _ = socket.recv_fds(control, 1, 4)
            if not fds:
                return
            pid = os.fork()
            if not pid:
                break
            for fd in fds:
                os.close(fd)
            control.sendall(b"%d\n" % pid)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            control.sendall(b"%d\n" % code)
    with open(fds[0], encoding="utf-8") as file:
        request = json.load(file)
    for standard, fd in enumerate(fds[1:]):
        os.dup2(fd, standard)
        os.close(fd)
    _become(**request)


def _become(program: str | None, source: str, arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [program or "-c", *arguments]
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [str(Path(program).parent) if program else "", *paths, *(p for p in sys.path[1:] if p not in paths)]
    importlib.invalidate_caches()
    main = vars(sys.modules["__main__"])
    main.clear()
    main.update(__name__="__main__", __builtins__=builtins, __doc__=None, __package__=None, __spec__=None)
    if program:
        main.update(__file__=program, __cached__=None)
    code: Any = compile(source, program or "<string>", "exec", dont_inherit=True)
    exec(code, main)
