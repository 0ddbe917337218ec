"""The WSGI middleware: requests that succeed become uses of features."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from .capture.context import Request, current_request, holder
from .capture.outcome import outcome_of_response
from .capture.registry import Recorder
from .errors import AuditUnavailable
from .typing import Environ, Metadata, StartResponse, WSGIApp
from .web import unavailable
from .web.audit_policy import Audits, RequestAudit
from .web.framework_users import flask_user
from .web.request_counter import NOTHING, Counter, Target, is_login_redirect
from .web.response_body import Body
from .web.routes import flask_route, flask_routes
from .web.rules import Features
from .web.setup_checks import WSGI, check_protocol, look_below


class UsageMiddleware:
    """Counts what its app answers; see Rules for `features`, `include` and `exclude`.

    - `tracker`: a Tracker; without one, whatever `usage_instrument.configure` sets up, before or after.
    - `user`: from the environ to the user's id; otherwise it is who `as_user` or `identify` said, else the user that
      Flask-Login has loaded, else nobody.
    - `metadata`: a mapping, or a callable from the environ to one.
    - `success`: from status and environ to whether the response is a use; otherwise 2xx is, and 3xx for an unsafe
      method.
    - `audit`: from names of features to True or `"required"`; see Auditing.

    The callables run when the app calls `start_response`. Answers go through untouched: lists, files and all else
    that servers treat specially are returned as they are; an AuditUnavailable that the app lets through becomes a 503,
    as Flask does not without the extension. Raises FeatureNameError and ConfigurationError
    (ValueErrors), DeclarationError and MetadataError (TypeErrors) for options that cannot work; at run time it raises
    nothing of its own unless the tracker is strict.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        tracker: Recorder | None = None,
        features: Features | None = None,
        include: Iterable[str] | None = None,
        exclude: Iterable[str] | None = None,
        user: Callable[[Environ], object] | None = None,
        metadata: Metadata | Callable[[Environ], Metadata | None] | None = None,
        success: Callable[[int, Environ], object] | None = None,
        audit: Audits | None = None,
    ) -> None:
        check_protocol(app, WSGI)
        self.app = app
        self._counter = Counter(tracker, features, include, exclude, user, metadata, success, flask_user, audit=audit)
        self._counter.look = partial(look_below, app, self._counter, flask_routes)
        self._hears_flask_login = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """As PEP 3333 says."""
        if not self._hears_flask_login and "flask_login" in sys.modules:
            self._hears_flask_login = True
            _hear_flask_login()
        counter = self._counter
        request, is_ours = counter.begin("http", environ.get("REQUEST_METHOD", ""), environ, environ)
        request.allows_tuples = True
        exchange = Response(counter, request, is_ours, environ, start_response)
        token = holder.set(exchange.holder)
        try:
            if exchange.audit is not None:
                exchange.audit.admit()
            body = self.app(environ, exchange.start)
        except AuditUnavailable as error:
            exchange.fail(error)
            exchange.end()
            unavailable.say(error)
            # The third argument is for who has begun an answer already; without one, some servers raise it.
            exchange.start_response(
                unavailable.STATUS_LINE, unavailable.HEADERS, *([sys.exc_info()] if exchange.begun else [])
            )
            return [unavailable.BODY]
        except BaseException as error:
            exchange.fail(error)
            exchange.end()
            raise
        finally:
            holder.reset(token)
        if _is_untouchable(body, environ):
            exchange.end()
            return body
        exchange.body = body
        return exchange


class Response(Body):
    """The response of one request, from its `start_response` on."""

    __slots__ = ("_script", "begun", "start_response")

    def __init__(
        self,
        counter: Counter,
        request: Request,
        is_ours: bool,
        environ: Environ,
        start_response: StartResponse,
    ) -> None:
        # All of it at once instead of by super(): this is made for each request.
        self._counter = counter
        self._request = request
        self._is_ours = is_ours
        self._carrier = environ
        self.holder = counter.holder_for(request)
        self.pending = None
        self.audit = None
        if counter.auditing is not None:
            foresee = partial(counter.auditing.at, _paths(environ), request.method)
            self.audit = RequestAudit(counter.auditing, request, environ, foresee, self._audited)
        self.body = ()
        self._iterator = None
        self.begun = False
        self.start_response = start_response
        self._script: str = environ.get("SCRIPT_NAME", "")

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """The `start_response` that the app gets. Only here does Flask know the route and the user."""
        self.begun = True
        self._weigh(status, headers)
        if exc_info is None:
            return self.start_response(status, headers)
        try:
            return self.start_response(status, headers, exc_info)
        finally:
            exc_info = None  # it refers to this frame

    def _weigh(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.pending = target = None
        request, environ, counter = self._request, self._carrier, self._counter
        if self.audit is not None:
            with counter.guarding():
                location = next((value for name, value in headers if name.lower() == "location"), "")
                self.audit.answered(outcome_of_response(request, int(status[:3]), location))
        if request.discarded:
            return
        try:
            code = int(status[:3])
            is_plain = counter.success is None and 200 <= code < 300
            if not is_plain and not self._succeeded(code, headers):
                return
            target = self._target()
            self.pending = counter.weigh(request, environ, target)
        except Exception as error:
            counter.failed(error, target)

    def _succeeded(self, code: int, headers: list[tuple[str, str]]) -> bool:
        counter, environ = self._counter, self._carrier
        if not counter.succeeded(self._request, environ, code):
            return False
        if 300 <= code < 400 and counter.success is None:
            path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1").decode()
            return not any(is_login_redirect(value, path) for name, value in headers if name.lower() == "location")
        return True

    def _target(self) -> Target:
        counter, environ, method = self._counter, self._carrier, self._request.method
        handled: Any = environ.get("werkzeug.request")
        if not hasattr(handled, "url_rule"):
            return counter.target_of_path(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), method)
        rule = handled.url_rule
        if rule is None:
            return NOTHING
        prefix = environ.get("SCRIPT_NAME", "").removeprefix(self._script)
        key = (id(rule), method, prefix)
        target = counter.targets.get(key)
        if target is None:
            target = counter.target(flask_route(rule, prefix), method, rule)
            counter.remember(key, target)
        return target

    def _audited(self) -> Collection[str]:
        return self._counter.audited(self._target(), self._carrier, _paths(self._carrier), self._request.method)


def _paths(environ: Environ) -> list[str]:
    """The path as the server and as the app see it."""
    script, path = environ.get("SCRIPT_NAME", ""), environ.get("PATH_INFO", "")
    return [text.encode("latin-1").decode("utf-8", "replace") for text in (script + path, path)]


def _is_untouchable(body: object, environ: Environ) -> bool:
    """Whether a server looks at more of a body than its pieces: at its length, or at the file that it is."""
    if hasattr(type(body), "__len__") or hasattr(body, "fileno"):
        return True
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


def _hear_flask_login() -> None:
    """Learn of the redirects that Flask-Login makes, also of those that keep `next` in the session."""
    signals: Any = sys.modules["flask_login"]
    signals.user_unauthorized.connect(_was_sent_to_log_in)
    signals.user_needs_refresh.connect(_was_sent_to_log_in)


def _was_sent_to_log_in(sender: object, **_: object) -> None:
    request = current_request()
    if request is not None:
        request.discard()
