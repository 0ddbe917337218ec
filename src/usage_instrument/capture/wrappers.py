"""The function that stands for a tracked one, by its kind: it calls the function and tells the outcome.

They are plain functions rather than proxies, because a plain function is what Python calls fastest, binds to
instances by itself, pickles by name, and shows to `inspect` as the coroutine or generator function it is.

What they need they keep in their closures, down to the builtins: `at_home` gives them the globals of the tracked one.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from usage_instrument.runtime.processes import ALIVE, notice_fork

from .call_arguments import NOTHING, Args, Kwargs, Read, Said
from .context import holder
from .outcome import STATUSLESS, Capture, settle

if TYPE_CHECKING:
    from .registry import Feature

Function: TypeAlias = Callable[..., Any]
Kind: TypeAlias = Literal["function", "coroutine", "generator", "async generator"]


def kind_of(target: Any) -> Kind:
    """What a call of `target` returns, as `inspect` tells it."""
    for function in (target, getattr(target, "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(function):
            return "coroutine"
        if inspect.isasyncgenfunction(function):
            return "async generator"
        if inspect.isgeneratorfunction(function):
            return "generator"
    return "function"


def hidden_kind_of(target: Any) -> Kind:
    """The kind of what the decorators below ours wrap."""
    try:
        return kind_of(inspect.unwrap(target))
    except ValueError:  # they wrap each other in a circle
        return "function"


def at_home(tracked: Function, function: types.FunctionType) -> Function:
    """`tracked` with the globals of `function`, where FastAPI before 0.123.10 looks for what its annotations name."""
    return types.FunctionType(
        tracked.__code__, function.__globals__, tracked.__name__, tracked.__defaults__, tracked.__closure__
    )


def at_call(function: Function, read: Read, capture: Capture) -> Function:
    """For every kind: what happens at the call knows nothing of how it goes on."""

    def tracked(*args: Any, **kwargs: Any) -> Any:
        capture.called(read(args, kwargs))
        return function(*args, **kwargs)

    return tracked


def plain_function(function: Function, feature: Feature) -> Function:
    """The hot path: successes of a function whose declaration names neither user nor metadata."""
    current, alive, forked, settled, key = holder.get, ALIVE, notice_fork, settle, feature.key
    type_of, statusless, unfinished, awaited = type, STATUSLESS, types.CoroutineType, plain_coroutine

    def tracked(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        kind = type_of(result)
        if kind is unfinished:  # a decorator below hides an `async def`: the await is the use
            return awaited(lambda: result, feature)()
        held = current()
        if not alive[0]:  # a fork that ran no hook
            forked()
        if held is None:
            feature.append(None)
        elif held.ready and kind in statusless:  # what `settle` does, unrolled
            held.counted.add(key)
            feature.append(held.user)  # type: ignore[arg-type]  # who is ready knows the user
        else:
            settled(feature, held, result)
        return result

    return tracked


def plain_coroutine(function: Function, feature: Feature) -> Function:
    """As plain_function."""
    current, alive, forked, settled, key = holder.get, ALIVE, notice_fork, settle, feature.key
    type_of, statusless = type, STATUSLESS

    async def tracked(*args: Any, **kwargs: Any) -> Any:
        result = await function(*args, **kwargs)
        held = current()
        if not alive[0]:
            forked()
        if held is None:
            feature.append(None)
        elif held.ready and type_of(result) in statusless:
            held.counted.add(key)
            feature.append(held.user)  # type: ignore[arg-type]
        else:
            settled(feature, held, result)
        return result

    return tracked


def any_function(function: Function, read: Read, capture: Capture, hidden: Kind = "coroutine") -> Function:
    """A function.

    Decorators below ours often hide an `async def` or a generator in a plain closure. A result of that kind,
    `hidden`, is no outcome yet, so it is tracked on.
    """
    failure, unfinished, tracked_on = Exception, _RESULTS[hidden], ANY[hidden]

    def tracked(*args: Any, **kwargs: Any) -> Any:
        said = read(args, kwargs)
        try:
            result = function(*args, **kwargs)
        except failure as error:
            capture.raised(said, error)
            raise
        if result.__class__ is unfinished:
            return tracked_on(lambda: result, lambda args, kwargs: said, capture)()
        capture.returned(said, result)
        return result

    return tracked


def any_coroutine(function: Function, read: Read, capture: Capture) -> Function:
    """A coroutine function: the outcome is known when the await ends."""
    failure = Exception

    async def tracked(*args: Any, **kwargs: Any) -> Any:
        said = read(args, kwargs)
        try:
            result = await function(*args, **kwargs)
        except failure as error:
            capture.raised(said, error)
            raise
        capture.returned(said, result)
        return result

    return tracked


def any_generator(function: Function, read: Read, capture: Capture) -> Function:
    """A generator function: closing a generator before its end is how its reader says that it had enough."""
    failure, closed = Exception, GeneratorExit

    def tracked(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        said = read(args, kwargs)
        try:
            result = yield from function(*args, **kwargs)
        except closed:
            capture.returned(said)
            raise
        except failure as error:
            capture.raised(said, error)
            raise
        capture.returned(said)
        return result

    return tracked


def any_async_generator(function: Function, read: Read, capture: Capture) -> Function:
    """An async generator function; what `yield from` does is done by hand, as it has no async form."""
    first, ended, closed, failure, any_failure = anext, StopAsyncIteration, GeneratorExit, Exception, BaseException

    async def tracked(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        said = read(args, kwargs)
        thrown: BaseException | None = None
        try:
            inner = function(*args, **kwargs)
            item = await first(inner)
            while True:
                try:
                    sent = yield item
                except closed:
                    await inner.aclose()
                    raise
                except any_failure as error:
                    # Passed on after this block, or the host would see it as the context of its own errors.
                    thrown = error
                if thrown is None:
                    item = await inner.asend(sent)
                else:
                    item = await inner.athrow(thrown)
                    thrown = None
        except ended:
            capture.returned(said)
        except closed:
            capture.returned(said)
            raise
        except failure as error:
            capture.raised(said, error)
            raise
        finally:
            thrown = None  # it refers to this frame by its traceback

    return tracked


ANY: dict[Kind, Callable[[Function, Read, Capture], Function]] = {
    "coroutine": any_coroutine,
    "generator": any_generator,
    "async generator": any_async_generator,
}
"""How the calls of a kind are tracked that have something to say, or count other than by success."""

_RESULTS: dict[Kind, type] = {
    "coroutine": types.CoroutineType,
    "generator": types.GeneratorType,
    "async generator": types.AsyncGeneratorType,
}


def says_nothing(args: Args, kwargs: Kwargs) -> Said:
    """The Read of a declaration without user and metadata."""
    return NOTHING
