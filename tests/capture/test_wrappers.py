"""Every kind of function, to its outcome: what counts, when, and that the function behaves as if untracked."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import sys
import types

import pytest

from usage_instrument.capture.context import as_user
from usage_instrument.capture.decorator import tracks
from usage_instrument.testing import capture_usage


@pytest.fixture
def usage():
    with capture_usage() as captured:
        yield captured


# Each option takes another way through the wrappers: the hot path, and the one that reads arguments.
ways = pytest.mark.parametrize(
    "options", [{}, {"user": lambda *args, **kwargs: 7}, {"metadata": {"a": 1}}], ids=["plain", "user", "metadata"]
)


@ways
def test_a_function_counts_when_it_returns(usage, options):
    @tracks("f", **options)
    def divide(a, b=1):
        assert usage.count("f") == 0
        return a / b

    assert divide(6, b=2) == 3
    assert usage.count("f") == 1
    usage.clear()
    with pytest.raises(ZeroDivisionError) as info:
        divide(1, 0)
    assert info.value.__context__ is None
    assert usage.uses == []


@ways
def test_a_coroutine_counts_when_its_await_ends(usage, options):
    @tracks("f", **options)
    async def divide(a, b=1):
        await asyncio.sleep(0)
        return a / b

    async def main():
        coroutine = divide(6, b=2)
        assert inspect.iscoroutine(coroutine)
        assert usage.count("f") == 0
        assert await coroutine == 3
        assert usage.count("f") == 1
        with pytest.raises(ZeroDivisionError):
            await divide(1, 0)
        assert usage.count("f") == 1

    asyncio.run(main())


@ways
@pytest.mark.parametrize("when", ["success", "failure"])
def test_a_cancelled_coroutine_is_neither_success_nor_failure(usage, options, when):
    entered = []

    @tracks("f", when=when, **options)
    async def wait():
        entered.append(True)
        await asyncio.Event().wait()

    async def main():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), 0)
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert entered
    assert usage.uses == []


@ways
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("when", ["success", "failure"])
def test_being_stopped_is_neither_success_nor_failure(usage, options, stop, when):
    @tracks("f", when=when, **options)
    def work():
        raise stop

    with pytest.raises(stop):
        work()
    assert usage.uses == []


@ways
def test_a_generator_counts_when_exhausted(usage, options):
    @tracks("f", **options)
    def numbers(count):
        yield from range(count)
        return "done"

    generator = numbers(2)
    assert inspect.isgenerator(generator)
    assert [next(generator), next(generator)] == [0, 1]
    assert usage.count("f") == 0
    with pytest.raises(StopIteration) as info:
        next(generator)
    assert info.value.value == "done"
    assert usage.count("f") == 1


@ways
def test_a_generator_counts_when_closed_early(usage, options):
    finished = []

    @tracks("f", **options)
    def numbers():
        try:
            yield 1
            yield 2
        finally:
            finished.append(True)

    generator = numbers()
    next(generator)
    generator.close()
    assert finished
    assert usage.count("f") == 1
    for _ in numbers():
        break
    gc.collect()
    assert usage.count("f") == 2
    numbers().close()  # never started
    assert usage.count("f") == 2


@ways
def test_a_generator_that_raises_or_is_made_to_raise_does_not_count(usage, options):
    @tracks("f", **options)
    def numbers(fail_on_close):
        try:
            yield 1
        except GeneratorExit:
            if fail_on_close:
                raise ValueError("closing") from None
            raise
        raise KeyError("end")

    with pytest.raises(KeyError):
        list(numbers(False))
    thrown = numbers(False)
    next(thrown)
    with pytest.raises(LookupError):
        thrown.throw(LookupError())
    closed = numbers(True)
    next(closed)
    with pytest.raises(ValueError, match="closing"):
        closed.close()
    assert usage.uses == []


@ways
def test_send_and_throw_reach_the_generator(usage, options):
    @tracks("f", **options)
    def echo():
        said = "hello"
        while said != "end":
            try:
                said = yield said
            except LookupError as error:
                said = repr(error)
        return said

    generator = echo()
    assert [next(generator), generator.send("a"), generator.throw(KeyError("k"))] == ["hello", "a", "KeyError('k')"]

    def outer():
        return (yield from generator)

    delegating = outer()
    assert next(delegating) is None
    with pytest.raises(StopIteration) as info:
        delegating.send("end")
    assert info.value.value == "end"
    usage.assert_tracked("f", times=1)


@ways
def test_a_coroutine_made_of_a_generator_stays_awaitable(usage, options):
    @tracks("f", **options)
    @types.coroutine
    def pause():
        yield
        return 5

    async def main():
        return await pause()

    assert asyncio.run(main()) == 5
    usage.assert_tracked("f", times=1)


@ways
def test_an_async_generator_counts_when_exhausted_or_closed(usage, options):
    finished = []

    @tracks("f", **options)
    async def numbers(count):
        try:
            for number in range(count):
                await asyncio.sleep(0)
                yield number
        finally:
            await asyncio.sleep(0)
            finished.append(True)

    async def main():
        generator = numbers(2)
        assert inspect.isasyncgen(generator)
        assert [await anext(generator), await anext(generator)] == [0, 1]
        assert usage.count("f") == 0
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        assert usage.count("f") == 1

        early = numbers(9)
        assert await anext(early) == 0
        await early.aclose()
        assert len(finished) == 2
        assert usage.count("f") == 2
        await numbers(1).aclose()  # never started
        assert usage.count("f") == 2

    asyncio.run(main())


@ways
def test_asend_and_athrow_reach_the_async_generator(usage, options):
    contexts = []

    @tracks("f", **options)
    async def echo():
        said = "hello"
        while said != "end":
            try:
                said = yield said
            except LookupError as error:
                said = repr(error)
            contexts.append(sys.exc_info()[1])
        raise ValueError("end")

    async def main():
        generator = echo()
        assert await anext(generator) == "hello"
        assert await generator.asend("a") == "a"
        assert await generator.athrow(KeyError("k")) == "KeyError('k')"
        with pytest.raises(ValueError, match="end") as info:
            await generator.asend("end")
        assert info.value.__context__ is None

        unhandled = echo()
        await anext(unhandled)
        with pytest.raises(ZeroDivisionError):
            await unhandled.athrow(ZeroDivisionError())
        stopped = echo()
        await anext(stopped)
        with pytest.raises(RuntimeError):  # as for any async generator
            await stopped.athrow(StopAsyncIteration())
        cancelled = echo()
        await anext(cancelled)
        with pytest.raises(asyncio.CancelledError):
            await cancelled.athrow(asyncio.CancelledError())

    asyncio.run(main())
    assert contexts == [None, None, None]
    assert usage.uses == []


def test_an_async_generator_that_fails_leaves_no_cycle(usage):
    @tracks("f")
    async def numbers():
        yield 1

    async def main():
        generator = numbers()
        await anext(generator)
        with pytest.raises(ZeroDivisionError):
            await generator.athrow(ZeroDivisionError())

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [found for found in gc.garbage if isinstance(found, ZeroDivisionError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@ways
def test_failures_count_exceptions_only_which_stay_as_they_are(usage, options):
    @tracks("f", when="failure", **options)
    def divide(a, b):
        return a / b

    @tracks("f", when="failure", **options)
    async def divide_later(a, b):
        return a / b

    @tracks("f", when="failure", **options)
    def generate(a, b):
        yield a / b

    @tracks("f", when="failure", **options)
    async def generate_later(a, b):
        yield a / b

    async def collect(b):
        return [item async for item in generate_later(1, b)]

    def calls(b):
        yield lambda: divide(1, b)
        yield lambda: asyncio.run(divide_later(1, b))
        yield lambda: list(generate(1, b))
        yield lambda: asyncio.run(collect(b))

    for call in calls(1):
        call()
    assert usage.uses == []
    for done, call in enumerate(calls(0), 1):
        with pytest.raises(ZeroDivisionError) as info:
            call()
        assert info.value.__context__ is None
        assert usage.count("f") == done


@ways
def test_calls_count_at_once_whatever_becomes_of_them(usage, options):
    @tracks("f", when="call", **options)
    def function():
        assert usage.count("f") == 1
        raise ZeroDivisionError

    @tracks("f", when="call", **options)
    async def coroutine(): ...

    @tracks("f", when="call", **options)
    def generator():
        yield 1

    @tracks("f", when="call", **options)
    async def async_generator():
        yield 1

    with pytest.raises(ZeroDivisionError):
        function()
    made = [coroutine(), generator(), async_generator()]
    assert usage.count("f") == 4
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(async_generator)
    assert (asyncio.run(made[0]), list(made[1])) == (None, [1])
    assert usage.count("f") == 4


def hide(function):
    """What decorators of hosts do: a plain closure around whatever it is."""

    @functools.wraps(function)
    def hidden(*args, **kwargs):
        return function(*args, **kwargs)

    return hidden


@ways
def test_functions_hidden_by_other_decorators_count_by_their_own_outcome(usage, options):
    @tracks("f", **options)
    @hide
    async def coroutine(fail=False):
        await asyncio.sleep(0)
        return 1 / (not fail)

    @tracks("f", **options)
    @hide
    def generator():
        yield 1
        yield 2

    @tracks("f", **options)
    @hide
    async def async_generator():
        yield 1

    @tracks("f", **options)
    @hide
    def function():
        return "x"

    async def main():
        pending = coroutine()
        assert usage.count("f") == 0
        assert await pending == 1
        assert usage.count("f") == 1
        with pytest.raises(ZeroDivisionError):
            await coroutine(fail=True)
        assert usage.count("f") == 1
        assert [item async for item in async_generator()] == [1]
        assert usage.count("f") == 2

    asyncio.run(main())
    numbers = generator()
    next(numbers)
    assert usage.count("f") == 2
    assert list(numbers) == [2]
    assert usage.count("f") == 3
    assert function() == "x"
    assert usage.count("f") == 4


@ways
def test_a_context_manager_counts_when_it_is_made(usage, options):
    @tracks("f", **options)
    @contextlib.contextmanager
    def scope():
        yield 5

    with scope() as value:
        assert value == 5
        assert usage.count("f") == 1
    assert usage.count("f") == 1


def test_recursive_and_repeated_calls_count_each(usage):
    @tracks("f")
    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    assert factorial(5) == 120
    assert usage.count("f") == 5


def test_the_user_is_who_the_context_says_when_the_use_counts(usage):
    @tracks("f")
    def plain(): ...

    @tracks("f")
    def generator():
        yield

    with as_user(1):
        plain()
        made = generator()
    with as_user(2):
        list(made)
    plain()
    assert [use.user for use in usage.uses] == [1, 2, None]


def test_strict_mistakes_reach_the_caller_but_never_in_place_of_its_own_exception():
    def nobody():
        raise LookupError("who?")

    @tracks("f", user=nobody)
    def succeeds(): ...

    @tracks("f", user=nobody, when="failure")
    def fails():
        raise ZeroDivisionError

    with capture_usage(strict=True) as usage:
        with pytest.raises(LookupError):
            succeeds()
        with pytest.raises(ZeroDivisionError) as info:
            fails()
    assert info.value.__notes__ == ["usage-instrument: LookupError: who?"]
    assert len(usage.rejected) == 2


@ways
def test_a_coroutine_that_a_decorator_hides_counts_when_its_await_ends(usage, options):
    async def divide(a):
        return 6 / a

    hidden = tracks("f", **options)(lambda a: divide(a))

    async def main():
        coroutine = hidden(2)
        assert usage.count("f") == 0
        assert await coroutine == 3
        assert usage.count("f") == 1
        with pytest.raises(ZeroDivisionError):
            await hidden(0)
        assert usage.count("f") == 1

    asyncio.run(main())


SHADOWED = """
type = anext = notice_fork = settle = None
Exception = BaseException = GeneratorExit = StopAsyncIteration = ValueError

@tracks("f", **options)
def function(fails: "Here"):
    if fails:
        raise error

@tracks("f", **options)
async def coroutine(fails: "Here"):
    if fails:
        raise error

@tracks("f", **options)
def generator(fails: "Here"):
    yield
    if fails:
        raise error

@tracks("f", **options)
async def asynchronous(fails: "Here"):
    yield
    if fails:
        raise error

@tracks("f", **options)
@through
def hidden(fails: "Here"):
    async def later():
        if fails:
            raise error
    return later()
"""


@ways
@pytest.mark.parametrize("when", ["success", "failure", "call"])
def test_it_has_the_globals_of_the_function_and_needs_none_of_them(usage, options, when):
    def through(function):
        return lambda fails: function(fails)

    error = LookupError("host")
    options = {**options, "when": when}
    host = {"__name__": "host", "tracks": tracks, "options": options, "error": error, "through": through}
    exec(SHADOWED, host)

    async def drain(pieces):
        async for _ in pieces:
            pass

    runs = {
        "function": lambda fails: host["function"](fails),
        "coroutine": lambda fails: asyncio.run(host["coroutine"](fails)),
        "generator": lambda fails: list(host["generator"](fails)),
        "asynchronous": lambda fails: asyncio.run(drain(host["asynchronous"](fails))),
        "hidden": lambda fails: asyncio.run(host["hidden"](fails)),
    }
    expected = {"success": 1, "failure": 1, "call": 2}[when]
    for name, run in runs.items():
        assert name == "hidden" or host[name].__globals__ is host
        run(False)
        with pytest.raises(LookupError) as info:
            run(True)
        assert info.value is error
        assert usage.count("f") == expected
        usage.clear()
