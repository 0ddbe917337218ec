"""What ends a connection whose server takes everything and answers nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from _queue import Empty, SimpleQueue
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Engine, event

from usage_instrument.runtime.threads import allocate_lock
from usage_instrument.runtime.threads import start as start_thread

logger = logging.getLogger("usage_instrument")


class Duplicate(socket.socket):
    """The socket of a driver's connection, once more. Who drops an engine with its connections drops this as well,
    and no ResourceWarning is to tell the host of it."""

    __slots__ = ()

    def __init__(self, descriptor: int) -> None:
        number = os.dup(descriptor)
        try:
            super().__init__(fileno=number)
        except OSError:  # it has ended by itself
            os.close(number)
            raise

    def __del__(self) -> None:
        self.close()


class Watchdog:
    """Shuts the sockets of an engine's connections when an answer takes longer than a living server would.

    The server itself ends a statement after `statement_timeout`, so that a longer silence is the network's or that of
    a machine that has stopped. Few drivers bound it, and no thread that waits in C can be interrupted. A socket that
    is shut down, by its own duplicate, wakes whoever waits for it, sync or async.
    """

    def __init__(self, engine: Engine, patience: float, *, lingers: bool = False) -> None:
        self._patience = patience
        self._lingers = lingers
        self._lives = False  # the thread that lingers
        self._give_up: Callable[[], object] | None = None
        self._asked = 0.0
        self._new: Duplicate | None = None
        self._sockets: dict[object, Duplicate] = {}
        self._lock = allocate_lock()
        event.listen(engine, "connect", self._opening, insert=True)  # before the dialect asks its first questions
        event.listen(engine, "connect", self._opened)  # after them
        event.listen(engine, "close", self._closing)
        for question in ("begin", "before_cursor_execute", "commit", "rollback"):
            event.listen(engine, question, self._asking)

    @property
    def is_able(self) -> bool:
        """Whether there is a socket to shut."""
        return bool(self._sockets)

    @contextlib.contextmanager
    def watching(self, give_up: Callable[[], object] = lambda: None) -> Iterator[None]:
        """No question asked in the block, by this thread alone, stays without an answer for longer than that.

        `give_up` is called where there is no socket to shut, as while a connection is being made. Who `lingers` serves
        many blocks a second by one thread, which ends a while after the last of them.
        """
        if self._lingers:
            self.begin(give_up)
            try:
                yield
            finally:
                self.end()
            return
        self._asking()
        done: SimpleQueue[None] = SimpleQueue()
        with contextlib.suppress(RuntimeError):  # no thread starts while the interpreter exits
            start_thread(lambda: self._watch(done, give_up))
        try:
            yield
        finally:
            done.put(None)
            self._forget()

    def begin(self, give_up: Callable[[], object] = lambda: None) -> None:
        """The beginning of such a block, of who lingers."""
        self._asked = time.monotonic()
        self._give_up = give_up
        if not self._lives:
            with contextlib.suppress(RuntimeError):
                start_thread(self._linger)
                self._lives = True

    def end(self) -> None:
        """Its end."""
        self._give_up = None
        if self._new is not None:
            self._forget()

    def _watch(self, done: SimpleQueue[None], give_up: Callable[[], object]) -> None:
        while True:
            try:
                return done.get(timeout=max(self._asked + self._patience - time.monotonic(), 0.001))
            except Empty:
                if time.monotonic() >= self._asked + self._patience and done.empty():
                    self._asking()
                    self._end(give_up)

    def _linger(self) -> None:
        pause: SimpleQueue[None] = SimpleQueue()  # of time.sleep, gevent may have made something else
        while True:
            with contextlib.suppress(Empty):
                pause.get(timeout=max(self._asked + self._patience - time.monotonic(), 0.001))
            give_up = self._give_up
            if time.monotonic() < self._asked + self._patience:
                continue
            if give_up is not None:
                self._asking()
                self._end(give_up)
                continue
            self._lives = False
            if self._give_up is None:
                return
            self._lives = True  # a block has begun just now, and maybe starts another thread: no harm

    def _end(self, give_up: Callable[[], object]) -> None:
        with self._lock:
            known = [*self._sockets.values(), *([] if self._new is None else [self._new])]
            for each in known:
                with contextlib.suppress(OSError):  # it has ended by itself
                    each.shutdown(socket.SHUT_RDWR)
            if not known:
                give_up()
        logger.warning("the database has not answered for %.0f seconds: its connection ends", self._patience)

    def _asking(self, *_: Any) -> None:
        self._asked = time.monotonic()

    def _opening(self, _: Any, record: Any) -> None:
        self._forget()
        number = _descriptor(record.driver_connection)
        if number is not None:
            with self._lock, contextlib.suppress(OSError):  # the dialect's questions will fail as well
                self._new = Duplicate(number)

    def _opened(self, _: Any, record: Any) -> None:
        with self._lock:
            if self._new is not None:
                self._sockets[record], self._new = self._new, None

    def _forget(self) -> None:
        """Let go of a connection that failed at the first questions: the pool drops it, and tells nobody."""
        with self._lock:
            if self._new is not None:
                self._new.close()
                self._new = None

    def _closing(self, _: Any, record: Any) -> None:
        with self._lock:
            known = self._sockets.pop(record, None)
            if known is not None:
                known.close()


def _descriptor(connection: Any) -> int | None:
    """The file descriptor of a driver's connection; None where there is none, or a driver keeps it to itself."""
    transport = getattr(getattr(connection, "_writer", connection), "_transport", None)  # of asyncpg, aiomysql
    hidden = transport.get_extra_info("socket") if transport is not None else getattr(connection, "_sock", None)
    try:
        return int((connection if hidden is None else hidden).fileno())
    except (AttributeError, OSError, TypeError, ValueError):
        return None
