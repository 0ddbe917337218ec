"""Runs work on connections of one's own, given back or held: by a sync driver, or an async one in its own loop."""

from __future__ import annotations

import contextlib
import contextvars
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from sqlalchemy import Connection, Engine

from usage_instrument.runtime.threads import allocate_lock

from .socket_watchdog import Watchdog
from .urls import masked

T = TypeVar("T")


class Connector(ABC):
    """Runs work on a connection of the writer's own."""

    def __init__(self, engine: Engine, patience: float | None, *, lingers: bool = False) -> None:
        self.url = engine.url
        self.dialect_name = self.url.get_backend_name()
        self._watchdog = None if patience is None else Watchdog(engine, patience, lingers=lingers)

    is_async = False
    """Whether it runs an event loop, and so not within another one."""

    @property
    def is_at_hand(self) -> bool:
        """Whether a connection is open, and an answer that does not come ends it: nothing takes longer than that."""
        return False

    def __str__(self) -> str:
        return masked(self.url)

    @abstractmethod
    def run(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, given a connection that is released afterwards; raises what SQLAlchemy raises."""

    @abstractmethod
    def dispose(self) -> None:
        """Close the connections."""

    def _watching(self, give_up: Callable[[], object] = lambda: None) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self._watchdog is None else self._watchdog.watching(give_up)


class SyncConnector(Connector):
    """Over a sync driver."""

    def __init__(self, engine: Engine, patience: float | None = None, *, lingers: bool = False) -> None:
        super().__init__(engine, patience, lingers=lingers)
        self._engine = engine

    def run(self, work: Callable[[Connection], T]) -> T:
        with _uninstrumented(), self._watching(), self._engine.connect() as connection:
            return work(connection)

    def dispose(self) -> None:
        self._engine.dispose()


class HeldConnector(SyncConnector):
    """Over a sync driver, by one connection that is not given back in between: for one thread at a time."""

    _watchdog: Watchdog

    def __init__(self, engine: Engine, patience: float) -> None:
        super().__init__(engine, patience, lingers=True)
        self._held: Connection | None = None

    @property
    def is_at_hand(self) -> bool:
        """As Connector.is_at_hand."""
        return self._held is not None and self._watchdog.is_able

    def run(self, work: Callable[[Connection], T]) -> T:
        """As Connector.run; after an error the next one takes another connection, if this one has ended."""
        if "opentelemetry.context" not in sys.modules:
            return self._run(work)
        with _uninstrumented():
            return self._run(work)

    def _run(self, work: Callable[[Connection], T]) -> T:
        self._watchdog.begin()  # no `with`: this is done for each call that waits for its row
        try:
            connection, self._held = self._held, None
            if connection is None:
                connection = self._engine.connect()
            try:
                answer = work(connection)
            except BaseException:
                connection.close()
                raise
            self._held = connection
            return answer
        finally:
            self._watchdog.end()

    def dispose(self) -> None:
        """As Connector.dispose."""
        held, self._held = self._held, None
        if held is not None:
            held.close()
        super().dispose()


class AsyncConnector(Connector):
    """Over an async driver, in an event loop of its own: the host's loop may be busy, closed or not yet there."""

    is_async = True

    def __init__(self, engine: Engine, patience: float | None = None, *, lingers: bool = False) -> None:
        import asyncio

        from sqlalchemy.ext.asyncio import AsyncEngine

        super().__init__(engine, patience, lingers=lingers)
        self._engine = AsyncEngine(engine)
        self._runner = asyncio.Runner()
        self._turn = allocate_lock()

    def run(self, work: Callable[[Connection], T]) -> T:
        import asyncio

        async def main() -> T:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(None) as limit:

                def give_up() -> None:
                    with contextlib.suppress(RuntimeError):  # it has just ended
                        limit.reschedule(loop.time())

                with self._watching(lambda: loop.call_soon_threadsafe(give_up)):
                    async with self._engine.connect() as connection:
                        return await connection.run_sync(work)

        with _uninstrumented(), self._turn:
            # Not in the context that the runner keeps from its first run: it knows nothing of a later instrumentation.
            return self._runner.run(main(), context=contextvars.copy_context())

    def dispose(self) -> None:
        self._runner.run(self._engine.dispose())
        self._runner.close()


@contextlib.contextmanager
def _uninstrumented() -> Iterator[None]:
    """Keeps the flush out of the host's traces, where OpenTelemetry is loaded: it would be a trace without a parent."""
    context = sys.modules.get("opentelemetry.context")
    if context is None:
        yield
        return
    token = context.attach(context.set_value("suppress_instrumentation", True))
    try:
        yield
    finally:
        context.detach(token)
