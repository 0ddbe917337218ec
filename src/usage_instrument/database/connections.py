"""Runs work on the package's own connections: a sync driver, a held connection, or an async driver in its own loop."""

from __future__ import annotations

import contextlib
import contextvars
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine, exc

from usage_instrument.errors import SchemaError
from usage_instrument.runtime.threads import allocate_lock

from . import dialects
from .driver_errors import Fault
from .socket_watchdog import SocketWatchdog
from .urls import masked, missing_file

T = TypeVar("T")


class Connector(ABC):
    """Runs work on a connection of its own. Without `answer_timeout`, in seconds, it waits for answers forever."""

    is_async = False
    """Whether it runs an event loop, and so cannot run inside another one."""

    def __init__(self, engine: Engine, answer_timeout: float | None) -> None:
        self.url = engine.url
        self.dialect_name = self.url.get_backend_name()
        self.may_create_file = True
        """Whether `run` may create a SQLite file that does not exist."""
        self._watchdog = None if answer_timeout is None else SocketWatchdog(engine, answer_timeout)

    def __str__(self) -> str:
        return masked(self.url)

    @property
    def is_ready(self) -> bool:
        """Whether a connection is open and the watchdog can interrupt it, so that `run` ends within the timeout."""
        return False

    @abstractmethod
    def run(self, work: Callable[[Connection], T]) -> T:
        """The result of `work`, whose connection is released afterwards. Raises what SQLAlchemy raises."""

    @abstractmethod
    def dispose(self) -> None:
        """Close the connections."""

    def _check_file(self) -> None:
        """Raises SchemaError for a missing SQLite file: connecting would create an empty one."""
        name = None if self.may_create_file else missing_file(self.url)
        if name is not None:
            raise SchemaError(f"there is no file {name}: run `usage-instrument db create`, or correct the URL")

    def _watching(self, give_up: Callable[[], object] = lambda: None) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self._watchdog is None else self._watchdog.watching(give_up)


class SyncConnector(Connector):
    """A sync driver."""

    def __init__(self, engine: Engine, answer_timeout: float | None = None) -> None:
        super().__init__(engine, answer_timeout)
        self._engine = engine

    def run(self, work: Callable[[Connection], T]) -> T:
        self._check_file()
        with _uninstrumented(), self._watching(), self._engine.connect() as connection:
            return _run(work, connection)

    def dispose(self) -> None:
        self._engine.dispose()


class HeldConnector(SyncConnector):
    """A sync driver with one connection that is held between runs, for one thread at a time."""

    _watchdog: SocketWatchdog

    def __init__(self, engine: Engine, answer_timeout: float) -> None:
        super().__init__(engine, answer_timeout)
        self._held: Connection | None = None

    @property
    def is_ready(self) -> bool:
        """As Connector.is_ready."""
        return self._held is not None and self._watchdog.can_interrupt

    def run(self, work: Callable[[Connection], T]) -> T:
        """As Connector.run; after an error the next run takes a connection from the pool."""
        if "opentelemetry.context" not in sys.modules:
            return self._run(work)
        with _uninstrumented():
            return self._run(work)

    def _run(self, work: Callable[[Connection], T]) -> T:
        self._watchdog.begin()  # not `with`, which is slower: every call of a required audit comes here
        try:
            connection, self._held = self._held, None
            if connection is None:
                connection = self._engine.connect()
            try:
                answer = _run(work, connection)
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
    """An async driver in an event loop of its own: the host's loop may be busy, closed or not yet running."""

    is_async = True

    def __init__(self, engine: Engine, answer_timeout: float | None = None) -> None:
        import asyncio

        from sqlalchemy.ext.asyncio import AsyncEngine

        super().__init__(engine, answer_timeout)
        self._engine = AsyncEngine(engine)
        self._runner = asyncio.Runner()
        self._turn = allocate_lock()

    def run(self, work: Callable[[Connection], T]) -> T:
        import asyncio

        self._check_file()

        async def main() -> T:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(None) as limit:

                def give_up() -> None:
                    with contextlib.suppress(RuntimeError):  # the block has just ended
                        limit.reschedule(loop.time())

                with self._watching(lambda: loop.call_soon_threadsafe(give_up)):
                    async with self._engine.connect() as connection:
                        return await connection.run_sync(partial(_run, work))

        with _uninstrumented(), self._turn:
            # The runner keeps the context of its first run, which may precede the instrumentation.
            return self._runner.run(main(), context=contextvars.copy_context())

    def dispose(self) -> None:
        self._runner.run(self._engine.dispose())
        self._runner.close()


def _run(work: Callable[[Connection], T], connection: Connection) -> T:
    """The result of `work`. An error that a new connection may cure discards this one.

    A pool keeps the connections of a former primary that has become read-only: its pings succeed. Tables that are
    missing, or privileges, may be a matter of the role's settings, which a session reads when it begins.
    """
    try:
        return work(connection)
    except Exception as error:
        if not connection.closed and _is_of_session(error, connection.dialect.name):
            connection.invalidate()
        raise


def _is_of_session(error: Exception, dialect_name: str) -> bool:
    """Whether a new connection may cure the error."""
    cause = error if isinstance(error, exc.DBAPIError) else error.__cause__
    if not isinstance(cause, exc.DBAPIError):
        return isinstance(error, SchemaError)
    fault = dialects.get(dialect_name).classify(cause)
    return cause.connection_invalidated or fault in (Fault.CONNECTION_LOST, Fault.CONFIGURATION)


@contextlib.contextmanager
def _uninstrumented() -> Iterator[None]:
    """Keep our statements out of the host's OpenTelemetry traces, where each would be a trace without a parent."""
    context = sys.modules.get("opentelemetry.context")
    if context is None:
        yield
        return
    token = context.attach(context.set_value("suppress_instrumentation", True))
    try:
        yield
    finally:
        context.detach(token)
