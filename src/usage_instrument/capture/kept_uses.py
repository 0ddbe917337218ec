"""Keeps the uses of one session or connection until their transactions end."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
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


KEY = "_usage_instrument_uses"
"""The attribute of a session or connection that holds its KeptUses, which end with it."""
_BIND_INFO = "_usage_instrument_bind_info"
"""The attribute of an Engine or Connection that holds its BindInfo."""


class KeptUses:
    """The uses that wait, by the transaction or savepoint they were captured in, and the latest outcome."""

    may_be_rows = False
    """Whether a use was captured in the database of its outbox."""
    outboxes: Sequence[Outbox] = ()
    """Those that have rows in the open transaction."""
    committing = False
    """Whether the outermost transaction has committed and has not ended."""
    ended = 0
    """The number of outermost transactions that have ended."""
    committed = False
    """Whether the latest of them committed."""
    request: Any = None
    """The request in which the session wrote something that is not committed, for `commit="request"`."""

    def __init__(self) -> None:
        self.levels: dict[object, list[Release]] = {}

    def keep(self, level: object, release: Release) -> None:
        """Keep a use until its transaction or savepoint ends. If the transaction has committed, record it at once."""
        if self.committing:
            run((release,))
        else:
            uses = self.levels.get(level)
            if uses is None:
                self.levels[level] = [release]
            else:
                uses.append(release)

    def move(self, level: object, outer: object) -> None:
        """A savepoint is released: its uses wait for what surrounds it."""
        uses = self.levels.pop(level, None)
        if uses:
            self.levels.setdefault(outer, []).extend(uses)

    def outboxes_at(self, bind: Any) -> list[Outbox]:
        """The outboxes of the uses that wait, if they take them in the database of `bind`."""
        found = dict.fromkeys(_outbox_of(release) for uses in self.levels.values() for release in uses)
        return [outbox for outbox in found if outbox is not None and outbox.takes(bind)]

    def put(self, outboxes: Iterable[Outbox], connection: Any) -> None:
        """Put the uses into their outboxes: the outermost transaction of the connection is about to commit."""
        for outbox in outboxes:
            kept: list[Any] = [release for uses in self.levels.values() for release in uses]
            theirs = [release for release in kept if _outbox_of(release) is outbox]
            if theirs and outbox.put(connection, [use for release in theirs for use in release.uses]):
                self.outboxes = (*self.outboxes, outbox)
                for level, uses in self.levels.items():
                    self.levels[level] = [release for release in uses if _outbox_of(release) is not outbox]

    def take(self) -> list[Release]:
        """Hand over all uses, in the order of their levels, and have the writer look into the outbox."""
        if self.outboxes:
            run(outbox.committed for outbox in self.outboxes)
            self.outboxes = ()
        taken: list[Release] = []
        for uses in self.levels.values():
            taken += uses
        self.levels.clear()
        return taken

    def end(self, *, committed: bool) -> None:
        """The outermost transaction has ended; what is left was rolled back."""
        if self.levels:
            self.levels.clear()
        if self.outboxes:
            self.outboxes = ()
        self.ended += 1
        self.committed, self.committing = committed, False


def _outbox_of(release: Release) -> Outbox | None:
    return getattr(release, "outbox", None)


def kept_by(owner: Any) -> KeptUses | None:
    """The uses that a session or connection keeps, if any were captured with it."""
    found: KeptUses | None = getattr(owner, KEY, None)
    return found


def keep_in(owner: Any) -> KeptUses:
    """The uses that a session or connection keeps, from now on."""
    found: KeptUses | None = getattr(owner, KEY, None)
    if found is None:
        found = KeptUses()
        setattr(owner, KEY, found)
    return found


def run(uses: Iterable[Release]) -> None:
    """Record uses whose transaction has committed. Never raises: the host's commit goes on."""
    for release in uses:
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
        self.is_of_tables = not self.autocommits and outbox is not None and outbox.is_here(bind)
        """Whether it is on the database of the outbox."""


def bind_info(bind: Any, outbox: Outbox | None) -> BindInfo:
    """The BindInfo of an Engine or Connection. Asks no database."""
    found: BindInfo | None = getattr(bind, _BIND_INFO, None)
    if found is None or found.outbox() is not outbox or found.options is not bind.get_execution_options():
        found = BindInfo(bind, outbox)
        setattr(bind, _BIND_INFO, found)
    return found
