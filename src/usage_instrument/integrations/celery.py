"""Celery: tasks that succeed become uses of the user whose request sent them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Token
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakKeyDictionary

from celery import signals

from usage_instrument.capture.context import Holder, Request, holder, known_user
from usage_instrument.capture.registry import Recorder
from usage_instrument.errors import UserIdError
from usage_instrument.runtime import log
from usage_instrument.typing import Metadata, UserId
from usage_instrument.web.options import Features
from usage_instrument.web.request_counter import PendingUse, RequestCounter, RouteFeature
from usage_instrument.web.routes import Route

if TYPE_CHECKING:
    from celery import Celery, Task

__all__ = ["instrument"]

HEADER = "usage_instrument_user"
"""The header with the user of a request for its tasks: the type and the id, such as `int:42`."""
_TYPES: dict[str, Callable[[str], UserId]] = {"uuid": UUID, "int": int, "str": str}
_counters: WeakKeyDictionary[Celery, RequestCounter] = WeakKeyDictionary()


def instrument(
    app: Celery,
    *,
    tracker: Recorder | None = None,
    features: Features | None = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    user: Callable[[Task], object] | None = None,
    metadata: Metadata | Callable[[Task], Metadata | None] | None = None,
) -> None:
    """Count each success of a task of `app` under the task's name, in workers and in processes that call the task.

    The user of a task is the user of the code that sends it. A header of the message carries the id, also to the tasks
    that the task sends. The options are those of the middlewares; callables get the task, and patterns match its name.
    Celery's own tasks (`celery.*`) count only if `features` names them. Retries, failures and rejections do not count;
    a task that is delivered twice and succeeds twice counts twice. A worker's processes write what is pending at exit.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError and MetadataError (TypeErrors).
    """
    if app in _counters:
        log.warning(
            ("instrumented", app.main), "the Celery app %r is instrumented already; the new options hold", app.main
        )
    if not isinstance(exclude, str):
        exclude = ("celery.*", *(exclude or ()))
    _counters[app] = RequestCounter(
        {
            "tracker": tracker,
            "features": features,
            "include": include,
            "exclude": exclude,
            "user": user,
            "metadata": metadata,
        },
        _anonymous,
    )
    for signal, receiver in (
        (signals.before_task_publish, _stamp),
        (signals.task_prerun, _begin),
        (signals.task_success, _succeed),
        (signals.task_postrun, _end),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=f"usage_instrument.{receiver.__name__}")


def _stamp(headers: dict[str, Any] | None = None, **_: object) -> None:
    """Write the user into the headers of a task that is sent."""
    if headers is None:
        return
    try:
        user = known_user()
    except UserIdError:
        headers[HEADER] = "refused"  # the worker rejects its uses, instead of counting them as anonymous
    else:
        if user is not None:
            headers[HEADER] = f"{type(user).__name__.lower()}:{user}"


def _begin(task: Task, **_: object) -> None:
    """Open the request of a task, in the thread and the context in which it runs."""
    counter = _counters.get(task.app)
    if counter is None:
        return
    outer = holder.get()  # set only for a task that runs eagerly
    request = Request("task", lookup=None if outer is None else lambda _: outer.known_user())
    if outer is not None and outer.silent:
        request.discard()
    sent_for = task.request.get(HEADER) or (task.request.headers or {}).get(HEADER)
    if sent_for is not None:
        _identify(request, sent_for)
    if counter.user is not None:
        request.set_lookup(lambda: counter.find_user(task))
    task.request.usage_instrument = request, holder.set(request)


def _identify(request: Request, sent_for: object) -> None:
    kind, _, text = str(sent_for).partition(":")
    try:
        request.identify(_TYPES[kind](text))
    except (KeyError, ValueError):
        request.refuse(UserIdError(f"the header {HEADER} of a task holds no user id"))


def _succeed(sender: Task, **_: object) -> None:
    counter, request = _counters.get(sender.app), _request_of(sender)
    if counter is None or request is None:
        return
    found = None
    try:
        found = _feature_of(counter, sender)
        use = PendingUse(request, sender)
        counter.decide(use, found)
        if use.is_pending:
            counter.record(use)
    except Exception as error:
        counter.failed(error, found)


def _end(task: Task, **_: object) -> None:
    counter, request = _counters.get(task.app), _request_of(task)
    if counter is None or request is None:
        return
    token: Token[Holder | None] = task.request.usage_instrument[1]
    try:
        holder.reset(token)
    except ValueError:  # the pool has moved the task to another context
        pass
    request.close()
    counter.ended()


def _request_of(task: Task) -> Request | None:
    kept = task.request.get("usage_instrument")
    return None if kept is None else kept[0]


def _feature_of(counter: RequestCounter, task: Task) -> RouteFeature:
    found = counter.routes.get(task.name)
    if found is None:
        found = counter.feature_of(Route(task.name, (task.name,), task.name, task.run), "", task)
        counter.remember(task.name, found)
    return found


def _anonymous(task: Task) -> UserId:
    return None
