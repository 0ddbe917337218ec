"""Keeps the uses of one session or connection until their transactions end."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from usage_instrument.events import Use
from usage_instrument.runtime import log

Release: TypeAlias = Callable[[], object]
"""Records a use that waited for the commit of its transaction."""


class Outbox(Protocol):
    """Puts uses into a transaction of the host's that is in the database of the tables."""

    def is_here(self, bind: Any) -> bool:
        """Whether an Engine or Connection, or a connection of Django's, is on the database of the tables. Asks no
        database; logs, once, that another one takes hooks."""

    def takes(self, bind: Any) -> bool:
        """Whether it is, and the outbox works."""

    def put(self, connection: Any, uses: Sequence[Use]) -> bool:
        """Insert uses in the transaction of the connection; False if they must be recorded after the commit.

        Raises what the driver raises if the transaction is lost with the statement.
        """

    def committed(self) -> None:
        """Rows were committed."""


class TransactionLostError(Exception):
    """The host's transaction is lost with a row that the database refused within a call.

    The host has to see the error: it would take its own rows for committed.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error
        """The driver's."""


def _outbox_of(release: Release) -> Outbox | None:
    return getattr(release, "outbox", None)


KEY = "_usage_instrument_uses"
"""The attribute of a session or connection that holds the KeptUses of its transaction; None without any."""
OUTCOMES = "_usage_instrument_outcomes"
"""The attribute of a session or connection that holds its Outcomes, which end with it."""
_BIND_INFO = "_usage_instrument_bind_info"
"""The attribute of an Engine that holds the latest BindInfo."""


class KeptUses(list[tuple[object, Release]]):
    """The uses that wait, in the order of their capture, each with its transaction or savepoint."""

    may_be_rows = False
    """Whether a use was captured in the database of its outbox."""
    outboxes: Sequence[Outbox] = ()
    """Those that have rows in the open transaction."""

    def move(self, level: object, outer: object) -> None:
        """A savepoint is released: its uses wait for what surrounds it."""
        self[:] = [(outer if at is level else at, release) for at, release in self]

    def put(self, engine: Any, connect: Callable[[], Any]) -> None:
        """Put the uses into their outboxes, if these take uses in the database of the engine: the outermost transaction
        of the connection is about to commit. Hooks record them if there is no connection."""
        found: dict[Outbox, list[Use]] = {}
        release: Any
        for _, release in self:
            outbox = _outbox_of(release)
            if outbox is not None:
                found.setdefault(outbox, []).extend(release.uses)
        for outbox, uses in found.items():
            if not outbox.takes(engine):
                continue
            connection = connect()
            if connection is None:
                return
            if outbox.put(connection, uses):
                self.outboxes = (*self.outboxes, outbox)
                self[:] = [entry for entry in self if _outbox_of(entry[1]) is not outbox]

    def record(self) -> None:
        """The outermost transaction has committed: record the uses, and have the writer look into the outbox."""
        if self.outboxes:
            for outbox in self.outboxes:
                run(outbox.committed)
        for _, release in self:
            run(release)


class Outcomes:
    """How the outermost transactions of a session or connection ended, from the time when somebody asks for it."""

    ended = 0
    """Their number."""
    committed = False
    """Whether the latest of them committed."""
    committing = False
    """Whether the present one has committed and has not ended."""
    outer: Any = None
    """The transaction of the host's Connection that decides on what the latest one committed."""
    request: Any = None
    """The request in which the session wrote something that is not committed, for `commit="request"`."""

    def end(self, *, committed: bool) -> None:
        """An outermost transaction has ended."""
        self.ended += 1
        self.committed, self.committing = committed, False
        if not committed:
            self.outer = None


def outcomes_of(owner: Any) -> Outcomes:
    """The outcomes of a session or connection, from now on."""
    found: Outcomes | None = vars(owner).get(OUTCOMES)
    if found is None:
        found = Outcomes()
        setattr(owner, OUTCOMES, found)
    return found


def run(release: Release) -> None:
    """Record a use whose transaction has committed. Never raises: the host's commit goes on."""
    try:
        release()
    except Exception:
        log.warning("commit", "a use could not be recorded when its transaction committed", exc_info=True)


def _no_outbox() -> None:
    return None


class BindInfo:
    """What a use has to know of an Engine or Connection, found out once for an outbox and execution options."""

    __slots__ = ("autocommits", "is_of_tables", "options", "outbox")

    def __init__(self, bind: Any, outbox: Outbox | None) -> None:
        # Weak: the host's engine lives on when another tracker has taken over.
        self.outbox: Callable[[], Outbox | None] = _no_outbox if outbox is None else weakref.ref(outbox)
        self.options: Mapping[str, Any] = bind.get_execution_options()
        level = self.options.get("isolation_level")
        if level is None:  # that of create_engine()
            level = getattr(bind.dialect, "_on_connect_isolation_level", None)
        self.autocommits = level is not None and bool(level == "AUTOCOMMIT")
        """Whether each statement is a transaction of its own."""
        self.is_of_tables = not self.autocommits and outbox is not None and outbox.is_here(bind.engine)
        """Whether it is on the database of the outbox."""


def bind_info(bind: Any, outbox: Outbox | None) -> BindInfo:
    """The BindInfo of an Engine or Connection. Asks no database."""
    # An engine keeps it for its connections, since each transaction may have another one. Looked up in `vars`, as a
    # subclass of the host's may have a __getattr__ of its own.
    engine = bind.engine
    found: BindInfo | None = vars(engine).get(_BIND_INFO)
    if found is None or found.outbox() is not outbox or found.options is not bind.get_execution_options():
        found = BindInfo(bind, outbox)
        # Options of a connection alone may hold objects of the host's, which end with it.
        if found.options is engine.get_execution_options():
            setattr(engine, _BIND_INFO, found)
    return found
