"""Celery: tasks that succeed become uses of the user whose request sent them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack
from weakref import WeakKeyDictionary

from celery import signals

from usage_instrument.runtime import log

from .tasks import ACTOR, HEADER, TaskCounter, TaskOptions, TaskRun, stamp

if TYPE_CHECKING:
    from celery import Celery, Task

__all__ = ["instrument"]

_counters: WeakKeyDictionary[Celery, TaskCounter] = WeakKeyDictionary()


def instrument(app: Celery, **options: Unpack[TaskOptions[Task]]) -> None:
    """Count each success of a task of `app` under the task's name, in workers and in processes that call the task.

    The user of a task is the user of the code that sends it, and so is who acts as them. Headers of the message carry
    the ids, also to the tasks that the task sends. The options are those of the middlewares; callables get the task,
    and patterns match its name. Celery's own tasks (`celery.*`) count only if `features` names them. Retries, failures
    and rejections do not count; a task that is delivered twice and succeeds twice counts twice. A worker's processes
    write what is pending at exit.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError, MetadataError and TypeError.
    """
    if app in _counters:
        log.warning(
            ("instrumented", app.main), "the Celery app %r is instrumented already; the new options hold", app.main
        )
    exclude = options.get("exclude")
    if not isinstance(exclude, str):
        options["exclude"] = ("celery.*", *(exclude or ()))
    _counters[app] = TaskCounter(options)
    for signal, receiver in (
        (signals.before_task_publish, _stamp),
        (signals.task_prerun, _begin),
        (signals.task_success, _succeed),
        (signals.task_postrun, _end),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=f"usage_instrument.{receiver.__name__}")


def _stamp(headers: dict[str, Any] | None = None, **_: object) -> None:
    if headers is not None:
        stamp(headers)


def _begin(task: Task, **_: object) -> None:
    counter = _counters.get(task.app)
    if counter is not None:
        of_message = task.request.headers or {}
        headers = {name: task.request.get(name) or of_message.get(name) for name in (HEADER, ACTOR)}
        task.request.usage_instrument = counter.begin(task, headers)


def _succeed(sender: Task, **_: object) -> None:
    run = _run_of(sender)
    if run is not None:
        run.succeed(sender.name, sender.run)


def _end(task: Task, **_: object) -> None:
    run = _run_of(task)
    if run is not None:
        run.end()


def _run_of(task: Task) -> TaskRun | None:
    return task.request.get("usage_instrument")  # type: ignore[no-any-return]
