"""Who the user of a capture is, by order of statements, and that no object's code runs to find out."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import sys
import threading
import typing
import uuid
from typing import Any

import pytest
from werkzeug.local import LocalProxy

from usage_instrument.capture import context
from usage_instrument.capture.context import Override, Request, holder
from usage_instrument.errors import DeclarationError, UserIdError
from usage_instrument.typing import UNSET

ANNE, BOB = uuid.UUID(int=1), uuid.UUID(int=2)


@pytest.fixture
def request_() -> typing.Iterator[Request]:
    """An open request, as a middleware makes it."""
    request = Request("http", "POST")
    token = holder.set(request)
    yield request
    holder.reset(token)


def user_here() -> object:
    """The user of a capture made here; UNSET if nothing is captured."""
    held = holder.get()
    return None if held is None else held.capture_user()


def innermost() -> Override:
    held = holder.get()
    assert isinstance(held, Override)
    return held


def test_no_capture_takes_a_user_whom_a_statement_is_replacing(request_: Request) -> None:
    """A thread of the request found it ready, without a user, while `identify` set the next one."""
    found = []

    class Asking:
        @property
        def id(self) -> uuid.UUID:
            found.append(request_.ready)
            return BOB

    request_.identify(ANNE)
    assert request_.ready
    request_.identify(Asking())
    assert found == [False]
    assert (request_.ready, request_.user) == (True, BOB)


# ---- outside of a request


def test_outside_everyone_is_anonymous() -> None:
    assert user_here() is None
    assert context.current_request() is None
    assert context.identify(ANNE) is False
    assert user_here() is None


def test_as_user_outside_a_request() -> None:
    with context.as_user(ANNE):
        assert innermost().ready
        assert user_here() == ANNE
        with context.as_user(None):
            assert user_here() is None
        assert user_here() == ANNE
    assert user_here() is None


def test_as_user_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), context.as_user(ANNE):
        raise ZeroDivisionError
    assert holder.get() is None


def test_paused() -> None:
    with context.paused():
        assert user_here() is UNSET
        with context.as_user(ANNE):
            assert innermost().silent
            assert not innermost().ready
            assert user_here() is UNSET
    with context.as_user(ANNE), context.paused():
        assert user_here() is UNSET
    assert user_here() is None


def test_statements_nest_deeper_than_python_recurses() -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(context.paused())
        for user in range(2 * sys.getrecursionlimit()):
            stack.enter_context(context.as_user(user))
        held = holder.get()
        assert held is not None
        assert held.silent
    assert holder.get() is None


def test_paused_keeps_no_statement_of_its_own() -> None:
    with context.as_user(ANNE), context.paused():
        held = holder.get()
        assert held is not None
        assert held.known_user() == ANNE


# ---- in a request


def test_the_order_of_users(request_: Request) -> None:
    assert user_here() is None
    assert context.identify(ANNE) is True
    assert user_here() == ANNE
    with context.as_user(BOB):
        assert user_here() == BOB
        context.identify(None)
        assert user_here() == BOB
    assert user_here() is None


def test_a_statement_goes_before_the_lookup() -> None:
    asked: list[int] = []

    def lookup(info: object) -> int:
        asked.append(1)
        return 7

    request = Request("http", "GET", lookup)
    assert request.capture_user() == 7
    assert not request.ready, "a login in the middle of the request must be seen"
    request.identify(None)
    assert request.capture_user() is None
    assert request.ready
    assert len(asked) == 1


def test_a_lookup_that_knows_nobody_is_anonymous() -> None:
    assert Request("http", "GET", lambda info: UNSET).capture_user() is None


def test_identify_inside_as_user_is_the_requests(request_: Request) -> None:
    with context.as_user(ANNE):
        context.identify(BOB)
    assert user_here() == BOB


def test_identify_is_seen_in_threads_and_copied_contexts(request_: Request) -> None:
    copied = contextvars.copy_context()
    thread = threading.Thread(target=lambda: copied.run(context.identify, ANNE))
    thread.start()
    thread.join()
    assert user_here() == ANNE


def test_as_user_is_not_seen_in_another_task(request_: Request) -> None:
    async def inner() -> object:
        with context.as_user(ANNE):
            await asyncio.sleep(0)
            return user_here()

    async def main() -> tuple[object, object]:
        task = asyncio.create_task(inner())
        await asyncio.sleep(0)
        return user_here(), await task

    assert asyncio.run(main()) == (None, ANNE)


@pytest.mark.parametrize(
    "bad", [object(), 1.5, True, b"x", [], LocalProxy(lambda: ANNE)], ids=lambda b: type(b).__name__
)
def test_a_refused_identify_rejects_instead_of_crediting_anybody(request_: Request, bad: object) -> None:
    context.identify(ANNE)
    with pytest.raises(UserIdError):
        context.identify(bad)
    assert not request_.ready
    with pytest.raises(UserIdError):
        user_here()
    with context.as_user(BOB):
        assert user_here() == BOB
    with context.paused():
        assert user_here() is UNSET
    context.identify(ANNE)
    assert user_here() == ANNE
    assert request_.ready


def test_a_refused_as_user_rejects(request_: Request) -> None:
    context.identify(ANNE)
    with context.as_user(object()):
        assert not innermost().ready
        with pytest.raises(UserIdError):
            user_here()
        with context.paused():
            assert user_here() is UNSET
        with context.as_user(BOB):
            assert user_here() == BOB
    assert user_here() == ANNE


def test_a_refusal_goes_through_an_inner_pause_only() -> None:
    with context.as_user(object()):
        inner = Override(holder.get())
        with pytest.raises(UserIdError):
            inner.capture_user()


def test_discard(request_: Request) -> None:
    context.identify(ANNE)
    request_.discard()
    assert request_.silent
    assert not request_.ready
    assert user_here() is UNSET
    context.identify(BOB)
    assert not request_.ready
    assert user_here() is UNSET
    with context.as_user(ANNE):
        assert innermost().silent
        assert user_here() is UNSET


def test_silent_methods_never_count() -> None:
    for method in ("HEAD", "OPTIONS"):
        request = Request("http", method)
        request.identify(ANNE)
        assert request.silent
        assert request.capture_user() is UNSET
        assert not request.ready


def test_a_closed_request_is_nobodys(request_: Request) -> None:
    context.identify(ANNE)
    request_.close()
    assert context.current_request() is None
    assert context.identify(BOB) is False
    assert user_here() is None
    assert not request_.ready
    request_.identify(BOB)  # by code that kept it
    assert user_here() is None
    assert not request_.ready


def test_a_closed_request_asks_no_lookup_and_forgets_a_refusal() -> None:
    request = Request("http", "GET", lambda info: ANNE)
    with pytest.raises(UserIdError):
        request.identify(object())
    request.close()
    assert request.capture_user() is None


def test_a_background_task_after_the_response_is_anonymous(request_: Request) -> None:
    async def main() -> tuple[object, object]:
        ended = asyncio.Event()

        async def background() -> object:
            await ended.wait()
            return user_here()

        context.identify(ANNE)
        task = asyncio.create_task(background())
        during = user_here()
        request_.close()
        ended.set()
        return during, await task

    assert asyncio.run(main()) == (ANNE, None)


@pytest.mark.parametrize(
    ("status", "method", "verdict"),
    [
        (200, "GET", True),
        (204, "DELETE", True),
        (299, "GET", True),
        (302, "GET", None),
        (303, "POST", True),
        (307, "PUT", True),
        (304, "GET", None),
        (400, "POST", False),
        (404, "GET", False),
        (500, "GET", False),
        (101, "GET", None),
    ],
)
def test_statuses(status: int, method: str, verdict: bool | None) -> None:
    assert context.judge(status, method) is verdict
    assert Request("http", method).judge(status) is verdict


def test_only_an_open_http_request_judges_an_integer() -> None:
    assert Request("websocket").judge(500) is True
    assert Request("task").judge(500) is True
    assert Request("http", "GET").judge("500") is True
    assert Request("http", "GET").judge(True) is True
    closed = Request("http", "GET")
    closed.close()
    assert closed.judge(500) is True


# ---- contexts


STATEMENTS = pytest.mark.parametrize("statement", [lambda: context.as_user(ANNE), context.paused])


def pieces(statement: Any) -> typing.Iterator[object]:
    with statement():
        yield user_here()
        yield user_here()


@STATEMENTS
def test_a_statement_that_ends_in_another_context_ends(statement: Any) -> None:
    generator, first = pieces(statement), contextvars.copy_context()
    assert first.run(next, generator) == first.run(user_here) != None  # noqa: E711
    contextvars.copy_context().run(list, generator)
    assert first.run(user_here) is None, "the context in which it began is not left with it"
    assert user_here() is None


@STATEMENTS
def test_a_statement_that_a_copy_of_its_context_ends(statement: Any) -> None:
    generator, first = pieces(statement), contextvars.copy_context()
    first.run(next, generator)
    copied = first.copy()
    copied.run(list, generator)
    assert (first.run(user_here), copied.run(user_here)) == (None, None)


def test_statements_that_overlap_end_each_for_itself() -> None:
    def overlapping() -> None:
        anne, bob = pieces(lambda: context.as_user(ANNE)), pieces(lambda: context.as_user(BOB))
        assert (next(anne), next(bob)) == (ANNE, BOB)
        anne.close()  # type: ignore[attr-defined]
        assert user_here() == BOB
        bob.close()  # type: ignore[attr-defined]
        assert user_here() is None

        assert holder.get() is None, "nothing stays behind, however often"

    contextvars.copy_context().run(overlapping)


def test_what_a_statement_copied_ends_with_it() -> None:
    """The outer statement ends while an inner one, which has ended elsewhere, still lies over it."""

    def overlapping() -> None:
        with context.as_user(ANNE):
            bob = pieces(lambda: context.as_user(BOB))
            next(bob)
            contextvars.copy_context().run(list, bob)
            assert user_here() == ANNE
        assert user_here() is None

    contextvars.copy_context().run(overlapping)


def test_a_pause_that_ends_under_a_statement_ends() -> None:
    def overlapping() -> None:
        silence, anne = pieces(context.paused), pieces(lambda: context.as_user(ANNE))
        assert (next(silence), next(anne)) == (UNSET, UNSET)
        silence.close()  # type: ignore[attr-defined]
        assert user_here() == ANNE

    contextvars.copy_context().run(overlapping)


def test_one_statement_may_be_entered_by_many_threads() -> None:
    statement, entered, found = context.as_user(ANNE), threading.Barrier(2, timeout=10), []

    def work() -> None:
        with statement:
            entered.wait()
            found.append(user_here())
        found.append(user_here())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == sorted(map(str, [ANNE, ANNE, None, None]))


def test_a_statement_decorates_functions_of_each_kind() -> None:
    @context.as_user(ANNE)
    def function() -> object:
        return user_here()

    @context.as_user(ANNE)
    async def coroutine() -> object:
        await asyncio.sleep(0)
        return user_here()

    @context.as_user(ANNE)
    def generator() -> typing.Iterator[object]:
        yield user_here()

    assert (function(), asyncio.run(coroutine()), list(generator())) == (ANNE, ANNE, [ANNE])
    assert function() == ANNE, "each call is inside anew"
    with pytest.raises(DeclarationError, match="async generator"):

        @context.as_user(ANNE)
        async def asynchronous() -> typing.AsyncIterator[int]:
            yield 1


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "GET"])
def test_what_a_request_started_counts_once_the_request_is_over(method: str) -> None:
    request = Request("http", method)
    request.discard()
    assert request.silent
    request.close()
    assert not request.silent
    assert request.capture_user() is None


# ---- executors


def test_carry_takes_the_user_to_a_thread_even_after_the_request(request_: Request) -> None:
    request_.identify(ANNE, actor=BOB)
    carried = context.carry(lambda: (user_here(), context.known_actor()))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(user_here).result() is None, "which is the reason for it"
        assert pool.submit(carried).result() == (ANNE, BOB)
        request_.close()
        assert pool.submit(carried).result() == (ANNE, BOB)
        assert pool.submit(user_here).result() is None


def test_carry_takes_a_pause_a_refusal_and_nothing() -> None:
    with context.paused():
        paused = context.carry(user_here)
    with context.as_user(object()):
        refused = context.carry(user_here)
    nobody = context.carry(user_here)
    with context.as_user(ANNE):
        assert paused() is UNSET
        with pytest.raises(UserIdError):
            refused()
        assert nobody() is None
        assert user_here() == ANNE


def test_carry_in_an_event_loop() -> None:
    async def main() -> object:
        with context.as_user(ANNE):
            return await asyncio.get_running_loop().run_in_executor(None, context.carry(user_here))

    assert asyncio.run(main()) == ANNE
