"""Keeps the uses of one session or connection until their transactions end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


class KeptUses:
    """The uses that wait, by the transaction or savepoint they were captured in, and the latest outcome."""

    asked: Outbox | None = None
    """The outbox of the latest use."""
    bound: Any = None
    """What the session or connection was bound to at that use."""
    reached: Sequence[Outbox] = ()
    """The outboxes of its uses that are in the database of `bound`."""
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

    def ask(self, outbox: Outbox | None, bound: Any, database: Any) -> None:
        """Note whether uses of an outbox can become rows: the transactions are in `database`, None if in several."""
        if bound is not self.bound:
            self.reached = ()
        self.asked, self.bound = outbox, bound
        if outbox is not None and database is not None and outbox not in self.reached and outbox.is_here(database):
            self.reached = (*self.reached, outbox)

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
        """The outboxes that take uses in the database of `bind`."""
        return [outbox for outbox in self.reached if outbox.takes(bind)]

    def put(self, outboxes: Iterable[Outbox], connection: Any) -> None:
        """Put the uses into their outboxes: the outermost transaction of the connection is about to commit."""
        for outbox in outboxes:
            kept: list[Any] = [release for uses in self.levels.values() for release in uses]
            theirs = [release for release in kept if getattr(release, "outbox", None) is outbox]
            if theirs and outbox.put(connection, [use for release in theirs for use in release.uses]):
                self.outboxes = (*self.outboxes, outbox)
                for level, uses in self.levels.items():
                    self.levels[level] = [release for release in uses if getattr(release, "outbox", None) is not outbox]

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


def kept_by(owner: Any) -> KeptUses | None:
    """The uses that a session or connection keeps, if any were captured with it."""
    found: KeptUses | None = owner.__dict__.get(KEY)
    return found


def keep_in(owner: Any) -> KeptUses:
    """The uses that a session or connection keeps, from now on."""
    attributes = owner.__dict__
    found: KeptUses | None = attributes.get(KEY)
    if found is None:
        found = attributes[KEY] = KeptUses()
    return found


def run(uses: Iterable[Release]) -> None:
    """Record uses whose transaction has committed. Never raises: the host's commit goes on."""
    for release in uses:
        try:
            release()
        except Exception:
            log.warning("commit", "a use could not be recorded when its transaction committed", exc_info=True)


def autocommits(bind: Any) -> bool:
    """Whether each statement of an Engine or Connection is a transaction of its own. Asks no database."""
    if bind is None:
        return False
    level = bind.get_execution_options().get("isolation_level")
    if level is None:  # that of create_engine()
        level = getattr(bind.dialect, "_on_connect_isolation_level", None)
    return level is not None and bool(level == "AUTOCOMMIT")
