"""Follows the transactions of SQLAlchemy's Connections.

Their events come before the COMMIT, which may still fail. So a transaction with uses becomes an instance of a subclass
that reports how `commit`, `rollback` and `close` ended; no other transaction pays for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .kept_uses import KEY, OUTCOMES, KeptUses, Outcomes, Release, bind_info, outcomes_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Transaction

_kinds: dict[type, type] = {}
"""The subclasses, by the classes of SQLAlchemy's transactions."""


def keep(connection: Connection, release: Release, transaction: Any = None) -> bool:
    """Keep a use for the commit of the connection's innermost transaction, or a given one; False if none is open."""
    if transaction is None:
        transaction = connection.get_nested_transaction() or connection.get_transaction()
        if transaction is None:
            return False
    info = bind_info(connection, getattr(release, "outbox", None))
    if info.autocommits:
        return False
    _follow(transaction)
    found: KeptUses | None = getattr(connection, KEY)  # _follow has set a default
    if found is None:
        found = KeptUses()
        setattr(connection, KEY, found)
    if info.is_of_tables:
        found.may_be_rows = True
    found.append((transaction, release))
    return True


def watch(connection: Connection) -> int:
    """As session_transactions.watch. SQLAlchemy has to begin the transaction before, to note its outcome."""
    transaction = connection.get_transaction()
    if transaction is not None:
        _follow(transaction)
    return outcomes_of(connection).ended


def outcome_since(connection: Connection, ended: int) -> bool | None:
    """As session_transactions.outcome_since."""
    found = outcomes_of(connection)
    return None if found.ended == ended else found.committed


class Outer:
    """The transaction of a Connection around that of a session: the session's commit has not decided yet."""

    __slots__ = ("_connection", "_ended", "_transaction")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transaction: Any = connection.get_nested_transaction() or connection.get_transaction()
        self._ended = watch(connection)

    def keep(self, release: Release) -> bool:
        """Keep a use for its commit, or drop it if it was rolled back; False if the use counts now."""
        committed = outcome_since(self._connection, self._ended)
        if committed is not None:
            return not committed
        is_open = self._transaction.is_active  # else it is a savepoint that was released
        return keep(self._connection, release, self._transaction if is_open else None)


def _follow(transaction: Any) -> None:
    """Have a transaction and the savepoints around it report how they end."""
    while transaction is not None and not isinstance(transaction, _Reports):
        kind = type(transaction)
        transaction.__class__ = _kinds.get(kind) or _reporting(kind)
        transaction = transaction._around


def _reporting(kind: type[Transaction]) -> type:
    """The subclass of a class of SQLAlchemy's transactions."""
    from sqlalchemy import Connection

    # A connection without uses has these: the lookup does not reach a __getattr__ of the host's.
    setattr(Connection, KEY, None)
    setattr(Connection, OUTCOMES, None)
    base = _ReportsSavepoint if hasattr(kind, "_previous_nested") else _ReportsOutermost
    _kinds[kind] = type(kind.__name__, (base, kind), {"__slots__": (), "_commit": kind.commit})
    return _kinds[kind]


class _Reports:
    """Overrides the public methods that end a Transaction."""

    __slots__ = ()

    connection: Connection
    _commit: Callable[[], None]
    """Transaction.commit."""

    def rollback(self) -> None:
        """As Transaction.rollback; its uses do not count."""
        is_open = self._is_open
        try:
            super().rollback()  # type: ignore[misc]
        finally:
            if is_open:
                self._rolled_back()

    def close(self) -> None:
        """As Transaction.close, which rolls an open transaction back."""
        is_open = self._is_open
        try:
            super().close()  # type: ignore[misc]
        finally:
            if is_open:
                self._rolled_back()

    @property
    def _is_open(self) -> bool:
        """Whether it has not ended. A COMMIT that failed leaves it to a rollback."""
        raise NotImplementedError

    def _rolled_back(self) -> None:
        raise NotImplementedError


class _ReportsOutermost(_Reports):
    """For a transaction that is no savepoint."""

    __slots__ = ()

    _around = None

    def commit(self) -> None:
        """As Transaction.commit; then the uses count."""
        connection = self.connection
        found: KeptUses | None = getattr(connection, KEY)
        if found is not None and found.may_be_rows and not hasattr(self, "xid"):  # which is prepared already
            found.put(connection.engine, lambda: connection)
        self._commit()
        found = getattr(connection, KEY)
        _end(connection, committed=True)
        if found is not None:
            found.record()

    @property
    def _is_open(self) -> bool:
        present: object = self.connection.get_transaction()
        return present is self

    def _rolled_back(self) -> None:
        _end(self.connection, committed=False)


class _ReportsSavepoint(_Reports):
    """For a savepoint, which another one or the outermost transaction surrounds."""

    __slots__ = ()

    _previous_nested: Any

    @property
    def _around(self) -> Any:
        return self._previous_nested or self.connection.get_transaction()

    def commit(self) -> None:
        """As Transaction.commit; then the uses wait for what surrounds it."""
        connection = self.connection
        self._commit()
        found: KeptUses | None = getattr(connection, KEY)
        if found is not None:
            outer = connection.get_nested_transaction() or connection.get_transaction()
            _follow(outer)
            found.move(self, outer)

    @property
    def _is_open(self) -> bool:
        return True

    def _rolled_back(self) -> None:
        found: KeptUses | None = getattr(self.connection, KEY)
        if found is not None:
            found[:] = [entry for entry in found if not _is_within(entry[0], self)]


def _is_within(level: Any, savepoint: object) -> bool:
    while level is not None and level is not savepoint:
        level = level._around
    return level is savepoint


def _end(connection: Connection, *, committed: bool) -> None:
    setattr(connection, KEY, None)
    outcomes: Outcomes | None = getattr(connection, OUTCOMES)
    if outcomes is not None:
        outcomes.end(committed=committed)
