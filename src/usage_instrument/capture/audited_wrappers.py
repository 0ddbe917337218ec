"""The function that stands for an audited one: each of its calls is an access, however it ends."""

from __future__ import annotations

import types
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from usage_instrument.events import Access, Use
from usage_instrument.runtime.processes import notice_fork
from usage_instrument.typing import Outcome, _Unset

from . import context
from .access_events import attempted, ended, new_access, outcome_of, outcome_of_error
from .call_arguments import Read, Said
from .context import holder, request_of
from .outcome import count, succeeded

if TYPE_CHECKING:
    from .registry import Feature
    from .wrappers import Function


class AuditedCapture:
    """The accesses to one feature, told how they begin and end. `counts` is that of Capture."""

    __slots__ = ("counts", "feature", "required")

    def __init__(self, feature: Feature, counts: bool | None, *, required: bool) -> None:
        self.feature = feature
        self.counts = counts
        self.required = required
        """Whether the access has to be in the trail before it happens."""

    def begin(self, said: Said) -> Access:
        """The call is about to begin. Raises AuditUnavailable: then it must not."""
        access = self._opened()
        if access is None:
            access = new_access("attempted")
            if self.required:
                self.feature.catalog.recorder.admit(self._attempted(access, said))
        return self._begun(access, said)

    async def abegin(self, said: Said) -> Access:
        """As begin, without blocking the event loop."""
        access = self._opened()
        if access is None:
            access = new_access("attempted")
            if self.required:
                await self.feature.catalog.recorder.aadmit(self._attempted(access, said))
        return self._begun(access, said)

    def returned(self, access: Access, said: Said, result: object) -> None:
        """The call ended without an exception."""
        held = holder.get()
        is_use = self.counts is not None and succeeded(held, result) is self.counts
        self._ended(access, said, outcome_of(held, result), is_use)

    def raised(self, access: Access, said: Said, error: BaseException) -> None:
        """The call ended with an exception, which stays the one that the caller sees."""
        try:
            is_use = self.counts is False and isinstance(error, Exception)
            self._ended(access, said, outcome_of_error(error), is_use)
        except Exception as mistake:  # strict
            error.add_note(f"usage-instrument: {type(mistake).__name__}: {mistake}")

    def _opened(self) -> Access | None:
        """The access that a middleware has admitted already."""
        notice_fork()
        request = request_of(holder.get())
        return None if request is None else request.take_access(self.feature.key)

    def _begun(self, access: Access, said: Said) -> Access:
        if self.counts is None:
            count(self.feature, holder.get(), said)
        return access

    def _attempted(self, access: Access, said: Said) -> Use:
        return attempted(self.feature.name, access, _who(said), said[1])

    def _ended(self, access: Access, said: Said, outcome: Outcome, is_use: bool) -> None:
        held, feature = holder.get(), self.feature
        is_use = is_use and (held is None or not held.silent)
        request = request_of(held)
        if request is not None:
            request.mark_access(feature.key)
            if is_use:
                request.counted.add(feature.key)
        ended(
            feature.catalog.recorder, feature.name, access._replace(outcome=outcome), _who(said), said[1], int(is_use)
        )


def _who(said: Said) -> Any:
    """The user; an Exception where that cannot be told. What is paused or discarded is an access all the same."""
    user = said[0]
    if not isinstance(user, _Unset):
        return user
    try:
        return context.known_user()
    except Exception as error:  # a refused statement, or the host's own way to find the user
        return error


def audited_function(function: Function, read: Read, capture: AuditedCapture) -> Function:
    """A function. Where it hands out a coroutine, the access ends with the await."""
    any_failure, unfinished, finished = BaseException, types.CoroutineType, _finished

    def tracked(*args: Any, **kwargs: Any) -> Any:
        said = read(args, kwargs)
        access = capture.begin(said)
        try:
            result = function(*args, **kwargs)
        except any_failure as error:
            capture.raised(access, said, error)
            raise
        if result.__class__ is unfinished:
            return finished(result, access, said, capture)
        capture.returned(access, said, result)
        return result

    return tracked


def audited_coroutine(function: Function, read: Read, capture: AuditedCapture) -> Function:
    """A coroutine function."""
    any_failure = BaseException

    async def tracked(*args: Any, **kwargs: Any) -> Any:
        said = read(args, kwargs)
        access = await capture.abegin(said)
        try:
            result = await function(*args, **kwargs)
        except any_failure as error:
            capture.raised(access, said, error)
            raise
        capture.returned(access, said, result)
        return result

    return tracked


async def _finished(result: Coroutine[Any, Any, Any], access: Access, said: Said, capture: AuditedCapture) -> Any:
    try:
        value = await result
    except BaseException as error:
        capture.raised(access, said, error)
        raise
    capture.returned(access, said, value)
    return value
