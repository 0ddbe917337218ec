"""`commit="request"`: a use counts if what its request wrote is committed.

The request notes which Sessions of SQLAlchemy wrote in it, and how their transactions ended. A request that wrote
nothing has nothing to commit, and counts. A transaction of Django's ATOMIC_REQUESTS decides on the uses within it.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from usage_instrument.runtime import log
from usage_instrument.runtime.threads import allocate_lock

from . import django_transactions, session_transactions
from .context import Request, current_request
from .kept_uses import KEY, Release, outcomes_of, run

if TYPE_CHECKING:
    from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, SessionTransactionOrigin

REQUEST = "request"
"""The value of `commit=` for the transaction of the request."""
_READS = ("select", "show", "explain", "pragma", "values", "set", "describe", "table")
"""How textual statements begin that write nothing. A function that they call may write: that is not seen."""
_BEFORE = re.compile(r"(?:[\s(]|--[^\n]*|/\*.*?\*/)*", re.DOTALL)
"""What may stand before a statement: comments of tools that name the caller, too."""
_WRITES = re.compile(
    r"\b(?:insert\s+into|update\s+(?:only\s+)?\S+\s+(?:(?:as\s+)?\S+\s+)?set|delete\s+from|merge\s+into)\b"
)
"""What writes behind WITH, or within it."""
_following = allocate_lock()
_wanted = _follows = False
_subtransaction: SessionTransactionOrigin | None = None


def want() -> None:
    """`commit="request"` is declared."""
    global _wanted
    _wanted = True
    follow()


def follow() -> None:
    """Listen to what all Sessions write, once, if that is wanted and the ORM is loaded. As early as possible, as
    session_transactions.follow."""
    global _follows, _subtransaction
    if _follows or not _wanted or "sqlalchemy.orm" not in sys.modules:
        return
    session_transactions.follow()
    with _following:
        if not _follows:
            from sqlalchemy import event
            from sqlalchemy.orm import Session, SessionTransactionOrigin

            _subtransaction = SessionTransactionOrigin.SUBTRANSACTION
            event.listen(Session, "after_transaction_create", _begins)
            event.listen(Session, "do_orm_execute", _executes)
            _follows = True


class Writes:
    """The sessions that wrote in a request of Flask without our middleware, as `Request.sessions`."""

    def __init__(self) -> None:
        self.sessions: dict[Any, bool | None] | None = {}


def keep_now(request: Request | Writes, release: Release) -> None:
    """Record a use, keep it for the transaction that is open, or drop it, as what the request has written so far."""
    sessions = request.sessions or {}
    if False in sessions.values():
        return
    waiting = next((session for session, committed in sessions.items() if committed is None), None)
    if waiting is not None:
        is_kept = session_transactions.keep(waiting, release)
    else:
        is_kept = any(session_transactions.keep_outside(session, release) for session in sessions)
    if not is_kept:
        run(release)


def keep(release: Release) -> bool:
    """Decide on a use when its request ends; False where there is none. Within a transaction of ATOMIC_REQUESTS, that
    decides."""
    if not _follows:
        want()
    alias = _atomic_alias()
    # A view that only reads writes no row of ours either, so that it may run on a replica.
    if alias is not None and django_transactions.keep(alias, release, by_row=False):
        return True
    request = _present()
    if request is None:
        return False
    if isinstance(request, Writes) or request.kind == "websocket":  # whose end is not reported, or is far away
        keep_now(request, release)
    else:
        request.at_end(lambda: keep_now(request, release))
    return True


def _present() -> Request | Writes | None:
    """The request that runs here; where there is only Flask's, what it has written."""
    request = current_request()
    flask: Any = sys.modules.get("flask")
    if request is not None or flask is None or not flask.has_request_context():
        return request
    writes: Writes = flask.g.setdefault(KEY, Writes())
    return writes


def _atomic_alias() -> str | None:
    """The database of Django whose ATOMIC_REQUESTS has begun a transaction here; the first one of DATABASES."""
    django: Any = sys.modules.get("django.db")
    if django is None or not django_transactions.is_configured():
        return None
    for alias, settings in django.connections.settings.items():
        if settings.get("ATOMIC_REQUESTS") and django.connections[alias].in_atomic_block:
            return str(alias)
    return None


def _begins(session: Session, transaction: SessionTransaction) -> None:
    """A flush that has objects, and each bulk method, begins a transaction within the session's. The bulk methods have
    no event of their own."""
    try:
        if transaction.origin is _subtransaction and _is_writing(session):
            _note(session)
    except Exception:  # of the host's objects
        log.debug("cannot see what a session writes", exc_info=True)


def _is_writing(session: Session) -> bool:
    if session.new or session.deleted:
        return True
    dirty = session.dirty
    return not dirty or any(map(session.is_modified, dirty))  # without a dirty object it is no flush


def _executes(state: ORMExecuteState) -> None:
    try:
        if state.is_insert or state.is_update or state.is_delete or _is_writing_text(state):
            _note(state.session)
    except Exception:
        log.debug("cannot see what a session writes", exc_info=True)


def _is_writing_text(state: ORMExecuteState) -> bool:
    text = getattr(state.statement, "text", None)
    if not isinstance(text, str):
        return False
    text = text[_BEFORE.match(text).end() :].lower()  # type: ignore[union-attr]  # which matches the empty text, too
    return bool(_WRITES.search(text)) if text.startswith("with") else not text.startswith(_READS)


def _note(session: Session) -> None:
    """The session writes in the present request: until its transaction ends, the outcome is unknown."""
    request = _present()
    if request is not None:
        if request.sessions is None:
            request.sessions = {}
        request.sessions[session] = None
        outcomes_of(session).request = request
