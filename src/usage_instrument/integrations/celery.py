"""Celery: tasks that succeed become uses, of the user in whose request they were sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextvars import Token
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakKeyDictionary

from celery import signals

from usage_instrument.capture.context import Holder, Request, holder, known_user
from usage_instrument.capture.registry import Recorder
from usage_instrument.errors import UserIdError
from usage_instrument.typing import Metadata, UserId
from usage_instrument.web.request_counter import Counter, Target
from usage_instrument.web.routes import Route
from usage_instrument.web.rules import Features

if TYPE_CHECKING:
    from celery import Celery, Task

logger = logging.getLogger("usage_instrument")

HEADER = "usage_instrument_user"
"""The header that carries the user of a request to its tasks: the type and the id, such as `int:42`."""
_TYPES: dict[str, Callable[[str], UserId]] = {"uuid": UUID, "int": int, "str": str}
_counters: WeakKeyDictionary[Celery, Counter] = WeakKeyDictionary()


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
    """Count each success of a task of `app` under the task's name, in its workers and wherever it is imported.

    Who sends a task is its user: `as_user`, `identify` or the framework said so, and a header of the message carries
    it, also to the tasks that the task sends. The options are those of the middlewares; they meet the task instead of
    a scope, with its `request`, and its name instead of a route's. Celery's own tasks (`celery.*`) count only if
    `features` names them. A retry, a failure and a rejection are no use, and a task that is delivered twice and
    succeeds twice is two. The processes of a worker write what is pending when they end.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError and MetadataError (TypeErrors).
    """
    if app in _counters:
        logger.warning("the Celery app %r is instrumented already; the options of now hold", app.main)
    if not isinstance(exclude, str):
        exclude = ("celery.*", *(exclude or ()))
    _counters[app] = Counter(tracker, features, include, exclude, user, metadata, None, _nobody)
    for signal, receiver in (
        (signals.before_task_publish, _stamp),
        (signals.task_prerun, _begin),
        (signals.task_success, _succeed),
        (signals.task_postrun, _end),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=f"usage_instrument.{receiver.__name__}")


def _stamp(headers: dict[str, Any] | None = None, **_: object) -> None:
    """A task is sent: say for whom."""
    if headers is None:
        return
    try:
        user = known_user()
    except UserIdError:
        headers[HEADER] = "refused"  # and so will its uses be there, instead of being nobody's
    else:
        if user is not None:
            headers[HEADER] = f"{type(user).__name__.lower()}:{user}"


def _begin(task: Task, **_: object) -> None:
    """A task begins, in the thread and the context in which it runs."""
    counter = _counters.get(task.app)
    if counter is None:
        return
    outer = holder.get()  # only of a task that runs in place of being sent
    request: Request = Request("task", lookup=None if outer is None else outer.known_user)
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
    target = None
    try:
        target = _target(counter, sender)
        use = counter.weigh(request, sender, target)
        if use is not None:
            counter.count(request, use)
    except Exception as error:
        counter.failed(error, target)


def _end(task: Task, **_: object) -> None:
    counter, request = _counters.get(task.app), _request_of(task)
    if counter is None or request is None:
        return
    token: Token[Holder | None] = task.request.usage_instrument[1]
    try:
        holder.reset(token)
    except ValueError:  # the pool has moved the task to another context
        pass
    counter.ended(request, {})


def _request_of(task: Task) -> Request | None:
    kept = task.request.get("usage_instrument")
    return None if kept is None else kept[0]


def _target(counter: Counter, task: Task) -> Target:
    target = counter.targets.get(task.name)
    if target is None:
        target = counter.target(Route(task.name, (task.name,), task.name, task.run), "", task)
        counter.remember(task.name, target)
    return target


def _nobody(task: Task) -> UserId:
    return None
