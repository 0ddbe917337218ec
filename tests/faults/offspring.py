"""Programs that have children, and that end, in every way there is; all that lives counts.

`python -c "import offspring; offspring.WAYS[…]()"` runs one, so that children import this module by its name. The
database, and the journal where there is one, come from the environment.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import usage_instrument as usage

TRUE = [sys.executable, "-S", "-c", ""]


@usage.tracks("plain")
def plain() -> None: ...


def use(number: int) -> None:
    """So many plain uses, and a tenth as many that carry something."""
    for _ in range(number):
        plain()
    for at in range(number // 10):
        usage.track("rich", metadata={"at": at})


# The first flush comes at a random moment of the interval, and must import nothing during a raw fork.
usage.configure(flush_interval=1_000_000, shutdown_timeout=30)
usage.track("import")  # each process that imports this has something to write from the start


# ---- multiprocessing


def leave(number: int, how: str) -> None:
    """The life of a child."""
    use(number)
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        sys.stderr = io.StringIO()
        raise LookupError
    if how == "descend":
        child = multiprocessing.get_context().Process(target=leave, args=(50, "return"))
        child.start()
        join(child, 0)


def join(child: Any, code: int) -> None:
    child.join()
    assert child.exitcode == code, child.exitcode


def processes(method: str) -> None:
    """Three children of a parent that has uses to write, and a grandchild: 7 + 100 + 110 + 120 + 50."""
    context: Any = multiprocessing.get_context(method)
    context.set_forkserver_preload(["offspring"])
    multiprocessing.set_start_method(method)
    use(7)
    codes = {"exit": 3, "raise": 1, "descend": 0}
    children = [context.Process(target=leave, args=(100 + 10 * n, how)) for n, how in enumerate(codes)]
    for child in children:
        child.start()
    for child, code in zip(children, codes.values(), strict=True):
        join(child, code)


def executor(method: str) -> None:
    """A pool that lives as long as its block: 20 times 10."""
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        list(pool.map(use, [10] * 20))


def recycled_pool() -> None:
    """A pool whose workers are replaced after five tasks, closed and joined: 20 times 10."""
    with multiprocessing.Pool(2, maxtasksperchild=5) as pool:
        pool.map(use, [10] * 20, chunksize=1)
        pool.close()
        pool.join()


def terminated_pool() -> None:
    """A pool that ends as in most programs: at the end of its block it is sent SIGTERM. 20 times 10."""
    with multiprocessing.Pool(2) as pool:
        pool.map(use, [10] * 20)


# ---- forks


def families() -> None:
    """Each generation forks twice, and uses 10 before and 10 after: 2 * 10 in each of 1 + 2 + 4 processes."""
    generation = 0
    pids: list[int] = []
    use(10)
    while generation < 2 and len(pids) < 2:
        pid = os.fork()
        if pid:
            pids.append(pid)
        else:
            generation, pids = generation + 1, []
            use(10)
    use(10)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0


def raw_forks() -> None:
    """Children of a fork that runs no hook, killed as soon as they have counted: 100 + 10 * 10 + 100."""
    use(100)
    fork = ctypes.PyDLL(None).fork
    for _ in range(10):
        quiet()
        pid = fork()
        if not pid:
            use(10)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
    use(100)


def quiet() -> None:
    """Wait until no thread waits for the interpreter's lock, which the child of a raw fork could not repair."""
    usage.flush(30)
    own = threading.get_ident()
    pause = threading.Event()
    while not all(f.f_code.co_name == "_live" for id_, f in sys._current_frames().items() if id_ != own):
        pause.wait(0.005)
    pause.wait(0.005)


def preexec(function: Callable[[], object]) -> None:
    """Programs started from a fork that runs Python, in the midst of captures: 2 * 20,000 of the parent."""
    threads = [threading.Thread(target=use, args=(20_000,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        subprocess.run(TRUE, preexec_fn=function, check=True)
    for thread in threads:
        thread.join()


ENDS: dict[str, tuple[int, Callable[[], object]]] = {
    "unhandled": (1, lambda: [][1]),
    "in words": (1, lambda: sys.exit("that was it")),
    "interrupted": (1, lambda: os.kill(os.getpid(), signal.SIGINT)),
}
"""Ends that Python runs, each with its return code."""
HARD_ENDS: dict[str, tuple[int, Callable[[], object]]] = {
    "os._exit": (0, lambda: os._exit(0)),
    "abort": (-signal.SIGABRT, os.abort),
    "sigterm": (-signal.SIGTERM, lambda: os.kill(os.getpid(), signal.SIGTERM)),
    "segfault": (-signal.SIGSEGV, lambda: ctypes.string_at(0)),
    "exec": (0, lambda: os.execv(TRUE[0], TRUE)),
}


def end(by: dict[str, tuple[int, Callable[[], object]]]) -> None:
    """A child for each of these ends, which it uses ten times before."""
    for name, (code, leave_by) in by.items():
        pid = os.fork()
        if not pid:
            usage.track(name, count=10)
            leave_by()
        found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert found == code, (name, found)


WAYS: dict[str, Callable[[], object]] = {
    "fork": lambda: processes("fork"),
    "spawn": lambda: processes("spawn"),
    "forkserver": lambda: processes("forkserver"),
    "executor-fork": lambda: executor("fork"),
    "executor-forkserver": lambda: executor("forkserver"),
    "recycled-pool": recycled_pool,
    "terminated-pool": terminated_pool,
    "families": families,
    "raw-forks": raw_forks,
    "preexec": lambda: preexec(int),
    "preexec-uses": lambda: preexec(lambda: use(10)),
    "ends": lambda: end(ENDS),
    "hard-ends": lambda: end(HARD_ENDS),
}
