"""The function that stands for an audited one: each of its calls is an access, however it ends."""

from __future__ import annotations

import types
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from . import context
from .access import new_access, outcome_of, outcome_of_error
from .arguments import Read, Said
from .context import holder, request_of
from .errors import AuditUnavailable
from .events import Access, Use
from .lifecycle import notice_fork
from .outcome import count, succeeded
from .rejects import in_words
from .typing import Outcome, _Unset

if TYPE_CHECKING:
    from .catalog import Feature
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
        access = self._access()
        if self.required:
            self.feature.catalog.recorder.admit(self._admittable(access, said))
        return self._begun(access, said)

    async def abegin(self, said: Said) -> Access:
        """As begin, without blocking the event loop."""
        access = self._access()
        if self.required:
            await self.feature.catalog.recorder.aadmit(self._admittable(access, said))
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

    def _access(self) -> Access:
        notice_fork()
        return new_access("attempted")

    def _begun(self, access: Access, said: Said) -> Access:
        if self.counts is None:
            count(self.feature, holder.get(), said)
        return access

    def _admittable(self, access: Access, said: Said) -> Use:
        user, metadata = _who(said), said[1]
        if isinstance(user, Exception):
            raise AuditUnavailable.of(self.feature.name, in_words(user)) from user
        return Use(self.feature.name, user, None if isinstance(metadata, Exception) else metadata, 0, access)

    def _ended(self, access: Access, said: Said, outcome: Outcome, is_use: bool) -> None:
        held, user, metadata = holder.get(), _who(said), said[1]
        recorder, name = self.feature.catalog.recorder, self.feature.name
        is_use = is_use and (held is None or not held.silent)
        request = request_of(held)
        if is_use and request is not None:
            request.counted.add(self.feature.key)
        ended = access._replace(outcome=outcome)
        if isinstance(user, Exception):
            recorder.record(Use(name, None, {"usage_instrument": f"user: {in_words(user)}"}, 0, ended))
            if is_use:
                recorder.reject(name, user)
            return
        kept = None if isinstance(metadata, Exception) else metadata
        recorder.record(Use(name, user, kept, int(is_use), ended))
        if isinstance(metadata, Exception):
            recorder.lose_metadata(name, metadata)


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
