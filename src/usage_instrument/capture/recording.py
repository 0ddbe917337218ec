"""Hands uses and accesses to the recorder of their feature."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from usage_instrument.errors import AuditUnavailable, UsageInstrumentError, describe
from usage_instrument.events import Access, Use
from usage_instrument.runtime import log
from usage_instrument.runtime.processes import notice_fork
from usage_instrument.typing import UNSET, Outcome, Unset, UserId

from .call_arguments import NO_MEASURES, NOTHING, Args, Kept, Kwargs, Measures, ReadCall, Stated
from .context import Holder, current_request, holder, known_actor, known_user, request_of
from .kept_uses import TransactionLostError
from .outcome import outcome_of, outcome_of_error, succeeded
from .request_info import impersonator, request_id
from .responses import Guard
from .transactions import BeginSpan, Span, no_transaction, now

if TYPE_CHECKING:
    from .registry import Feature, Recorder


# ---- uses


def settle(feature: Feature, held: Holder | None, result: object, guard: Guard | None) -> None:
    """Count a success without user and metadata. `guard` is the access decorator below `tracks`, if any."""
    if succeeded(held, result, guard=guard):
        count(feature, held)


def count(
    feature: Feature, held: Holder | None, stated: Stated = NOTHING, span: Span | Exception | None = None
) -> None:
    """Hand one use over, or keep it for the transaction of `span`. Raises only what the recorder raises, which is
    nothing unless it is strict, and the error of a database that has ended the host's transaction."""
    if held is not None and held.silent:
        return
    notice_fork()
    user, metadata, measures = stated
    if user is UNSET:
        user = _user_of(held)
    if isinstance(user, Exception):
        feature.catalog.recorder.reject(feature.name, user)
        return
    if user is UNSET:
        return
    request = request_of(held)
    if request is not None:
        request.counted.add(feature.key)
        if user is not request.noted:
            request.note_user(user)
    if span is None and measures is NO_MEASURES and not isinstance(metadata, Exception):  # the usual ones
        if metadata is None:
            feature.append(user)
        else:
            feature.catalog.recorder.record(Use(feature.name, user, metadata))
        return
    kept = None if isinstance(metadata, Exception) else metadata
    by = NO_MEASURES if isinstance(measures, Exception) else measures
    if span is not None:
        _keep(feature, user, kept, by, span)
    elif kept is None and by is NO_MEASURES:
        feature.append(user)
    else:
        feature.catalog.recorder.record(Use(feature.name, user, kept, 1, None, None, *by))
    _lose(feature.catalog.recorder, feature.name, metadata, measures)


def _lose(recorder: Recorder, feature: str, *parts: object) -> None:
    """Report what could not be read of a use that is recorded."""
    for part in parts:
        if isinstance(part, Exception):
            recorder.lose_metadata(feature, part)


def _keep(feature: Feature, user: UserId, metadata: Kept, by: Measures, span: Span | Exception) -> None:
    recorder = feature.catalog.recorder
    unbound: UsageInstrumentError | None = None
    try:
        if isinstance(span, Exception):
            raise span
        if not span.keep(recorder, Use(feature.name, user, metadata, 1, None, now(), *by)):
            unbound = no_transaction(feature.name, span.commit)
    except TransactionLostError as lost:
        raise lost.error from None
    except Exception as error:  # what was passed is no session, or the host's session raises
        recorder.reject(feature.name, error)
    if unbound is not None:
        recorder.complain(unbound)


def _user_of(held: Holder | None) -> UserId | Unset | Exception:
    try:
        return None if held is None else held.capture_user()
    except Exception as error:  # a refused statement, or the host's own lookup
        return error


class Capture:
    """Counts the calls of one tracked function.

    `counts` is the verdict of `succeeded` that makes a call a use; None counts each call as it begins. `guard` is the
    access decorator below `tracks`, if any.
    """

    __slots__ = ("begin", "counts", "feature", "guard")

    failures: type[BaseException] = Exception

    def __init__(self, feature: Feature, read: ReadCall, counts: bool | None, guard: Guard | None) -> None:
        self.feature = feature
        self.begin = read
        self.counts = counts
        self.guard = guard

    def called(self, args: Args, kwargs: Kwargs) -> None:
        """Count a call that begins."""
        count(self.feature, holder.get(), self.begin(args, kwargs))

    def returned(self, stated: Stated, result: object = None) -> None:
        """Count a call that ended without an exception."""
        held = holder.get()
        if succeeded(held, result, guard=self.guard) is self.counts:
            count(self.feature, held, stated)

    def raised(self, stated: Stated, error: BaseException) -> None:
        """Count a call that ended with an exception. The caller sees that exception."""
        if self.counts is not False:
            return
        try:
            count(self.feature, holder.get(), stated)
        except Exception as mistake:  # strict
            _add_mistake(error, mistake)


class BoundCapture:
    """As Capture, for calls that count if their transaction commits."""

    __slots__ = ("_begin_span", "_read", "counts", "feature", "guard")

    failures: type[BaseException] = Exception

    def __init__(
        self, feature: Feature, read: ReadCall, counts: bool | None, guard: Guard | None, begin_span: BeginSpan
    ) -> None:
        self.feature = feature
        self.counts = counts
        self.guard = guard
        self._read = read
        self._begin_span = begin_span

    def begin(self, args: Args, kwargs: Kwargs) -> tuple[Stated, Span | Exception | None]:
        """Read the arguments of a call that begins."""
        return self._read(args, kwargs), self._begin_span(args, kwargs)

    def called(self, args: Args, kwargs: Kwargs) -> None:
        """As Capture.called."""
        count(self.feature, holder.get(), *self.begin(args, kwargs))

    def returned(self, begun: tuple[Stated, Span | Exception | None], result: object = None) -> None:
        """As Capture.returned."""
        held = holder.get()
        if succeeded(held, result, guard=self.guard) is self.counts:
            count(self.feature, held, *begun)

    def raised(self, begun: object, error: BaseException) -> None:
        """As Capture.raised: a failure counts nothing."""


def _add_mistake(error: BaseException, mistake: Exception) -> None:
    error.add_note(f"usage-instrument: {type(mistake).__name__}: {mistake}")


# ---- accesses


def new_access(outcome: Outcome) -> Access:
    """An access that happens now, by the request that runs here. Never raises."""
    request, id_ = current_request(), None
    try:
        if request is not None and request.info is not None:
            id_ = request_id(request.info)
    except Exception:  # the host's request
        log.debug("cannot read the id of a request", exc_info=True)
    return Access(uuid4(), outcome, time.time_ns() // 1000, acting_user(), id_)


def acting_user() -> UserId:
    """The user who acts as the current one, as stated or as the request's session says; None if nobody does.

    Never raises.
    """
    actor, request = known_actor(), current_request()
    try:
        if actor is UNSET and request is not None and request.info is not None:
            actor = impersonator(request.info)
    except Exception:  # the host's request
        log.debug("cannot read the actor of a request", exc_info=True)
    return None if actor is UNSET else actor


def attempted(feature: str, access: Access, user: UserId | Exception, metadata: Kept | Exception) -> Use:
    """The access to admit. Raises AuditUnavailable if its user is not known."""
    if isinstance(user, Exception):
        raise AuditUnavailable.of(feature, describe(user)) from user
    return Use(feature, user, None if isinstance(metadata, Exception) else metadata, 0, access)


def ended(
    recorder: Recorder,
    feature: str,
    access: Access,
    user: UserId | Exception,
    metadata: Kept | Exception,
    uses: int = 0,
    measures: Measures | Exception = NO_MEASURES,
) -> None:
    """Record an access with its outcome, and its uses. A bad user or bad metadata never loses the access."""
    if isinstance(user, Exception):
        recorder.record(Use(feature, None, {"usage_instrument": f"user: {describe(user)}"}, 0, access))
        if uses:
            recorder.reject(feature, user)
        return
    by = NO_MEASURES if isinstance(measures, Exception) else measures
    recorder.record(Use(feature, user, None if isinstance(metadata, Exception) else metadata, uses, access, None, *by))
    _lose(recorder, feature, metadata, measures)


class Attempt(NamedTuple):
    """An audited call that has begun."""

    stated: Stated
    access: Access
    is_admitted: bool
    span: Span | Exception | None


class AuditedCapture:
    """Records the accesses to one feature, and counts those that are uses. `counts` and `guard` are those of Capture.

    With `required`, an access is committed to the audit trail before it happens.
    """

    __slots__ = ("begin_span", "counts", "feature", "guard", "read", "required")

    failures: type[BaseException] = BaseException

    def __init__(
        self,
        feature: Feature,
        read: ReadCall,
        counts: bool | None,
        guard: Guard | None,
        begin_span: BeginSpan | None,
        *,
        required: bool,
    ) -> None:
        self.feature = feature
        self.read = read
        self.counts = counts
        self.guard = guard
        self.begin_span = begin_span
        self.required = required

    def begin(self, args: Args, kwargs: Kwargs) -> Attempt:
        """Record that a call begins. Raises AuditUnavailable: then the call must not happen."""
        attempt = self.open(args, kwargs)
        if self.required and not attempt.is_admitted:
            self.feature.catalog.recorder.admit(self._attempted(attempt))
        self._count_call(attempt)
        return attempt

    def open(self, args: Args, kwargs: Kwargs) -> Attempt:
        """The call, before `admit`."""
        stated = self.read(args, kwargs)
        notice_fork()
        request = request_of(holder.get())
        access = None if request is None else request.take_access(self.feature.key)  # admitted by a middleware
        span = None if self.begin_span is None else self.begin_span(args, kwargs)
        return Attempt(stated, new_access("attempted") if access is None else access, access is not None, span)

    async def admit(self, attempt: Attempt) -> None:
        """The rest of `begin`, without blocking the event loop. Raises AuditUnavailable."""
        if self.required and not attempt.is_admitted:
            await self.feature.catalog.recorder.aadmit(self._attempted(attempt))
        self._count_call(attempt)

    def _attempted(self, attempt: Attempt) -> Use:
        return attempted(self.feature.name, attempt.access, _audited_user(attempt.stated), attempt.stated[1])

    def _count_call(self, attempt: Attempt) -> None:
        if self.counts is None:
            count(self.feature, holder.get(), attempt.stated, attempt.span)

    def returned(self, attempt: Attempt, result: object = None) -> None:
        """Record a call that ended without an exception."""
        held = holder.get()
        guard = self.guard
        is_use = self.counts is not None and succeeded(held, result, guard=guard) is self.counts
        self._record(attempt, outcome_of(held, result, guard=guard), is_use)

    def raised(self, attempt: Attempt, error: BaseException) -> None:
        """Record a call that ended with an exception. The caller sees that exception."""
        try:
            is_use = self.counts is False and isinstance(error, Exception)
            self._record(attempt, outcome_of_error(error), is_use)
        except Exception as mistake:  # strict
            _add_mistake(error, mistake)

    def _record(self, attempt: Attempt, outcome: Outcome, is_use: bool) -> None:
        held, feature = holder.get(), self.feature
        is_use = is_use and (held is None or not held.silent)
        request = request_of(held)
        if request is not None:
            request.mark_access(feature.key)
            if is_use:
                request.counted.add(feature.key)
        is_kept, user = is_use and attempt.span is not None, _audited_user(attempt.stated)
        if request is not None and not isinstance(user, Exception):
            request.note_user(user)
        ended(
            feature.catalog.recorder,
            feature.name,
            attempt.access._replace(outcome=outcome),
            user,
            attempt.stated[1],
            int(is_use and not is_kept),
            attempt.stated[2] if is_use and not is_kept else NO_MEASURES,
        )
        if is_kept:
            count(feature, held, attempt.stated, attempt.span)


def _audited_user(stated: Stated) -> Any:
    """The user, or an Exception. A paused or discarded capture is an access all the same."""
    user = stated[0]
    if user is not UNSET:
        return user
    try:
        return known_user()
    except Exception as error:  # a refused statement, or the host's own lookup
        return error
