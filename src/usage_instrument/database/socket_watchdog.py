"""Interrupts a connection whose server accepts everything and answers nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Engine, event

from usage_instrument.runtime import log
from usage_instrument.runtime.threads import END, BackgroundThread, Pause, allocate_lock


class SocketDuplicate(socket.socket):
    """A duplicate of the socket of a driver's connection.

    It closes silently when an engine is dropped without dispose(): a ResourceWarning would reach the host.
    """

    __slots__ = ()

    def __init__(self, descriptor: int) -> None:
        number = os.dup(descriptor)
        try:
            super().__init__(fileno=number)
        except OSError:  # the connection has been closed
            os.close(number)
            raise

    def __del__(self) -> None:
        self.close()


class SocketWatchdog:
    """Shuts down the sockets of an engine's connections if an answer takes too long.

    The server itself ends a statement after `statement_timeout`, so a longer silence means a lost network or a stopped
    machine. Few drivers have a timeout, and a thread that waits in C cannot be interrupted. Shutting down a duplicate
    of the socket wakes the driver, sync or async.

    One thread watches all blocks, and ends when it finds none.
    """

    def __init__(self, engine: Engine, answer_timeout: float) -> None:
        self._timeout = answer_timeout
        self._thread: BackgroundThread[None] = BackgroundThread("socket watchdog", _cycle_of(weakref.ref(self)))
        self._ends = False
        """Whether the thread has found no block and is about to end."""
        self._give_up: Callable[[], object] | None = None
        """Set while a block runs."""
        self._sent_at = 0.0
        self._opening: SocketDuplicate | None = None
        self._sockets: dict[object, SocketDuplicate] = {}
        self._lock = allocate_lock()
        event.listen(engine, "connect", self._on_connect, insert=True)  # before the first queries of the dialect
        event.listen(engine, "connect", self._on_connected)  # after them
        event.listen(engine, "close", self._on_close)
        for sending in ("begin", "before_cursor_execute", "commit", "rollback"):
            event.listen(engine, sending, self._on_send)

    @property
    def can_interrupt(self) -> bool:
        """Whether there is a socket to shut down."""
        return bool(self._sockets)

    @contextlib.contextmanager
    def watching(self, give_up: Callable[[], object] = lambda: None) -> Iterator[None]:
        """No statement in the block takes longer than the timeout; one thread at a time.

        `give_up` is called if there is no socket yet, as while connecting.
        """
        self.begin(give_up)
        try:
            yield
        finally:
            self.end()

    def begin(self, give_up: Callable[[], object] = lambda: None) -> None:
        """Enter a block."""
        self._sent_at = time.monotonic()
        self._give_up = give_up
        if self._ends:
            self._thread.put(None)
        with contextlib.suppress(RuntimeError):  # the interpreter exits
            self._thread.ensure()

    def end(self) -> None:
        """Leave a block."""
        self._give_up = None
        if self._opening is not None:
            self._close_opening()

    def _cycle(self) -> Pause:
        self._ends = False
        left = self._sent_at + self._timeout - time.monotonic()
        if left > 0:
            return left
        self._ends = True  # before reading _give_up: `begin` writes that first, and reads this next
        give_up = self._give_up
        if give_up is None:
            return END
        self._ends = False
        self._on_send()
        self._interrupt(give_up)
        return self._timeout

    def _interrupt(self, give_up: Callable[[], object]) -> None:
        with self._lock:
            known = [*self._sockets.values(), *([] if self._opening is None else [self._opening])]
            for each in known:
                with contextlib.suppress(OSError):  # it has been closed
                    each.shutdown(socket.SHUT_RDWR)
            if not known:
                give_up()
        log.warning("silence", "the database has not answered for %.0f seconds: closing the connection", self._timeout)

    def _on_send(self, *_: Any) -> None:
        self._sent_at = time.monotonic()

    def _on_connect(self, _: Any, record: Any) -> None:
        self._close_opening()
        number = _descriptor(record.driver_connection)
        if number is not None:
            with self._lock, contextlib.suppress(OSError):  # the queries of the dialect fail as well
                self._opening = SocketDuplicate(number)

    def _on_connected(self, _: Any, record: Any) -> None:
        with self._lock:
            if self._opening is not None:
                self._sockets[record], self._opening = self._opening, None

    def _close_opening(self) -> None:
        """Close the duplicate of a connection that failed at the first queries: the pool drops it without an event."""
        with self._lock:
            if self._opening is not None:
                self._opening.close()
                self._opening = None

    def _on_close(self, _: Any, record: Any) -> None:
        with self._lock:
            known = self._sockets.pop(record, None)
            if known is not None:
                known.close()


def _cycle_of(watchdog: weakref.ref[SocketWatchdog]) -> Callable[[None], Pause]:
    """The cycle of a watchdog that its thread does not keep alive: an engine may be dropped without dispose()."""

    def cycle(_: None) -> Pause:
        it = watchdog()
        return END if it is None else it._cycle()

    return cycle


def _descriptor(connection: Any) -> int | None:
    """The file descriptor of a driver's connection; None if the driver does not expose it."""
    transport = getattr(getattr(connection, "_writer", connection), "_transport", None)  # asyncpg, aiomysql
    hidden = transport.get_extra_info("socket") if transport is not None else getattr(connection, "_sock", None)
    try:
        return int((connection if hidden is None else hidden).fileno())
    except (AttributeError, OSError, TypeError, ValueError):
        return None
