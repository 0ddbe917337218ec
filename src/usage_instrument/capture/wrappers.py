"""Makes the function that replaces a tracked one: it calls the original and reports how the call ended.

The replacements are plain functions, not proxies. Python calls a plain function fastest, binds it to instances, pickles
it by name, and `inspect` sees a coroutine or generator function as such.

Closures hold all that the functions need, builtins included: `at_home` gives them the globals of the tracked function.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from usage_instrument.runtime.processes import ALIVE, notice_fork

from .context import holder
from .outcome import STATUSLESS
from .recording import settle

if TYPE_CHECKING:
    from .registry import Feature
    from .responses import Guard

Function: TypeAlias = Callable[..., Any]
Begin: TypeAlias = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""Takes the arguments of a call that begins. The capture gets the answer back when the call ends."""
FunctionKind: TypeAlias = Literal["function", "coroutine", "generator", "async generator"]


def kind_of(target: Any) -> FunctionKind:
    """The kind of a callable, by what a call returns."""
    for function in (target, getattr(target, "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(function):
            return "coroutine"
        if inspect.isasyncgenfunction(function):
            return "async generator"
        if inspect.isgeneratorfunction(function):
            return "generator"
    return "function"


def hidden_kind_of(target: Any) -> FunctionKind:
    """The kind of the function below all decorators."""
    try:
        return kind_of(inspect.unwrap(target))
    except ValueError:  # they wrap each other in a circle
        return "function"


def at_home(tracked: Function, function: types.FunctionType) -> Function:
    """`tracked` with the globals of `function`: FastAPI before 0.123.10 looks there for the names in annotations."""
    return types.FunctionType(
        tracked.__code__, function.__globals__, tracked.__name__, tracked.__defaults__, tracked.__closure__
    )


def at_call(function: Function, called: Function) -> Function:
    """For each kind: reports the call as it begins."""

    def tracked(*args: Any, **kwargs: Any) -> Any:
        called(args, kwargs)
        return function(*args, **kwargs)

    return tracked


def plain_function(function: Function, feature: Feature, guard: Guard | None) -> Function:
    """The hot path: the successes of a function whose declaration has neither user nor metadata."""
    current, alive, forked, settled, key = holder.get, ALIVE, notice_fork, settle, feature.key
    type_of, statusless, unfinished, awaited = type, STATUSLESS, types.CoroutineType, plain_coroutine

    def tracked(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        kind = type_of(result)
        if kind is unfinished:  # a decorator below hides an `async def`: the use is the await
            return awaited(lambda: result, feature, guard)()
        held = current()
        if not alive[0]:  # a fork that ran no hook
            forked()
        try:
            if kind not in statusless:
                settled(feature, held, result, guard)
            elif held is None:
                feature.append(None)
            elif held.ready:  # what `settle` does, unrolled
                held.counted.add(key)
                feature.append(held.user)  # type: ignore[arg-type]  # ready: the user is known
            else:
                settled(feature, held, result, guard)
        except TypeError:
            if type_of(kind).__hash__ is not None:  # strict=True
                raise
            settled(feature, held, result, guard)
        return result

    return tracked


def plain_coroutine(function: Function, feature: Feature, guard: Guard | None) -> Function:
    """As plain_function."""
    current, alive, forked, settled, key = holder.get, ALIVE, notice_fork, settle, feature.key
    type_of, statusless = type, STATUSLESS

    async def tracked(*args: Any, **kwargs: Any) -> Any:
        result = await function(*args, **kwargs)
        held = current()
        if not alive[0]:
            forked()
        try:
            if type_of(result) not in statusless:
                settled(feature, held, result, guard)
            elif held is None:
                feature.append(None)
            elif held.ready:
                held.counted.add(key)
                feature.append(held.user)  # type: ignore[arg-type]
            else:
                settled(feature, held, result, guard)
        except TypeError:
            if type_of(type_of(result)).__hash__ is not None:
                raise
            settled(feature, held, result, guard)
        return result

    return tracked


def any_function(function: Function, capture: Any, hidden: FunctionKind) -> Function:
    """A function.

    Decorators below ours often hide an `async def` or a generator in a plain closure. A result of that kind, `hidden`,
    is no outcome yet: its own end is reported.
    """
    begin, failures = capture.begin, capture.failures
    unfinished, finish = _RESULTS[hidden], ANY[hidden]

    def tracked(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        try:
            result = function(*args, **kwargs)
        except failures as error:
            capture.raised(call, error)
            raise
        if result.__class__ is unfinished:
            return finish(lambda: result, lambda args, kwargs: call, capture)()
        capture.returned(call, result)
        return result

    return tracked


def any_coroutine(
    function: Function, begin: Begin, capture: Any, admit: Callable[[Any], Awaitable[None]] | None = None
) -> Function:
    """A coroutine function. `admit` is awaited before the function is called."""
    failures = capture.failures

    async def tracked(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if admit is not None:
            await admit(call)
        try:
            result = await function(*args, **kwargs)
        except failures as error:
            capture.raised(call, error)
            raise
        capture.returned(call, result)
        return result

    return tracked


def any_generator(function: Function, begin: Begin, capture: Any) -> Function:
    """A generator function. Closing a generator before its end is a success: its reader had enough."""
    failure, closed = Exception, GeneratorExit

    def tracked(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = begin(args, kwargs)
        try:
            result = yield from function(*args, **kwargs)
        except closed:
            capture.returned(call)
            raise
        except failure as error:
            capture.raised(call, error)
            raise
        capture.returned(call)
        return result

    return tracked


def any_async_generator(function: Function, begin: Begin, capture: Any) -> Function:
    """An async generator function. It does by hand what `yield from` does, which has no async form."""
    first, ended, closed, failure, any_failure = anext, StopAsyncIteration, GeneratorExit, Exception, BaseException

    async def tracked(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = begin(args, kwargs)
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
            capture.returned(call)
        except closed:
            capture.returned(call)
            raise
        except failure as error:
            capture.raised(call, error)
            raise
        finally:
            thrown = None  # it refers to this frame by its traceback

    return tracked


ANY: dict[FunctionKind, Callable[[Function, Begin, Any], Function]] = {
    "coroutine": any_coroutine,
    "generator": any_generator,
    "async generator": any_async_generator,
}
"""The wrappers for declarations with a user, metadata, an audit or another `when` than success."""

_RESULTS: dict[FunctionKind, type] = {
    "coroutine": types.CoroutineType,
    "generator": types.GeneratorType,
    "async generator": types.AsyncGeneratorType,
}
