"""Taskiq: tasks that succeed become uses of the user whose request sent them."""

from __future__ import annotations

from typing import Any, Unpack

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult

from .tasks import TaskCounter, TaskOptions, TaskRun, stamp

__all__ = ["UsageMiddleware"]


class UsageMiddleware(TaskiqMiddleware):
    """`broker.with_middlewares(UsageMiddleware())` counts each success of a task under its name.

    The user of a task is the user of the code that sends it, and so is who acts as them. Labels of the message carry
    the ids. Failures, and so retries, do not count. The options are those of the ASGI middleware; callables get the
    message, and patterns match the task's name.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError, MetadataError and TypeError.
    """

    def __init__(self, **options: Unpack[TaskOptions[TaskiqMessage]]) -> None:
        super().__init__()
        self._counter = TaskCounter(options)
        self._runs: dict[str, TaskRun] = {}

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Stamp the message."""
        stamp(message.labels)
        return message

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Open the request of the task."""
        self._runs[message.task_id] = self._counter.begin(message, message.labels)
        return message

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Count a success."""
        run = self._runs.pop(message.task_id, None)
        if run is not None:
            task = self.broker.find_task(message.task_name)
            if not result.is_err:
                run.succeed(message.task_name, None if task is None else task.original_func)
            run.end()
