"""The responses that views of frameworks return, and the request that runs, where no middleware is; imports none."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any, TypeAlias

from usage_instrument.runtime import log

from .context import SAFE_METHODS, SILENT_METHODS, LoginPage
from .request_info import flask_session, header, is_login_redirect, names_path_of, path_in, path_of, values_in

_FRAMEWORKS = frozenset({"werkzeug", "starlette", "django", "webob", "bottle"})


Guard: TypeAlias = tuple[Any, Any]
"""The `login_url` and the `redirect_field_name` of an access decorator of Django's."""


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


def leads_to_login(result: object, status: int | None, *, guard: Guard | None) -> bool:
    """Whether an answer is a refusal that leads to the login page of Flask-Login or Django, by the rule of
    outcome.leads_to_login; `guard` is the view's."""
    location = location_of(result) if status is not None and 300 <= status < 400 else ""
    if not location:
        return False
    try:
        request, path = _flask_request(), path_in(location)
        if request is not None:
            environ = request.environ
            if path in flask_login_pages():
                return names_path_of(location, environ) or _is_next_in_session(environ)
            return request.method in SAFE_METHODS | SILENT_METHODS and is_login_redirect(location, environ)
        page = django_login_pages(guard).get(path)
        if page is None or page == "bare":
            return page == "bare"
        return any(value.startswith(("/", "http")) for value in values_in(location))  # the request is not known
    except Exception:  # of the host's objects
        log.debug("cannot find the login page of the framework", exc_info=True)
        return False


def flask_login_pages() -> dict[str, LoginPage]:
    """The login pages of Flask-Login in the app of the request that runs, by their paths."""
    flask: Any = sys.modules.get("flask")
    request = _flask_request()
    manager = None if request is None else getattr(flask.current_app, "login_manager", None)
    if manager is None:
        return {}
    views = [manager.login_view, getattr(manager, "refresh_view", None)]
    views += (getattr(manager, "blueprint_login_views", None) or {}).values()
    return {
        path_in(view if "/" in view else flask.url_for(view)): "with path" for view in views if isinstance(view, str)
    }


def _is_next_in_session(environ: Any) -> bool:
    """Whether Flask-Login has kept the refused path in the session, instead of in a parameter."""
    flask: Any = sys.modules["flask"]
    session = flask_session() if flask.current_app.config.get("USE_SESSION_FOR_NEXT") else None
    kept = dict.get(session, "next") if isinstance(session, dict) else None
    return isinstance(kept, str) and path_in(kept) == path_of(environ)


def django_login_pages(guard: Guard | None) -> dict[str, LoginPage]:
    """The login pages of Django and of the access decorator of a view (`guard_of`), by their paths."""
    conf: Any = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return {}
    resolve: Any = sys.modules["django.shortcuts"].resolve_url
    pages: dict[str, LoginPage] = {path_in(resolve(conf.settings.LOGIN_URL)): "with path"}
    if guard is not None:
        login_url, field = guard
        pages[path_in(resolve(login_url or conf.settings.LOGIN_URL))] = "with path" if field else "bare"
    return pages


def guard_of(view: Any) -> Guard | None:
    """The access decorator or mixin of a Django view; None without one."""
    for _ in range(50):
        if type(view) is not types.FunctionType:
            break
        marks, module = vars(view), view.__globals__.get("__name__")
        kind = marks.get("view_class")
        if isinstance(kind, type) and hasattr(kind, "redirect_field_name") and hasattr(kind, "login_url"):
            return kind.login_url, kind.redirect_field_name
        if "redirect_field_name" in marks:  # since Django 5.1
            return marks.get("login_url"), marks["redirect_field_name"]
        if module == "django.contrib.auth.decorators" and view.__closure__ is not None:
            cells = dict(zip(view.__code__.co_freevars, view.__closure__, strict=True))
            if "redirect_field_name" in cells:
                return cells["login_url"].cell_contents, cells["redirect_field_name"].cell_contents
        view = marks.get("__wrapped__")
    return None


def _flask_request() -> Any:
    flask: Any = sys.modules.get("flask")
    has_request = getattr(flask, "has_request_context", None)  # None while another thread imports Flask
    return flask.request if has_request is not None and has_request() else None
