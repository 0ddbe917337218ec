"""An access as it happens: when, who acts, in which request; and what became of it."""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import uuid4

from .carrier import header, impersonator, is_login_redirect, path_of, request_id
from .context import Holder, Request, current_request, known_actor, request_of
from .events import Access
from .outcome import STATUSLESS, status_of
from .typing import Outcome, UserId, _Unset

logger = logging.getLogger("usage_instrument")

_DENIALS = frozenset({401, 403})
_DENIED = frozenset({"PermissionDenied", "NotAuthenticated", "AuthenticationFailed"})
"""Exceptions that carry no status: Django's and REST framework's, which nothing here imports."""


def new_access(outcome: Outcome) -> Access:
    """An access that happens now. Never raises: what the request carries is the host's."""
    request, actor, id_ = current_request(), known_actor(), None
    try:
        if request is not None and request.carrier is not None:
            id_ = request_id(request.carrier)
            actor = impersonator(request.carrier) if isinstance(actor, _Unset) else actor
    except Exception:
        logger.debug("the request does not tell who acts in it", exc_info=True)
    who: UserId = None if isinstance(actor, _Unset) else actor
    return Access(uuid4(), outcome, time.time_ns() // 1000, who, id_)


def outcome_of(held: Holder | None, result: Any) -> Outcome:
    """What the result of a call says: in an HTTP request, the status of a response; else it is a success."""
    request = request_of(held)
    if request is None or request.kind != "http" or type(result) in STATUSLESS:
        return "success"
    status = None if type(result) is tuple and not request.tuples else status_of(result)
    if status is not None and 300 <= status < 400 and _is_sent_to_log_in(request, result):
        return "denied"
    return outcome_of_status(status)


def outcome_of_status(status: int | None) -> Outcome:
    """What an HTTP status says."""
    if status in _DENIALS:
        return "denied"
    return "success" if status is None or status < 400 else "failed"


def outcome_of_error(error: BaseException) -> Outcome:
    """What an exception says: a PermissionError and one that becomes a 401 or 403 are denials."""
    if isinstance(error, PermissionError) or any(base.__name__ in _DENIED for base in type(error).__mro__):
        return "denied"
    # Starlette's, FastAPI's and REST framework's have the former, Werkzeug's the latter.
    attributes = _attributes(error)
    statuses = (attributes.get(name) for name in ("status_code", "code"))
    return "denied" if any(isinstance(status, int) and status in _DENIALS for status in statuses) else "failed"


def _attributes(error: BaseException) -> dict[str, Any]:
    """Of the exception and of its classes; no property of the host's is run."""
    found: dict[str, Any] = {}
    for base in reversed(type(error).__mro__):
        found.update(vars(base))
    return {**found, **getattr(error, "__dict__", {})}


def _is_sent_to_log_in(request: Request, result: Any) -> bool:
    if request.discarded:  # Flask-Login has told so
        return True
    try:
        response = result[0] if type(result) is tuple else result
        location = header(response, "location")
        return bool(location) and is_login_redirect(location, path_of(request.carrier))
    except Exception:  # the host's response
        return False
