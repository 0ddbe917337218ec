"""Huey: tasks that succeed become uses of the user whose request sent them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack
from weakref import WeakKeyDictionary

from huey import signals
from huey.api import Huey, Task

from usage_instrument.runtime import log

from .tasks import ACTOR, HEADER, TaskCounter, TaskOptions, stamp

__all__ = ["instrument"]

_counters: WeakKeyDictionary[Huey, TaskCounter] = WeakKeyDictionary()
_RUN, _HEADERS = "_usage_instrument_run", "_usage_instrument_headers"
"""The attributes of a task that runs."""


def instrument(huey: Huey, **options: Unpack[TaskOptions[Task]]) -> None:
    """Count each success of a task of `huey` under its name. Call it where the Huey object is made: the processes that
    send tasks and the consumer need it alike.

    The user of a task is the user of the code that sends it, and so is who acts as them; the same holds for the tasks
    that follow it in a pipeline or chord. Keyword arguments carry the ids, and are taken out before the task runs.
    Retries and failures do not count. The options are those of the middlewares; callables get the task, and patterns
    match its name, `module.function`.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError, MetadataError and TypeError.
    """
    is_known = huey in _counters
    _counters[huey] = TaskCounter(options)
    if is_known:
        log.warning(("instrumented", huey.name), "the Huey %r is instrumented already; the new options hold", huey.name)
        return

    def begin(task: Task) -> None:
        headers = {name: task.kwargs.pop(name) for name in (HEADER, ACTOR) if name in task.kwargs}
        setattr(task, _HEADERS, headers)
        setattr(task, _RUN, _counters[huey].begin(task, headers))

    def end(task: Task, value: object, exception: BaseException | None) -> None:
        if exception is None:
            getattr(task, _RUN).succeed(f"{type(task).__module__}.{task.name}", _function(task))
        getattr(task, _RUN).end()

    huey.pre_execute("usage_instrument")(begin)
    huey.post_execute("usage_instrument")(end)
    huey.signal(signals.SIGNAL_ENQUEUED)(_send)
    huey.signal(signals.SIGNAL_RETRYING)(_retry)
    huey.signal(signals.SIGNAL_CANCELED, signals.SIGNAL_INTERRUPTED)(_cancel)


def _send(signal: str, task: Task) -> None:
    stamp(task.kwargs)
    headers = {name: task.kwargs[name] for name in (HEADER, ACTOR) if name in task.kwargs}
    for following in _following(task):
        following.kwargs.update({**headers, **following.kwargs})


def _following(task: Task) -> Iterator[Task]:
    chord = task.chord_config
    for following in (task.on_complete, task.on_error, None if chord is None else chord.callback):
        if following is not None:
            yield following
            yield from _following(following)


def _retry(signal: str, task: Task) -> None:
    task.kwargs.update(getattr(task, _HEADERS))


def _cancel(signal: str, task: Task) -> None:
    run = getattr(task, _RUN, None)
    if run is not None:  # not canceled before it began
        run.end()


def _function(task: Task) -> Any:
    """The function that a task calls, which Huey keeps in a closure only."""
    code, cells = type(task).execute.__code__, type(task).execute.__closure__ or ()
    return dict(zip(code.co_freevars, (cell.cell_contents for cell in cells), strict=True)).get("func")
