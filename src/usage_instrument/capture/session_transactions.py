"""Follows the transactions of SQLAlchemy's Sessions: a use counts when they commit, and goes with what rolls back.

SQLAlchemy calls `after_commit` behind the COMMIT of a session's last connection, and also behind the RELEASE of a
savepoint. `after_transaction_end` follows each end, of whatever kind.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from usage_instrument.runtime import log
from usage_instrument.runtime.threads import allocate_lock

from . import connection_transactions
from .kept_uses import KEY, OUTCOMES, KeptUses, Outcomes, Release, bind_info, outcomes_of, run

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

_following = allocate_lock()
_follows = False
_connection: Any = ()
"""SQLAlchemy's class Connection."""
_bind: Any = ()
"""SQLAlchemy's classes Engine and Connection."""
_get_bind: Any = None
"""SQLAlchemy's own `Session.get_bind`."""
_has_committed: Any = None
"""SQLAlchemy's state of a transaction behind its COMMIT or RELEASE, whose listeners still run."""
_binds = ""
"""The attribute of a session with its binds by class; SQLAlchemy 2.0 has a private one."""


def follow() -> None:
    """Listen to all Sessions, once, if the ORM is loaded.

    SQLAlchemy forbids it while another thread runs the listeners of the same event, so that it is done as early as
    possible: when a tracker is made, and when `commit=` is declared.
    """
    global _follows, _connection, _bind, _get_bind, _has_committed, _binds
    if _follows or "sqlalchemy.orm" not in sys.modules:
        return
    with _following:
        if not _follows:
            from sqlalchemy import Connection, Engine, event
            from sqlalchemy.orm import Session
            from sqlalchemy.orm.session import SessionTransactionState

            # A session without uses has these: the lookup does not reach a __getattr__ of the host's.
            setattr(Session, KEY, None)
            setattr(Session, OUTCOMES, None)
            _connection, _bind, _get_bind = Connection, (Engine, Connection), Session.get_bind
            _has_committed = SessionTransactionState.COMMITTED
            _binds = "binds" if hasattr(Session(), "binds") else "_Session__binds"
            # First, since an exception of the host's own listener keeps later ones from running.
            event.listen(Session, "before_commit", _committing)
            event.listen(Session, "after_commit", _committed, insert=True)
            event.listen(Session, "after_transaction_end", _ended)
            _follows = True


def keep(session: Session, release: Release) -> bool:
    """Keep a use for the commit of the session's transaction; False if none is open."""
    if not _follows:
        follow()
    bind = session.bind
    root = session.get_transaction()
    if root is None:  # what it would write, it would write in the transaction of its Connection
        return isinstance(bind, _connection) and connection_transactions.keep(bind, release)
    transaction: Any = session.get_nested_transaction() or root
    if bind is None:
        bind = _only_bind(session)
    if bind in root._connections:  # which may have options of its own
        bind = root._connections[bind][0]
    info = None if bind is None else bind_info(bind, getattr(release, "outbox", None))
    if info is not None and info.autocommits:
        return False
    if transaction._state is _has_committed:  # and a listener of the host's follows ours
        if transaction.parent is None:
            outer = _outer(session)
            if outer is None or not outer.keep(release):
                run(release)
            return True
        transaction = _boundary(transaction.parent)
    found: KeptUses | None = getattr(session, KEY, None)
    if found is None:
        found = KeptUses()
        setattr(session, KEY, found)
    if info is not None and info.is_of_tables:
        found.may_be_rows = True
    found.append((transaction, release))
    return True


def watch(session: Session) -> int:
    """The number of the session's transactions that have ended; the outcome of the next ones is noted."""
    if not _follows:
        follow()
    return outcomes_of(session).ended


def outcome_since(session: Session, ended: int) -> bool | None:
    """Whether the latest transaction that ended since `watch` committed; None if none ended."""
    found = outcomes_of(session)
    return None if found.ended == ended else found.committed


def keep_outside(session: Session, release: Release) -> bool:
    """Leave a use to the transaction around the one that committed last; False if there is none."""
    outer = outcomes_of(session).outer
    return outer is not None and bool(outer.keep(release))


def _committing(session: Session) -> None:
    found: KeptUses | None = getattr(session, KEY, None)
    if found is None or not found.may_be_rows or session.twophase or session.get_nested_transaction() is not None:
        return
    bind = _only_bind(session)
    if isinstance(bind, _bind):  # for what only behaves like one, the session would open another connection
        found.put(bind.engine, lambda: _connect(session, bind))


def _connect(session: Session, bind: Any) -> Any:
    """The connection of a session to its bind; None without one, where the session needs none to commit."""
    try:
        return session.connection(bind_arguments={"bind": bind})
    except Exception:
        if session.new or session.dirty or session.deleted:
            raise  # as the host's own flush would
        log.debug("no connection for a row of the outbox", exc_info=True)
        return None


def _only_bind(session: Session) -> Any:
    """The bind of a session, if it has one alone: of several, one may commit and the next one fail."""
    if getattr(session, _binds, None):
        return None
    if type(session).get_bind is _get_bind:
        return session.bind
    try:  # it is Flask-SQLAlchemy's, or a class of the host's that has no such attribute
        return session.get_bind() if len(session._db.engines) == 1 else None  # type: ignore[attr-defined]
    except Exception:
        return None


def _committed(session: Session) -> None:
    found: KeptUses | None = getattr(session, KEY, None)
    outcomes: Outcomes | None = getattr(session, OUTCOMES, None)
    if found is None and outcomes is None:
        return
    savepoint = session.get_nested_transaction()
    if savepoint is not None:
        if found is not None:
            found.move(savepoint, _boundary(savepoint.parent))
        return
    # The session may only take part in a transaction of the host's.
    outer = _outer(session)
    if outcomes is not None:
        outcomes.committing, outcomes.outer = True, outer
    if found is None:
        return
    setattr(session, KEY, None)
    if outer is not None:
        found[:] = [entry for entry in found if not outer.keep(entry[1])]
    found.record()


def _outer(session: Session) -> connection_transactions.Outer | None:
    """The transaction of a Connection of the host's that what the session has committed goes with."""
    transaction = session.get_transaction()
    used = () if transaction is None else transaction._connections
    for bind in (session.bind, *used):
        if isinstance(bind, _connection) and bind.in_transaction():
            return connection_transactions.Outer(bind)
    return None


def _boundary(transaction: SessionTransaction | None) -> SessionTransaction | None:
    """The savepoint or outermost transaction around a transaction; a flush begins others in between."""
    while transaction is not None and not transaction.nested and transaction.parent is not None:
        transaction = transaction.parent
    return transaction


def _ended(session: Session, transaction: SessionTransaction) -> None:
    found: KeptUses | None = getattr(session, KEY, None)
    outcomes: Outcomes | None = getattr(session, OUTCOMES, None)
    if found is None and outcomes is None:
        return
    if transaction.parent is not None:
        if found is not None and transaction.nested:
            found[:] = [entry for entry in found if entry[0] is not transaction]
        return
    if found is not None:
        # A listener of the host's before ours may have begun the next transaction, with uses.
        present = session.get_transaction()
        found[:] = [] if present is None else [entry for entry in found if entry[0] is present]
        setattr(session, KEY, found or None)
    if outcomes is not None:
        if outcomes.request is not None:
            request, outcomes.request = outcomes.request, None
            if request.sessions is not None:
                request.sessions[session] = outcomes.committing
        outcomes.end(committed=outcomes.committing)
