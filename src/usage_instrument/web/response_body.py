"""The body of a response, made piece by piece in its request's context; with its first piece, the request is a use."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

from usage_instrument.capture.context import Holder, Request, holder

from .audit_policy import RequestAudit
from .request_counter import Carrier, Counter, Pending


class Exchange:
    """One request and its response, until that is complete."""

    __slots__ = ("_carrier", "_counter", "_is_ours", "_request", "audit", "holder", "pending")

    def __init__(self, counter: Counter, request: Request, is_ours: bool, carrier: Carrier) -> None:
        self._counter = counter
        self._request = request
        self._is_ours = is_ours
        self._carrier = carrier
        self.holder: Holder = counter.holder_for(request)
        self.pending: Pending | None = None
        """The use that this is, unless the app fails before its first piece, or starts another response instead."""
        self.audit: RequestAudit | None = None
        """The accesses that this is, with `audit=`; they are told together with the use, or with the failure."""

    def end(self) -> None:
        """The response is complete."""
        if self.pending is not None or self.audit is not None:
            token = holder.set(self.holder)
            try:
                self.count()
            finally:
                holder.reset(token)
        if self._is_ours:
            self._counter.ended(self._request, self._carrier)

    def count(self) -> None:
        """Count the pending use, in the request's context: a rule of the app's asks whose request this is."""
        pending, self.pending = self.pending, None
        if pending is not None:
            try:  # not `guarding`, which costs as much as all the rest
                self._counter.count(self._request, pending)
            except Exception as error:
                self._counter.failed(error)
        if self.audit is not None:
            with self._counter.guarding():
                self.audit.end()

    def fail(self, error: BaseException) -> None:
        """The app failed before the first piece of its response, if that had not been told; in its context."""
        self.pending = None
        if self.audit is not None:
            with self._counter.guarding():
                self.audit.failed(error)


class Body(Exchange):
    """An exchange that hands on the pieces of `body`."""

    __slots__ = ("_iterator", "body")

    def __init__(
        self, counter: Counter, request: Request, is_ours: bool, carrier: Carrier, body: Iterable[bytes] = ()
    ) -> None:
        super().__init__(counter, request, is_ours, carrier)
        self.body = body
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        token = holder.set(self.holder)
        try:
            if self._iterator is None:
                self._iterator = iter(self.body)
            piece = next(self._iterator)
        except StopIteration:
            self.count()
            raise
        except BaseException as error:
            self.fail(error)
            raise
        else:
            if self.pending is not None or self.audit is not None:
                self.count()
            return piece
        finally:
            self.holder = holder.get() or self.holder  # it may be in the middle of its `with as_user(...)`
            holder.reset(token)

    def close(self) -> None:
        """Close the body as its server does, maybe before reading any of it."""
        token = holder.set(self.holder)
        try:
            # Let go of what the server would have let go of by now: app, body and this one may refer to each other.
            self._iterator = None
            close = getattr(self.body, "close", None)
            if close is None:
                self.body = ()
            else:
                close()
        finally:
            holder.reset(token)
            self.end()


class AsyncBody(Exchange):
    """An exchange that hands on the pieces of an async `body`."""

    __slots__ = ("_iterator", "body")

    def __init__(
        self, counter: Counter, request: Request, is_ours: bool, carrier: Carrier, body: AsyncIterable[bytes]
    ) -> None:
        super().__init__(counter, request, is_ours, carrier)
        self.body = body
        self._iterator: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncBody:
        return self

    async def __anext__(self) -> bytes:
        token = holder.set(self.holder)
        try:
            if self._iterator is None:
                self._iterator = aiter(self.body)
            piece = await anext(self._iterator)
        except StopAsyncIteration:
            self.count()
            raise
        except BaseException as error:
            self.fail(error)
            raise
        else:
            if self.pending is not None or self.audit is not None:
                self.count()
            return piece
        finally:
            self.holder = holder.get() or self.holder  # it may be in the middle of its `with as_user(...)`
            holder.reset(token)

    def close(self) -> None:
        """The response is complete, whether or not all of it was read."""
        self.end()
