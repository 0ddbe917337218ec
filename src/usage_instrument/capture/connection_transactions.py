"""Follows the transactions of SQLAlchemy's Connections.

Their events come before the COMMIT, which may still fail. So a transaction with uses becomes an instance of a subclass
that reports how `commit`, `rollback` and `close` ended; no other transaction pays for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from .kept_uses import Release, autocommits, keep_in, kept_by, run

if TYPE_CHECKING:
    from sqlalchemy import Connection

_kinds: dict[type, type] = {}
"""The subclasses, by the classes of SQLAlchemy's transactions."""


def keep(connection: Connection, release: Release) -> bool:
    """Keep a use for the commit of the connection's transaction; False if none is open."""
    transaction = connection.get_nested_transaction() or connection.get_transaction()
    if transaction is None or autocommits(connection):
        return False
    _follow(transaction)
    keep_in(connection).keep(transaction, release)
    return True


def watch(connection: Connection) -> int:
    """As session_transactions.watch. SQLAlchemy has to begin the transaction before, to note its outcome."""
    transaction = connection.get_transaction()
    if transaction is not None:
        _follow(transaction)
    return keep_in(connection).ended


def outcome_since(connection: Connection, ended: int) -> bool | None:
    """As session_transactions.outcome_since."""
    found = keep_in(connection)
    return None if found.ended == ended else found.committed


def is_open(bind: Any) -> TypeGuard[Connection]:
    """Whether the bind of a session is a Connection with an open transaction."""
    from sqlalchemy import Connection

    return isinstance(bind, Connection) and bind.in_transaction()


def _follow(transaction: Any) -> None:
    """Have a transaction and the savepoints around it report how they end."""
    while transaction is not None:
        kind = type(transaction)
        if issubclass(kind, _Reports):
            return
        if kind not in _kinds:
            _kinds[kind] = type(kind.__name__, (_Reports, kind), {"__slots__": ()})
        transaction.__class__ = _kinds[kind]
        transaction = _around(transaction)


def _around(transaction: Any) -> Any:
    """What surrounds a savepoint: another one, or the outermost transaction, which nothing surrounds."""
    if not _is_savepoint(transaction):
        return None
    return transaction._previous_nested or transaction.connection.get_transaction()


def _is_savepoint(transaction: Any) -> bool:
    return hasattr(transaction, "_previous_nested")


class _Reports:
    """Overrides the public methods that end a Transaction."""

    __slots__ = ()

    connection: Connection

    def commit(self) -> None:
        """As Transaction.commit; then the uses count, or wait for what surrounds a savepoint."""
        connection = self.connection
        found = kept_by(connection)
        if found is not None and not _is_savepoint(self) and not hasattr(self, "xid"):  # which is prepared already
            found.put(connection, lambda: connection)
        super().commit()  # type: ignore[misc]
        if found is None:
            return
        if _is_savepoint(self):
            outer = connection.get_nested_transaction() or connection.get_transaction()
            _follow(outer)
            found.move(self, outer)
        else:
            uses = found.take()
            found.end(committed=True)
            run(uses)

    def rollback(self) -> None:
        """As Transaction.rollback; its uses do not count."""
        is_open = _is_open(self)
        try:
            super().rollback()  # type: ignore[misc]
        finally:
            if is_open:
                _rolled_back(self)

    def close(self) -> None:
        """As Transaction.close, which rolls an open transaction back."""
        is_open = _is_open(self)
        try:
            super().close()  # type: ignore[misc]
        finally:
            if is_open:
                _rolled_back(self)


def _is_open(transaction: Any) -> bool:
    """Whether a transaction has not ended. A COMMIT that failed leaves it to a rollback."""
    return _is_savepoint(transaction) or transaction.connection.get_transaction() is transaction


def _rolled_back(transaction: Any) -> None:
    found = kept_by(transaction.connection)
    if found is None:
        return
    if not _is_savepoint(transaction):
        found.end(committed=False)
        return
    for level in list(found.levels):
        inner: Any = level  # a savepoint within one that is rolled back
        while inner is not None and inner is not transaction:
            inner = _around(inner)
        if inner is transaction:
            del found.levels[level]
