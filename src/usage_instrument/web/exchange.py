"""One request and its response, from the call of the middleware to the end of the response's body."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator, MutableMapping
from enum import Enum
from functools import partial
from logging import ERROR
from typing import Any

from usage_instrument.capture.context import SCOPE_KEY, Holder, Override, Request, RequestKind, holder, standing
from usage_instrument.capture.outcome import outcome_of_error, outcome_of_response
from usage_instrument.capture.recording import attempted, ended, new_access
from usage_instrument.capture.request_info import header_of, is_automatic, method_overrides
from usage_instrument.errors import AuditUnavailable
from usage_instrument.events import Access, Use
from usage_instrument.runtime import log
from usage_instrument.typing import Outcome

from .request_counter import Carrier, PendingUse, RequestCounter, RouteFeature
from .routes import WEBSOCKET

_ENDS = (StopIteration, StopAsyncIteration)
_ENDS_APART = 0.05
"""Seconds between two ends of requests that revive a writer."""
_now = time.monotonic


class Exchange(PendingUse):
    """One request and its response. A subclass for each interface finds the route.

    The use is pending until the first piece of the body: the app may fail before, or start another response.
    """

    __slots__ = ("audit", "counter", "holder", "is_ours", "outer", "shelf")

    counts_at_start = False
    """Whether a use is recorded as soon as the response starts, since the app cannot start another one."""

    def __init__(
        self, counter: RequestCounter, kind: RequestKind, method: str, carrier: Carrier, shelf: MutableMapping[str, Any]
    ) -> None:
        """The shelf, a scope or environ, holds the Request for all middlewares: one further out may have put it there,
        and then ends it. The callables get the carrier, which is mostly the same object."""
        # Without super() and helpers: this runs for each request.
        self.counter = counter
        self.carrier = carrier
        self.shelf = shelf
        self.is_pending = False
        self.outer: Request | None = None
        """The request whose app dispatches this one with a copy of its scope or environ, as a batch endpoint does."""
        self.is_ours = True
        shared: Any = shelf.get(SCOPE_KEY)
        if type(shared) is Request and shared.open:
            request = self._join(shared, kind, method)
        else:
            request = Request(kind, method, counter.find_user, carrier)
            request.counters = counter.alone
        shelf[SCOPE_KEY] = self.request = request
        if self.is_ours and is_automatic(shelf):
            request.discard()
        outer = standing(holder.get())
        # Below the `as_user` or `paused` around the middleware. An override of another request is a leftover of the
        # task or thread that started this one.
        self.holder: Holder = request
        if type(outer) is Override and outer.request in (None, request, self.outer):
            self.holder = outer.over(request)
        self.audit = None if counter.policy is None else RequestAudit()

    def _join(self, shared: Request, kind: RequestKind, method: str) -> Request:
        """The request of the middleware further out, or a new one if this middleware has seen that already."""
        counter, carrier = self.counter, self.carrier
        if counter in shared.counters:
            self.outer = shared
            request = Request(kind, method, counter.find_user, carrier)
            request.counters = counter.alone
            request.add_lookup(shared.known_user)
            return request
        self.is_ours = False
        shared.counters += (counter,)
        look = shared.add_lookup if counter.user is None else shared.set_lookup
        look(partial(counter.find_user, carrier))
        shared.info = carrier
        return shared

    def route_feature(self) -> RouteFeature:
        """What the route counts as, once the framework has found it."""
        raise NotImplementedError

    def paths(self) -> Iterable[str]:
        """The path of the request, below each root that the app may know."""
        raise NotImplementedError

    # ---- its response

    def started(self, status: int | None, headers: Iterable[tuple[Any, Any]] = ()) -> None:
        """The response starts, or a WebSocket is accepted, without a status: decide whether the request is a use. No
        exception of ours leaves."""
        self.is_pending = False
        counter, request, location, route = self.counter, self.request, "", None
        request.succeeded = status is None or status < 400
        try:
            if status is not None and 300 <= status < 400:
                location = header_of(headers, "location")
            if self.audit is not None:
                self.answered("success" if status is None else outcome_of_response(request, status, location))
            if request.discarded:
                return
            if (
                status is None
                or (counter.success is None and 200 <= status < 300)
                or counter.succeeded(request, self.carrier, status, location)
            ):
                route = self.route_feature()
                counter.decide(self, route)
                if self.is_pending and self.counts_at_start and status is not None:
                    counter.record(self)
        except Exception as error:
            counter.failed(error, route)

    def malformed(self, error: Exception) -> None:
        """The response starts with an invalid status: reject the use. The server gets the response and raises its own
        error."""
        self.is_pending = self.request.succeeded = False
        self.answered("failed")
        if not self.request.discarded:
            self.counter.failed(error)

    def complete(self) -> None:
        """Record what is pending, in the request's context: a rule of the app's may ask for the user."""
        if self.is_pending:
            try:  # not `guarding`, which costs as much as all the rest
                self.counter.record(self)
            except Exception as error:
                self.counter.failed(error)
        if self.audit is not None:
            self.end_audit()

    def fail(self, error: BaseException) -> None:
        """The app failed before its response, or before the first piece of the body; in the request's context."""
        self.is_pending = self.request.succeeded = False
        if self.audit is not None:
            self.end_audit(error)

    def end(self) -> None:
        """The response is complete."""
        if self.is_pending or self.audit is not None:
            token = holder.set(self.holder)
            try:
                self.complete()
            finally:
                holder.reset(token)
        if self.is_ours:
            self.close_request()

    def close_request(self) -> None:
        """The request is over: from now on it identifies nobody."""
        request = self.request
        if request.succeeded:
            self._confirm_users()
        request.close()
        # Frameworks leave scope and environ to the garbage collector, so that they must form no cycle with the request.
        if self.outer is None:
            self.shelf.pop(SCOPE_KEY, None)
        else:
            self.shelf[SCOPE_KEY] = self.outer
        counter, now = self.counter, _now()
        if now >= counter.next_end:  # not for each of many requests
            counter.next_end = now + _ENDS_APART
            counter.ended()

    def _confirm_users(self) -> None:
        """What the request wrote for its users is committed, or will be with the request that dispatched it."""
        users = self.request.users
        if not users:
            return
        if self.outer is not None:
            for user in users:
                self.outer.note_user(user)
            return
        for counter in self.request.counters:
            counter.confirm(users)

    # ---- its accesses

    def _features(self) -> Collection[str]:
        return self.counter.audited_features(
            self.route_feature(), self.carrier, self.paths(), self.request.method or WEBSOCKET
        )

    def foreseen(self) -> Collection[str]:
        """The audited features that the request may lead to, before the app is called. May raise what the host's
        callables raise."""
        policy = self.counter.policy
        if policy is None:
            return ()
        methods = {self.request.method or WEBSOCKET, *method_overrides(self.carrier)}
        return tuple(dict.fromkeys(name for method in methods for name in policy.at(self.paths(), method)))

    def admit(self) -> None:
        """Commit the attempts to what is required, before the app is called. Raises AuditUnavailable: then the app
        must not be called."""
        for use, key in self._attempts():
            self.counter.recorder.admit(use)
            self.request.open_access(key, use.access)

    async def admit_async(self) -> None:
        """As admit, without blocking the event loop."""
        for use, key in self._attempts():
            await self.counter.recorder.aadmit(use)
            self.request.open_access(key, use.access)

    def _attempts(self) -> Iterator[tuple[Use, object]]:
        counter, request, policy = self.counter, self.request, self.counter.policy
        if policy is None or not policy.required:
            return
        try:
            names = self.foreseen()
        except Exception as error:  # of a callable of the host's that names features
            raise AuditUnavailable(
                f"whether the request must be recorded first is unknown: {type(error).__name__} raised"
            ) from error
        for name in dict.fromkeys(names):
            key = policy.keys[name]
            if name in policy.required and not request.has_access(key):
                request.mark_access(key)  # also if it is refused: nothing else of it is recorded then
                yield attempted(name, new_access("attempted"), *counter.subject(request, self.carrier)), key

    def answered(self, outcome: Outcome) -> None:
        """The app has answered: the route is known, if ever."""
        if self.audit is not None:
            with self.counter.guarding():
                self.audit.answered(outcome, self._features())

    def end_audit(self, error: BaseException | None = None) -> None:
        """Record the outcome, once: the answer's, or the failure's."""
        audit = self.audit
        if audit is None or audit.state is State.RECORDED:
            return
        with self.counter.guarding():
            names = audit.names if audit.state is State.ANSWERED else self._features()
            audit.state = State.RECORDED
            outcome = audit.outcome if error is None else outcome_of_error(error)
            for name, access in self._accesses(names, outcome):
                ended(self.counter.recorder, name, access, *self.counter.subject(self.request, self.carrier))

    def _accesses(self, names: Collection[str], outcome: Outcome) -> Iterator[tuple[str, Access]]:
        """The accesses that were admitted, and those to `names` that nothing else has recorded."""
        request, policy, audit = self.request, self.counter.policy, self.audit
        if policy is None or audit is None:
            return
        for name, key in policy.keys.items():
            opened = request.take_access(key)
            if opened is None and (name not in names or request.has_access(key)):
                continue
            request.mark_access(key)
            access = new_access(outcome)
            if opened is not None:
                yield name, access._replace(id=opened.id, occurred_at=opened.occurred_at)
                continue
            if name in policy.required:
                log.once(
                    ("unforeseen", name),
                    "audit= requires %r, and a request reached it by a path that features= does not name: it was "
                    "recorded only afterwards. Name all its paths in features=",
                    name,
                    level=ERROR,
                )
            yield name, access._replace(occurred_at=audit.began)


class State(Enum):
    """Of the audit of one request: open → answered → recorded; a failure leads from each to recorded."""

    OPEN = "no answer yet"
    ANSWERED = "the outcome and the features are known"
    RECORDED = "the outcome is recorded"


class RequestAudit:
    """What is known of the accesses that one request is."""

    __slots__ = ("began", "names", "outcome", "state")

    def __init__(self) -> None:
        self.state = State.OPEN
        self.outcome: Outcome = "failed"
        self.names: Collection[str] = ()
        self.began = time.time_ns() // 1000
        """In microseconds since 1970."""

    def answered(self, outcome: Outcome, names: Collection[str]) -> None:
        """The app has answered; it may start another answer instead, until the outcome is recorded."""
        if self.state is not State.RECORDED:
            self.state, self.outcome, self.names = State.ANSWERED, outcome, names


class BodyExchange(Exchange):
    """An exchange that is the iterable body of its response; with the first piece, the request is a use."""

    __slots__ = ("body", "iterator")

    body: Iterable[bytes]
    iterator: Iterator[bytes] | None

    def __iter__(self) -> BodyExchange:
        return self

    def __next__(self) -> bytes:
        token = holder.set(self.holder)
        try:
            if self.iterator is None:
                self.iterator = iter(self.body)
            piece = next(self.iterator)
            if self.is_pending or self.audit is not None:
                self.complete()
                if self.is_ours and self.request.succeeded:  # most apps have ended, and test clients close no body
                    self._confirm_users()
            return piece
        except BaseException as error:
            self.stopped(error)
            raise
        finally:
            self.holder = holder.get() or self.holder  # it may be in the middle of its `with as_user(...)`
            holder.reset(token)

    def close(self) -> None:
        """Close the body as the server does, maybe before it reads any of it."""
        token = holder.set(self.holder)
        try:
            # Drop what the server would have dropped by now: the app, the body and this object may form a cycle.
            self.iterator = None
            close = getattr(self.body, "close", None)
            if close is None:
                self.body = ()
            else:
                close()
        finally:
            holder.reset(token)
            self.end()

    def stopped(self, error: BaseException) -> None:
        """The body raised: StopIteration at its end, or the app's own exception."""
        if isinstance(error, _ENDS):
            self.complete()
        else:
            self.fail(error)


class AsyncBody:
    """The async body of an exchange's response."""

    __slots__ = ("_body", "_exchange", "_iterator")

    def __init__(self, exchange: BodyExchange, body: AsyncIterable[bytes]) -> None:
        self._exchange = exchange
        self._body = body
        self._iterator: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncBody:
        return self

    async def __anext__(self) -> bytes:
        exchange = self._exchange
        token = holder.set(exchange.holder)
        try:
            if self._iterator is None:
                self._iterator = aiter(self._body)
            piece = await anext(self._iterator)
            exchange.complete()
            return piece
        except BaseException as error:
            exchange.stopped(error)
            raise
        finally:
            exchange.holder = holder.get() or exchange.holder
            holder.reset(token)

    def close(self) -> None:
        """The response is complete, whether or not all of it was read."""
        self._exchange.end()
