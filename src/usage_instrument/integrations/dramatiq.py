"""Dramatiq: messages that succeed become uses of the user whose request sent them."""

from __future__ import annotations

from typing import Any, Unpack

from dramatiq import Broker, Message, MessageProxy, Middleware

from .tasks import TaskCounter, TaskOptions, TaskRun, stamp

__all__ = ["UsageMiddleware"]


class UsageMiddleware(Middleware):
    """`broker.add_middleware(UsageMiddleware())` counts each success of an actor under its name.

    The user of a message is the user of the code that sends it, and so is who acts as them. Options of the message
    carry the ids. Retries, failures and skipped messages do not count. The options are those of the ASGI middleware;
    callables get the message, and patterns match the actor's name.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError, MetadataError and TypeError.
    """

    def __init__(self, **options: Unpack[TaskOptions[Message[Any]]]) -> None:
        self._counter = TaskCounter(options)
        self._runs: dict[str, TaskRun] = {}

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:
        """Stamp the message."""
        stamp(message.options)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        """Open the request of the message."""
        self._runs[message.message_id] = self._counter.begin(message, message.options)

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Count a success."""
        run = self._runs.pop(message.message_id, None)
        if run is not None:
            if exception is None and not message.failed:
                run.succeed(message.actor_name, broker.get_actor(message.actor_name).fn)
            run.end()

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        """Count nothing."""
        self.after_process_message(broker, message, exception=InterruptedError())
