"""The option `commit=`: a use counts if and only if a transaction of the host's commits.

What it may be: a Session or Connection of SQLAlchemy, sync, async or scoped; the alias of a database of Django; or the
word "request".
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from usage_instrument.errors import DeclarationError, UsageInstrumentError
from usage_instrument.events import Use
from usage_instrument.runtime import log
from usage_instrument.typing import UNSET

from . import connection_transactions, django_transactions, request_transactions, session_transactions
from .call_arguments import Args, Kwargs, argument_reader, check_sync, parameters_of
from .kept_uses import Release

if TYPE_CHECKING:
    from .registry import Recorder

ACCEPTED = (
    "'request', a Session or Connection of SQLAlchemy (also async or scoped), or the alias of a database of Django"
)

_TYPES = 200
"""Types whose kind is remembered. An app may create classes while it runs: then all are forgotten."""


class _Kind(NamedTuple):
    """One kind of what `commit=` may be."""

    keep: Callable[[Any, Release], bool]
    owner: Callable[[Any], Any] | None = None
    """The session or connection behind a value, if that is not its own."""
    watch: Callable[[Any], int] | None = None
    outcome_since: Callable[[Any, int], bool | None] | None = None
    keep_outside: Callable[[Any, Release], bool] | None = None
    """Leaves a use of a transaction that committed to the one around it."""


def _sync_session(value: Any) -> Any:
    return value.sync_session


def _sync_connection(value: Any) -> Any:
    return value.sync_connection


def _scoped(value: Any) -> Any:
    session = value.registry()
    return getattr(session, "sync_session", session)


def _proxied(value: Any) -> Any:
    return value.get_transaction.__self__


_SESSION = _Kind(
    session_transactions.keep,
    None,
    session_transactions.watch,
    session_transactions.outcome_since,
    session_transactions.keep_outside,
)
_CONNECTION = _Kind(
    connection_transactions.keep, None, connection_transactions.watch, connection_transactions.outcome_since
)
_NAMED = _Kind(lambda name, release: _keep_by_name(name, release))
_CLASSES = (
    ("sqlalchemy.orm", "Session", _SESSION),
    ("sqlalchemy.orm", "scoped_session", _SESSION._replace(owner=_scoped)),
    ("sqlalchemy.ext.asyncio", "AsyncSession", _SESSION._replace(owner=_sync_session)),
    ("sqlalchemy.ext.asyncio", "async_scoped_session", _SESSION._replace(owner=_scoped)),
    ("sqlalchemy.engine", "Connection", _CONNECTION),
    ("sqlalchemy.ext.asyncio", "AsyncConnection", _CONNECTION._replace(owner=_sync_connection)),
)

_INSTEAD = {
    "sessionmaker": "a session that it has made",
    "async_sessionmaker": "a session that it has made",
    "SessionTransaction": "its `.session`",
    "AsyncSessionTransaction": "its `.session`",
    "Transaction": "its `.connection`",
    "AsyncTransaction": "its `.connection`",
    "Engine": "a Connection of its `begin()`",
    "AsyncEngine": "a Connection of its `begin()`",
    "SQLAlchemy": "its `.session`",
}
"""What to pass instead of objects of SQLAlchemy and Flask-SQLAlchemy, by the names of their classes."""

_kinds: dict[type, _Kind] = {}


def check_commit(commit: object) -> None:
    """Raise DeclarationError (a TypeError) for what is no session, connection or alias, and ConfigurationError (a
    ValueError) for an unknown alias."""
    if (_kinds.get(type(commit)) or _kind_of(commit)) is _NAMED and commit != request_transactions.REQUEST:
        django_transactions.connection_of(str(commit))


def _kind_of(commit: object) -> _Kind:
    kind = type(commit)
    found = _kinds.get(kind)
    if found is not None:
        return found
    found = _kind_of_class(kind)
    if found is None:  # the class of a proxy may stand for any other one
        found = _kind_behind(commit)
        if found is None:
            raise DeclarationError(f"commit= is {ACCEPTED}, not {kind.__name__}{_advice(commit)}")
        return found
    if len(_kinds) >= _TYPES:
        _kinds.clear()
    _kinds[kind] = found
    return found


def _kind_behind(proxy: object) -> _Kind | None:
    """The kind of what a proxy stands for now; None for another object, and for a proxy that is not bound."""
    try:
        found = _kind_of_class(proxy.__class__)
    except Exception:  # of the host's class
        return None
    if found in (_SESSION, _CONNECTION):  # what is noted of it has to be its own
        return found._replace(owner=_proxied)
    return found


def _kind_of_class(kind: type) -> _Kind | None:
    if issubclass(kind, str):
        return _NAMED
    for module, name, found in _CLASSES:
        known = getattr(sys.modules.get(module), name, None)
        if known is not None and issubclass(kind, known):
            return found
    return None


def _advice(commit: object) -> str:
    """What to pass instead of an object that leads to a session or connection."""
    for kind in type(commit).__mro__:
        if kind.__name__ in _INSTEAD and kind.__module__.partition(".")[0] in {"sqlalchemy", "flask_sqlalchemy"}:
            return f": pass {_INSTEAD[kind.__name__]}"
    return ""


def now() -> int:
    """The time of a capture, in microseconds since 1970."""
    return time.time_ns() // 1000


def keep(recorder: Recorder, use: Use, commit: object) -> bool:
    """Record a use when the open transaction commits. Without one, record it now, and return False: the caller
    complains.

    Raises as check_commit, and what a strict recorder raises.
    """
    kind = _kinds.get(type(commit)) or _kind_of(commit)
    owner = commit if kind.owner is None else kind.owner(commit)
    release = recorder.hold(use)
    if owner is not None and kind.keep(owner, release):
        return True
    release()
    return False


def _keep_by_name(name: str, release: Release) -> bool:
    if name != request_transactions.REQUEST:
        return django_transactions.keep(name, release)
    return request_transactions.keep(release)


def no_transaction(feature: str, commit: object) -> UsageInstrumentError:
    """The complaint about a use that found no open transaction, or no request."""
    if isinstance(commit, str) and commit == request_transactions.REQUEST:
        return UsageInstrumentError(
            f"commit='request' of {feature!r} finds no request, so the use counts at once: add the middleware to the"
            " app, or pass the session"
        )
    return UsageInstrumentError(
        f"commit= of {feature!r} finds no open transaction, so the use counts at once: call it between begin and commit"
    )


class Span:
    """The transactions of one session or connection during a call."""

    __slots__ = ("_owner", "_watched", "commit")

    def __init__(self, commit: object) -> None:
        """Note the outcomes from now on. Raises as check_commit."""
        self.commit = commit
        kind = _kind_of(commit)
        self._owner = commit if kind.owner is None else kind.owner(commit)
        self._watched = 0 if self._owner is None or kind.watch is None else kind.watch(self._owner)

    def keep(self, recorder: Recorder, use: Use) -> bool:
        """Decide on the use that the call was. False if it counted at once for want of a transaction.

        If a transaction committed in the call, the use counts now: later statements only read, such as those that
        refresh what the commit expired. If the call rolled one back, the use counts only with the one begun since. Else
        it counts with the transaction that is open.
        """
        kind = _kind_of(self.commit)
        owner: Any = self.commit if kind.owner is None else kind.owner(self.commit)
        outcome = None
        if owner is self._owner and owner is not None and kind.outcome_since is not None:
            outcome = kind.outcome_since(owner, self._watched)
        if outcome is None:
            return keep(recorder, use, self.commit)
        release = recorder.hold(use)
        if not outcome:
            if owner.in_transaction():  # and not only a Connection that the session is bound to
                kind.keep(owner, release)
        elif kind.keep_outside is None or not kind.keep_outside(owner, release):
            release()
        return True


BeginSpan: TypeAlias = "Callable[[Args, Kwargs], Span | Exception | None]"
"""From the arguments of a call that begins to its transactions; None if it was called without a session."""


def span_reader(commit: object, function: object) -> BeginSpan | None:
    """What notes the transactions of each call of a function; None without `commit`.

    `commit` is the name of an argument, a callable on the call's arguments, or what `track` takes; "request" is no
    argument's name. Raises DeclarationError and ConfigurationError.
    """
    if commit is None:
        return None
    if isinstance(commit, str) and commit == request_transactions.REQUEST:
        request_transactions.want()
    elif isinstance(commit, str):
        try:
            argument = argument_reader(parameters_of(function), commit)
        except DeclarationError:
            if not django_transactions.is_alias(commit):
                raise
        else:
            return lambda args, kwargs: span_of(argument(args, kwargs))
        return lambda args, kwargs: span_of(commit)
    try:
        _kind_of(commit)
    except DeclarationError:
        if not callable(commit):
            raise
        try:
            check_sync(commit, "commit=")
        except DeclarationError:
            raise
        except Exception:  # of a proxy, such as Werkzeug's, that is bound only when a call begins
            log.debug("cannot see what commit= stands for yet", exc_info=True)
        return lambda args, kwargs: _called_span(commit, args, kwargs)
    return lambda args, kwargs: span_of(commit)


def _called_span(commit: Callable[..., Any], args: Args, kwargs: Kwargs) -> Span | Exception | None:
    try:
        is_proxy = type(commit) is not commit.__class__ and _kind_behind(commit) is not None
        return span_of(commit if is_proxy else commit(*args, **kwargs))
    except Exception as error:  # of the host's callable
        return error


def span_of(commit: object) -> Span | Exception | None:
    """The transactions of a call that passes `commit`; an Exception if it is nothing of the kind."""
    if commit is None or commit is UNSET:
        return None
    try:
        return Span(commit)
    except Exception as error:
        return error
