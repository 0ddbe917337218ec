"""Tasks of any queue: one that succeeds becomes a use of the user whose request sent it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextvars import Token
from decimal import Decimal
from typing import Any, Generic, TypedDict, TypeVar, cast
from uuid import UUID

from usage_instrument.capture.context import Holder, Request, holder, known_user
from usage_instrument.capture.recording import acting_user
from usage_instrument.capture.registry import Recorder
from usage_instrument.errors import UserIdError
from usage_instrument.typing import UNSET, Metadata, UserId
from usage_instrument.web.options import Features, MiddlewareOptions, check_names
from usage_instrument.web.request_counter import PendingUse, RequestCounter, RouteFeature
from usage_instrument.web.routes import Route

T = TypeVar("T")

HEADER = "usage_instrument_user"
"""The header of a message with the user: the type and the id, such as `int:42`."""
ACTOR = "usage_instrument_actor"
"""The header with who acts as that user, spelled alike; absent if nobody does."""
_REFUSED = "refused"
_TYPES: dict[str, Callable[[str], UserId]] = {"uuid": UUID, "int": int, "str": str}


class TaskOptions(TypedDict, Generic[T], total=False):
    """The options for the tasks of a queue, as those of the middlewares. Callables get a T, the queue's own task;
    patterns match its name."""

    tracker: Recorder | None
    features: Features | None
    include: Iterable[str] | None
    exclude: Iterable[str] | None
    user: Callable[[T], object] | None
    metadata: Metadata | Callable[[T], Metadata | None] | None
    dimensions: Mapping[str, object] | Callable[[T], Mapping[str, object] | None] | None
    value: float | Decimal | Callable[[T], float | Decimal | None] | None


def stamp(headers: MutableMapping[str, Any]) -> None:
    """Write the user and the actor into the headers of a message that is sent; a message that is sent again keeps its
    own. Raises nothing."""
    if HEADER in headers:
        return
    try:
        user, actor = known_user(), acting_user()
    except UserIdError:
        headers[HEADER] = _REFUSED  # the worker rejects its uses, instead of counting them as anonymous
        return
    if user is not None:
        headers[HEADER] = _spelled(user)
        if actor is not None:
            headers[ACTOR] = _spelled(actor)


class TaskCounter:
    """The options for the tasks of one queue, applied.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError, MetadataError and TypeError.
    """

    def __init__(self, options: TaskOptions[Any]) -> None:
        check_names(options, frozenset(TaskOptions.__annotations__))
        self.requests = RequestCounter(cast(MiddlewareOptions[Any], options), _anonymous)

    def begin(self, task: object, headers: Mapping[str, Any]) -> TaskRun:
        """Open the request of a task, in the thread and the context in which it runs."""
        outer = holder.get()  # set only for a task that runs where it is sent
        request = Request("task", lookup=None if outer is None else lambda _: outer.known_user())
        if outer is not None and outer.silent:
            request.discard()
        if headers.get(HEADER) is not None:
            _identify(request, headers)
        if self.requests.user is not None:
            request.set_lookup(lambda: self.requests.find_user(task))
        return TaskRun(self.requests, task, request)


class TaskRun:
    """One task while it runs."""

    def __init__(self, counter: RequestCounter, task: object, request: Request) -> None:
        self._counter = counter
        self._task = task
        self._request = request
        self._token: Token[Holder | None] | None = holder.set(request)

    def succeed(self, name: str, function: object) -> None:
        """Count the task, under its name unless the options or a decorator of its function say otherwise."""
        counter, found = self._counter, None
        self._request.succeeded = True
        try:
            found = self._feature(name, function)
            use = PendingUse(self._request, self._task)
            counter.decide(use, found)
            if use.is_pending:
                counter.record(use)
        except Exception as error:
            counter.failed(error, found)

    def _feature(self, name: str, function: object) -> RouteFeature:
        counter = self._counter
        return counter.routes.get(name) or counter.remember(
            name, counter.feature_of(Route(name, (name,), name, function), "")
        )

    def end(self) -> None:
        """The task is over: from now on it identifies nobody. A second call does nothing."""
        token, self._token = self._token, None
        if token is None:
            return
        try:
            holder.reset(token)
        except ValueError:  # the pool has moved the task to another context
            pass
        if self._request.succeeded and (users := self._request.users):
            self._counter.confirm(users)
        self._request.close()
        self._counter.ended()


def _spelled(user: UserId) -> str:
    return f"{type(user).__name__.lower()}:{user}"


def _read(text: object) -> UserId:
    kind, _, id_ = str(text).partition(":")
    return _TYPES[kind](id_)


def _identify(request: Request, headers: Mapping[str, Any]) -> None:
    try:
        actor = headers.get(ACTOR)
        request.identify(_read(headers[HEADER]), UNSET if actor is None else _read(actor))
    except Exception:  # another program wrote them
        request.refuse(UserIdError(f"the headers {HEADER} and {ACTOR} of a task hold no user ids"))


def _anonymous(task: object) -> UserId:
    return None
