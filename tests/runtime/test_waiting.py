"""An answer reaches who waits: in a thread, asyncio, trio, gevent and eventlet, and from a signal handler."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable

import pytest
import trio

from usage_instrument.runtime import threads
from usage_instrument.runtime.waiting import Answer, in_event_loop, in_greenlets, in_worker_thread


def given_by_a_thread(answer: Answer[int]) -> None:
    threads.start(lambda: answer.give(7))


def test_a_thread_waits_for_another() -> None:
    answer: Answer[int] = Answer()
    assert not answer.is_given
    assert not answer.wait(0.0)
    assert not answer.wait(0.01)
    given_by_a_thread(answer)
    assert answer.wait(60)
    assert answer.value == 7


def test_all_who_wait_are_woken() -> None:
    answer: Answer[int] = Answer()
    waiting = [threading.Thread(target=answer.wait, args=(60,)) for _ in range(5)]
    for thread in waiting:
        thread.start()
    answer.give(1)
    for thread in waiting:
        thread.join(60)
        assert not thread.is_alive()


def run_in_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await main()

    asyncio.run(run())


@pytest.mark.parametrize("run", [run_in_asyncio, trio.run], ids=["asyncio", "trio"])
def test_an_event_loop_waits_and_runs_meanwhile(run: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
    seen = []

    async def main() -> None:
        late: Answer[int] = Answer()
        assert not await late.wait_async(0.0)
        assert not await late.wait_async(0.01)
        answer: Answer[int] = Answer()
        given_by_a_thread(answer)
        assert await answer.wait_async(60)
        assert await answer.wait_async(60)
        seen.append(answer.value)
        seen.append(await in_worker_thread(in_event_loop))

    run(main)
    assert seen == [7, False]


def test_a_cancelled_waiter_leaves_the_answer_to_others() -> None:
    async def main() -> None:
        answer: Answer[int] = Answer()
        task = asyncio.create_task(answer.wait_async(60))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        answer.give(3)
        assert await answer.wait_async(60)

    asyncio.run(main())


def test_an_answer_to_a_closed_loop_reaches_the_others() -> None:
    answer: Answer[int] = Answer()

    async def abandon() -> None:
        loop = asyncio.get_running_loop()
        waiting = answer.wait_async(60)
        waiting.send(None)  # waits in this loop
        loop.call_soon(loop.stop)
        pending.append(waiting)

    pending: list[object] = []
    asyncio.run(abandon())
    given_by_a_thread(answer)
    assert answer.wait(60)
    pending.clear()


def test_a_signal_handler_may_give_and_wait() -> None:
    answer: Answer[int] = Answer()
    inner: Answer[int] = Answer()

    def handle(*_: object) -> None:
        given_by_a_thread(inner)
        assert inner.wait(60)
        answer.give(1)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert answer.wait(60)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_who_runs_an_event_loop_knows_it() -> None:
    async def main() -> bool:
        return in_event_loop()

    assert asyncio.run(main())
    assert not in_event_loop()
    assert not in_greenlets()


PATCHED = """
import warnings; warnings.simplefilter("ignore")
{before}
{patch}
from usage_instrument.runtime import threads
from usage_instrument.runtime.waiting import Answer, in_greenlets
import {library}

assert in_greenlets()
ticks = []
def tick():
    for _ in range(5):
        {library}.sleep(0)
        ticks.append(1)
{library}.spawn(tick)
answer = Answer()
go = threads.SimpleQueue()
threads.start(lambda: answer.give(go.get(timeout=60)))  # blocks a real thread, not the greenlets
assert not answer.wait(0.05)
assert len(ticks) == 5, ticks
go.put(7)
assert answer.wait(60) and answer.value == 7
print("held")
"""


@pytest.mark.parametrize("before", ["", "import usage_instrument.runtime.waiting"], ids=["first", "last"])
@pytest.mark.parametrize(
    ("library", "patch"),
    [
        ("gevent", "from gevent import monkey; monkey.patch_all()"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()"),
    ],
)
def test_greenlets_run_while_one_waits_for_a_real_thread(library: str, patch: str, before: str) -> None:
    pytest.importorskip(library)
    script = PATCHED.format(library=library, patch=patch, before=before)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("held\n", 0), done.stderr
