"""The responses that views of frameworks return, and the request that runs, where no middleware is; imports none."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from usage_instrument.runtime import log

from .request_info import header, is_login_redirect, path_in

_FRAMEWORKS = frozenset({"werkzeug", "starlette", "django", "webob", "bottle"})


@functools.lru_cache(512)
def _is_response(kind: Any) -> bool:
    """Whether a class is the response of a framework's views, and not what a client of some server got."""
    return any(
        "Response" in base.__name__ and base.__module__.partition(".")[0] in _FRAMEWORKS for base in kind.__mro__
    )


def status_alone(result: object, status_of: Callable[[Any], int | None]) -> int | None:
    """The status of a result that is certain to be a view's answer; a tuple is one while Flask serves a request."""
    kind: Any = type(result)
    try:
        is_answer = _flask_request() is not None if kind is tuple else _is_response(kind)
    except Exception:  # a class without a hash, or with a module that is no text
        is_answer = False
    return status_of(result) if is_answer else None


def method_alone() -> str:
    """The method of the request that Flask serves; empty without one."""
    request = _flask_request()
    return "" if request is None else str(request.method)


def location_of(result: Any) -> str:
    """The `Location` of a view's answer; empty without one."""
    try:
        return header(result[0] if type(result) is tuple else result, "location")
    except Exception:  # the host's response
        return ""


def leads_to_login(result: object, status: int | None) -> bool:
    """Whether an answer is a redirect to the login page of Flask-Login or Django."""
    location = location_of(result) if status is not None and 300 <= status < 400 else ""
    if not location:
        return False
    try:
        request = _flask_request()
        if request is not None and is_login_redirect(location, request.environ):
            return True
        return path_in(location) in (_flask_login(request), _django_login())
    except Exception:  # of the host's objects
        log.debug("cannot find the login page of the framework", exc_info=True)
        return False


def _flask_request() -> Any:
    flask: Any = sys.modules.get("flask")
    has_request = getattr(flask, "has_request_context", None)  # None while another thread imports Flask
    return flask.request if has_request is not None and has_request() else None


def _flask_login(request: Any) -> str | None:
    flask: Any = sys.modules.get("flask")
    view = None if request is None else getattr(getattr(flask.current_app, "login_manager", None), "login_view", None)
    return path_in(flask.url_for(view)) if isinstance(view, str) and "/" not in view else view


def _django_login() -> str | None:
    conf: Any = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return None
    return path_in(sys.modules["django.shortcuts"].resolve_url(conf.settings.LOGIN_URL))
