"""Judges how a call or a request ended: whether it is a use, and the outcome of an access."""

from __future__ import annotations

from typing import Any

from usage_instrument.typing import Outcome

from . import responses
from .context import SAFE_METHODS, SILENT_METHODS, Holder, Middleware, Request, judge, request_of
from .loaded_attributes import attributes_of, loaded_attribute
from .request_info import is_login_redirect, names_path_of
from .responses import Guard

STATUSLESS = frozenset({type(None), bool, int, float, str, bytes, list, dict, set})
"""Types of results without an HTTP status. Most results are of one of them."""

_DENIALS = frozenset({401, 403})
_DENIED = frozenset({"PermissionDenied", "NotAuthenticated", "AuthenticationFailed"})
"""Exceptions without a status: Django's and REST framework's, which nothing here imports."""


def succeeded(held: Holder | None, result: object, *, guard: Guard | None = None) -> bool | None:
    """Whether a call that returned `result` is a success (True), a failure (False), or neither (None).

    It is a success unless its result is the response of an HTTP request and has another status. `guard` is
    the access decorator below `tracks`, if any.
    """
    if _has_no_status(result):
        return True
    request = request_of(held)
    if request is None:
        return _succeeded_alone(result, guard=guard)
    if request.kind != "http":
        return True
    status = _status_in(request, result)
    if status is None:
        return True
    if 300 <= status < 400 and outcome_of(held, result) == "denied":
        return False
    return request.judge(status)


def _status_in(request: Request, result: Any) -> int | None:
    return None if type(result) is tuple and not request.allows_tuples else status_of(result)


def status_of(result: Any) -> int | None:
    """The status of a view's result; None if it has none.

    Reads `status_code`, and Flask's tuples `(body, status)`, `(body, status, headers)` and `(response, headers)`.
    """
    if type(result) is tuple:
        if len(result) not in (2, 3) or type(result[0]) is tuple:
            return None
        status = _integer(result[1])
        if status is None and type(result[1]) is str and result[1][:3].isdecimal() and result[1][3:4] == " ":
            status = int(result[1][:3])  # "404 NOT FOUND"
        if status is None:
            return status_of(result[0])
        # A tuple may be a plain value. No view answers with a status out of this range.
        return status if 200 <= status < 600 else None
    if "_sa_instance_state" in attributes_of(result):  # an ORM's row is no response, whatever its columns are called
        return None
    try:
        return _integer(loaded_attribute(result, "status_code", run_property=True))
    except Exception:  # the host's property
        return None


def _integer(status: object) -> int | None:
    """An int or an http.HTTPStatus; None for anything else, such as a Mock that claims to be one."""
    kind = type(status)
    return int(status) if issubclass(kind, int) and kind is not bool else None  # type: ignore[call-overload]


def outcome_of(held: Holder | None, result: Any, *, guard: Guard | None = None) -> Outcome:
    """The outcome of an access that returned: the status of a response in an HTTP request, else a success."""
    request = request_of(held)
    if _has_no_status(result) or (request is not None and request.kind != "http"):
        return "success"
    if request is None:
        status = responses.status_alone(result, status_of)
        return "denied" if responses.leads_to_login(result, status, guard=guard) else outcome_of_status(status)
    status = _status_in(request, result)
    if status is None or not 300 <= status < 400:
        return outcome_of_status(status)
    return outcome_of_response(request, status, responses.location_of(result))


def _has_no_status(result: object) -> bool:
    try:
        return type(result) in STATUSLESS
    except Exception:  # its metaclass has no hash
        return False


def _succeeded_alone(result: object, *, guard: Guard | None) -> bool | None:
    """Whether a view's own answer is a success where no middleware has seen its request."""
    status = responses.status_alone(result, status_of)
    if status is None:
        return True
    return False if responses.leads_to_login(result, status, guard=guard) else judge(status, responses.method_alone())


def outcome_of_response(request: Request, status: int, location: str) -> Outcome:
    """The outcome by the status and the `Location` of a response: a redirect to a login page is a denial."""
    if 300 <= status < 400 and request.denied:
        return "denied"
    middleware = request.counters[-1] if request.counters else None
    if 300 <= status < 400 and location and leads_to_login(request, location, middleware, request.info):
        return "denied"
    return outcome_of_status(status)


def leads_to_login(request: Request, location: str, middleware: Middleware | None, info: Any) -> bool:
    """Whether a redirect refuses a request and sends its user to a login page.

    The page must be known for an unsafe method, since the client may have written the location. A refusal names the
    path of the request in a parameter of any name. Without one, only a user who is not signed in is refused, by a safe
    method or by what is known to redirect so: the redirect of a registration or a logout is none.
    """
    is_safe = request.method in SAFE_METHODS or request.method in SILENT_METHODS
    page = None if middleware is None else middleware.login_page(location, info)
    if page is None:
        return is_safe and is_login_redirect(location, info)
    return names_path_of(location, info) or ((is_safe or page == "bare") and _is_anonymous(request))


def _is_anonymous(request: Request) -> bool:
    try:
        return request.known_user() is None
    except Exception:  # a refused statement is one of some user
        return False


def outcome_of_status(status: int | None) -> Outcome:
    """The outcome by an HTTP status; None is a success."""
    if status in _DENIALS:
        return "denied"
    return "success" if status is None or status < 400 else "failed"


def outcome_of_error(error: BaseException) -> Outcome:
    """The outcome by an exception: a PermissionError, and one that becomes a 401 or 403, are denials."""
    if isinstance(error, PermissionError) or any(base.__name__ in _DENIED for base in type(error).__mro__):
        return "denied"
    # Starlette's, FastAPI's and REST framework's have the former, Werkzeug's the latter.
    statuses = (loaded_attribute(error, name) for name in ("status_code", "code"))
    return "denied" if any(isinstance(status, int) and status in _DENIALS for status in statuses) else "failed"
