"""A ticket: answered, or not by its deadline; waited for in threads, in asyncio and in trio."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable
from typing import Any

import pytest

from usage_instrument.runtime.flush_request import Ticket


def test_an_answer_given_before() -> None:
    for answer in (True, False):
        ticket = Ticket(60)
        ticket.answer = answer
        assert ticket.wait() is answer
        assert asyncio.run(ticket.await_()) is answer


def test_no_answer_by_the_deadline() -> None:
    for timeout in (0.0, -1.0, 0.01):
        assert Ticket(timeout).wait() is False
        assert asyncio.run(Ticket(timeout).await_()) is False


def test_a_late_answer_is_still_the_answer() -> None:
    ticket = Ticket(0.0)
    assert ticket.wait() is False
    ticket.answer = True
    assert ticket.wait() is True


def test_an_answer_from_another_thread() -> None:
    ticket = Ticket(60)
    waiting = threading.Event()

    def answer() -> None:
        waiting.wait()
        ticket.answer = True

    thread = threading.Thread(target=answer)
    thread.start()
    waiting.set()
    assert ticket.wait() is True
    thread.join()


def test_the_event_loop_runs_meanwhile() -> None:
    async def main() -> bool:
        ticket = Ticket(60)

        async def answer() -> None:
            ticket.answer = True

        waiting: Awaitable[bool] = asyncio.ensure_future(ticket.await_())
        await asyncio.create_task(answer())
        return await waiting

    assert asyncio.run(main()) is True


def test_under_trio() -> None:
    trio: Any = pytest.importorskip("trio")
    assert "trio" in sys.modules

    async def main() -> tuple[bool, bool]:
        ticket = Ticket(60)

        async def answer() -> None:
            ticket.answer = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            found = await ticket.await_()
        return found, await Ticket(0.01).await_()

    assert trio.run(main) == (True, False)


def test_a_final_ticket_says_so() -> None:
    assert Ticket(1, final=True).final
    assert not Ticket(1).final
