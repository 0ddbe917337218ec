"""Checked by mypy and pyright, never run: what is tracked keeps its type."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar, assert_type, overload

from usage_instrument.capture.decorator import tracks
from usage_instrument.testing import capture_usage

T = TypeVar("T")


@tracks("function", metadata=["event"], user_arg="user", when="failure", description="Follow.")
def function(event: int, *, user: str | None = None) -> list[int]:
    return [event]


assert_type(function(1, user="anna"), list[int])
function("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
function(1, usr="anna")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@overload
def either(value: int) -> int: ...
@overload
def either(value: str) -> list[str]: ...
@tracks("either")
def either(value: int | str) -> int | list[str]:
    return value if isinstance(value, int) else [value]


assert_type(either(1), int)
assert_type(either("a"), list[str])
either(None)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


class Both:
    @overload
    def __call__(self, value: int) -> int: ...
    @overload
    def __call__(self, value: str) -> list[str]: ...
    def __call__(self, value: int | str) -> int | list[str]:
        return value if isinstance(value, int) else [value]


tracked_object = tracks("object")(Both())
assert_type(tracked_object(1), int)
assert_type(tracked_object("a"), list[str])
assert_type(tracked_object, Both)


@tracks("generic", metadata=lambda value: {"value": value})
def generic(value: T) -> list[T]:
    return [value]


assert_type(generic(1), list[int])
assert_type(generic("a"), list[str])


@tracks("coroutine", user=lambda value: value)
async def coroutine(value: int) -> str:
    return str(value)


@tracks("generator", user=None)
def generator() -> Iterator[int]:
    yield 1


@tracks("async_generator", user=4)
async def async_generator() -> AsyncIterator[int]:
    yield 1


async def main() -> None:
    assert_type(await coroutine(1), str)
    made: Coroutine[Any, Any, str] = coroutine(1)
    assert_type(await made, str)
    async for number in async_generator():
        assert_type(number, int)


for number in generator():
    assert_type(number, int)


class View:
    @tracks("method")
    def method(self, value: int) -> str:
        return str(value)

    @tracks("above")
    @classmethod
    def above(cls, value: int) -> str:
        return str(value)

    @classmethod
    @tracks("below")
    def below(cls, value: int) -> str:
        return str(value)

    @tracks("static_above")
    @staticmethod
    def static_above(value: int) -> str:
        return str(value)

    @staticmethod
    @tracks("static_below")
    def static_below(value: int) -> str:
        return str(value)

    @property
    @tracks("name")
    def name(self) -> str:
        return ""


assert_type(View().method(1), str)
assert_type(View.above(1), str)
assert_type(View.below(1), str)
assert_type(View.static_above(1), str)
assert_type(View.static_below(1), str)
assert_type(View().name, str)
View().method("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@tracks("Box", user_arg="owner")
class Box(Generic[T]):
    def __init__(self, value: T, owner: int | None = None) -> None:
        self.value = value


assert_type(Box(1), Box[int])
assert_type(Box("a").value, str)


class SmallBox(Box[int]):
    pass


assert_type(SmallBox(1).value, int)

partial = tracks("partial")(functools.partial(function, 1))
assert_type(partial(), list[int])

shared = tracks("shared")
first: Callable[[int], str] = shared(str)
assert_type(shared(len)([1]), int)

tracks("f", when="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
tracks("f", user=3.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
tracks("f", metadata=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
tracks(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
shared(5)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]

with capture_usage() as usage:
    assert_type(usage.count("f"), int)
    assert_type(usage.names, list[str])
