"""The proxy of a tracked callable that is not a plain function, such as a partial."""

from __future__ import annotations

import copy
import operator
import sys
import types
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from collections.abc import Callable

    from .registry import Feature

# wrapt 1 has only the latter. Since wrapt 2, that one makes every object look iterable.
_Proxy: Any = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)


class Tracked(_Proxy):  # type: ignore[misc]
    """Behaves like the wrapped object, but calls a tracked function.

    `again` tracks another object in the same way: the result of binding or copying the wrapped one.
    """

    def __init__(
        self, wrapped: object, call: Callable[..., Any], feature: Feature, again: Callable[[Any], Any]
    ) -> None:
        super().__init__(wrapped)
        self._self_call = call
        self._self_feature = feature
        self._self_again = again

    @property
    def __call__(self) -> Callable[..., Any]:
        """The tracked function itself: frameworks check whether it is a coroutine function."""
        return self._self_call

    @property
    def _usage_feature(self) -> Feature:
        return self._self_feature

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        wrapped = self.__wrapped__
        bind = getattr(type(wrapped), "__get__", None)
        if bind is None:
            return self
        bound = bind(wrapped, instance, owner)
        if bound is wrapped:
            return self
        if type(bound) is types.MethodType and bound.__func__ is wrapped:
            return types.MethodType(self, bound.__self__)
        return self._self_again(bound)

    def __copy__(self) -> Any:
        return self._of_copy(copy.copy(self.__wrapped__))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self._of_copy(copy.deepcopy(self.__wrapped__, memo))

    def _of_copy(self, copied: object) -> Any:
        return self if copied is self.__wrapped__ else self._self_again(copied)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles by name, as a function does, if the name leads here; else the object and how to track it."""
        wrapped = self.__wrapped__
        try:
            if operator.attrgetter(wrapped.__qualname__)(sys.modules[wrapped.__module__]) is self:
                return wrapped.__qualname__
        except (AttributeError, KeyError, TypeError):  # no name, or a wrong one
            pass
        return _track_again, (self._self_again, self.__wrapped__)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)


def _track_again(again: Callable[[Any], Any], target: object) -> Any:
    return again(target)
