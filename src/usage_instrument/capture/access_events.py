"""An access as it happens: when, who acts, in which request; and what became of it."""

from __future__ import annotations

import logging
import time
from typing import Any, TypeAlias
from uuid import uuid4

from usage_instrument.errors import AuditUnavailable, describe
from usage_instrument.events import Access, Use
from usage_instrument.typing import Outcome, UserId, _Unset

from .context import SILENT_METHODS, Holder, Request, current_request, known_actor, request_of
from .loaded_attributes import loaded_attribute
from .outcome import STATUSLESS, status_of
from .registry import Recorder
from .request_info import header, impersonator, is_login_redirect, path_of, request_id

logger = logging.getLogger("usage_instrument")

Kept: TypeAlias = dict[str, Any] | str | None
"""Metadata as it travels: flat scalars, or JSON text."""

_DENIALS = frozenset({401, 403})
_DENIED = frozenset({"PermissionDenied", "NotAuthenticated", "AuthenticationFailed"})
"""Exceptions that carry no status: Django's and REST framework's, which nothing here imports."""


def new_access(outcome: Outcome) -> Access:
    """An access that happens now. Never raises: what the request carries is the host's."""
    request, actor, id_ = current_request(), known_actor(), None
    try:
        if request is not None and request.info is not None:
            id_ = request_id(request.info)
            actor = impersonator(request.info) if isinstance(actor, _Unset) else actor
    except Exception:
        logger.debug("the request does not tell who acts in it", exc_info=True)
    who: UserId = None if isinstance(actor, _Unset) else actor
    return Access(uuid4(), outcome, time.time_ns() // 1000, who, id_)


def attempted(feature: str, access: Access, user: UserId | Exception, metadata: Kept | Exception) -> Use:
    """The access as it is to be admitted. Raises AuditUnavailable where it cannot be told whose it is."""
    if isinstance(user, Exception):
        raise AuditUnavailable.of(feature, describe(user)) from user
    return Use(feature, user, None if isinstance(metadata, Exception) else metadata, 0, access)


def ended(
    recorder: Recorder,
    feature: str,
    access: Access,
    user: UserId | Exception,
    metadata: Kept | Exception,
    uses: int = 0,
) -> None:
    """Hand over an access whose outcome is known, and the uses that it is. Whatever is wrong with its user or its
    metadata, the access is recorded."""
    if isinstance(user, Exception):
        recorder.record(Use(feature, None, {"usage_instrument": f"user: {describe(user)}"}, 0, access))
        if uses:
            recorder.reject(feature, user)
        return
    recorder.record(Use(feature, user, None if isinstance(metadata, Exception) else metadata, uses, access))
    if isinstance(metadata, Exception):
        recorder.lose_metadata(feature, metadata)


def outcome_of(held: Holder | None, result: Any) -> Outcome:
    """What the result of a call says: in an HTTP request, the status of a response; else it is a success."""
    request = request_of(held)
    if request is None or request.kind != "http" or type(result) in STATUSLESS:
        return "success"
    status = None if type(result) is tuple and not request.allows_tuples else status_of(result)
    if status is None or not 300 <= status < 400:
        return outcome_of_status(status)
    try:
        location = header(result[0] if type(result) is tuple else result, "location")
    except Exception:  # the host's response
        location = ""
    return outcome_of_response(request, status, location)


def outcome_of_response(request: Request, status: int, location: str) -> Outcome:
    """What the head of a response says: its status, and where it leads."""
    if 300 <= status < 400:
        told = request.discarded and request.method not in SILENT_METHODS  # by Flask-Login
        if told or (location and is_login_redirect(location, path_of(request.info))):
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
    statuses = (loaded_attribute(error, name) for name in ("status_code", "code"))
    return "denied" if any(isinstance(status, int) and status in _DENIALS for status in statuses) else "failed"
