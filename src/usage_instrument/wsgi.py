"""The WSGI middleware: requests that succeed become uses of features."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Unpack

from .capture.context import SCOPE_KEY, current_request, holder
from .capture.request_info import header_of, path_of
from .capture.responses import flask_login_pages
from .errors import AuditUnavailable
from .runtime import log
from .typing import UNSET, Environ, Scope, StartResponse, Unset, UserId, WSGIApp
from .web import unavailable
from .web.adapted_asgi import below, combined_routes, follow_adapters, told_apart
from .web.exchange import BodyExchange
from .web.flask_routes import FlaskRoutes, flask_request
from .web.framework_users import flask_session, flask_user, keep_logged_out, loaded_user, note_session_user
from .web.graphql import GraphQLBodies, ReadBody, ReadInput
from .web.options import MiddlewareOptions
from .web.other_routes import OtherRoutes, follow_pyramid, routed_object
from .web.request_counter import NO_ROUTE, RequestCounter, RouteFeature
from .web.routes import Route
from .web.setup_checks import WSGI, check_app, check_protocol, layers
from .web.starlette_routes import RouteTree, marker_of

__all__ = ["UsageMiddleware"]


class UsageMiddleware:
    """Counts the successful requests of its app. See MiddlewareOptions for the options, whose callables run when the
    app calls `start_response`.

    Without `user=`, the user is the one that `as_user` or `identify` stated, else the user that Flask-Login has
    loaded, else anonymous. Responses are passed on unchanged; lists, files and other bodies that servers treat
    specially are returned as they are. An AuditUnavailable that leaves the app becomes a 503; none leaves Flask, so
    there the extension is needed.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError, MetadataError and TypeError for
    options that cannot work. At run time it raises nothing of its own unless the tracker is strict.
    """

    def __init__(self, app: WSGIApp, **options: Unpack[MiddlewareOptions[Environ]]) -> None:
        check_protocol(app, WSGI)
        self.app = app
        known_user = partial(_known_user, app=_flask_app(app))
        self._counter = RequestCounter(
            options, known_user, lambda environ: flask_login_pages(), session_of=flask_session
        )
        self.routes = FlaskRoutes(app)
        innermost = list(layers(app))[-1:] or [app]
        self.others = OtherRoutes(innermost[0])
        follow_pyramid(innermost[0])
        self._counter.check_setup = partial(check_app, app, self._counter, self._visible_routes)
        self.tree = RouteTree()
        self._has_begun = self._hears_flask_login = False
        if self._counter.session_user is not None and "flask" in sys.modules:
            _connect_flask_session(self._note_session)

    @log.quietly("cannot read the session of a request")
    def _note_session(self, sender: object, **_: object) -> None:
        request, key = current_request(), self._counter.session_user
        if request is not None and key is not None and self._counter in request.counters:
            note_session_user(request.info, flask_session(request.info), key)

    def _visible_routes(self, app: object) -> list[Route] | None:
        return self.others.visible() or combined_routes(self.app) or self.routes.visible()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """As PEP 3333 says."""
        if not self._has_begun:
            self._has_begun = True
            if "a2wsgi" in sys.modules:
                follow_adapters(self.app)
        if not self._hears_flask_login and "flask_login" in sys.modules:
            self._hears_flask_login = True
            _connect_flask_login()
        exchange = WSGIExchange(self._counter, "http", environ.get("REQUEST_METHOD", "").upper(), environ, environ)
        exchange.request.allows_tuples = True
        exchange.body = ()
        exchange.iterator = None
        exchange.has_begun = False
        exchange.start_response = start_response
        exchange.middleware = self
        exchange.script = environ.get("SCRIPT_NAME", "")
        bodies = _read_bodies(exchange, environ) if self._counter.graphql else None
        token = holder.set(exchange.holder)
        try:
            if exchange.audit is not None:
                exchange.admit()
            body = self.app(environ, exchange.start)
        except BaseException as error:
            exchange.fail(error)
            exchange.end()
            if not isinstance(error, AuditUnavailable):
                raise
            unavailable.report(error)
            # Only an app that has begun a response may give exc_info; without one, some servers raise it.
            exchange.start_response(
                unavailable.STATUS_LINE, unavailable.HEADERS, *([sys.exc_info()] if exchange.has_begun else [])
            )
            return [unavailable.BODY]
        finally:
            holder.reset(token)
        if exchange.request.undecided is not None and exchange.is_ours:
            exchange.request.decide()
        if bodies is not None:
            body = ReadBody(body, bodies)
        if _is_untouchable(body, environ):
            exchange.end()
            return body
        exchange.body = body
        return exchange


def _read_bodies(exchange: WSGIExchange, environ: Environ) -> GraphQLBodies | None:
    """What reads the bodies of a GraphQL request and its answer as they pass; None for another request."""
    content_type, query = environ.get("CONTENT_TYPE", ""), environ.get("QUERY_STRING", "")
    bodies = exchange.counter.bodies(exchange.request, exchange.paths(), content_type, query)
    if bodies is None:
        return None
    environ["wsgi.input"] = ReadInput(environ["wsgi.input"], bodies.asked)
    start_response = exchange.start_response

    def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        bodies.begin(int(status[:3]), header_of(headers, "content-type"))
        return start_response(status, headers, *exc_info)

    exchange.start_response = start
    return bodies


def _flask_app(app: WSGIApp) -> Any:
    """The Flask app that this one passes all requests on to; None if there is none."""
    flask: Any = sys.modules.get("flask")
    owners = [getattr(layer, "__self__", layer) for layer in layers(app)]
    return next((owner for owner in owners if flask is not None and isinstance(owner, flask.Flask)), None)


class WSGIExchange(BodyExchange):
    """One request, and the body of its response."""

    __slots__ = ("has_begun", "middleware", "script", "start_response")

    # Set by the middleware: one more call would cost each request too much.
    has_begun: bool
    start_response: StartResponse
    middleware: UsageMiddleware
    script: str
    """The path at which the server has mounted the app."""

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """The `start_response` that the app gets. Only here does Flask know the route and the user."""
        self.has_begun = True
        try:
            code = int(status[:3])
        except Exception as error:
            self.malformed(error)
        else:
            self.started(code, headers)
        if exc_info is None:
            return self.start_response(status, headers)
        try:
            return self.start_response(status, headers, exc_info)
        finally:
            exc_info = None  # it refers to this frame

    def paths(self) -> list[str]:
        """As Exchange.paths: the server's and the app's."""
        environ = self.carrier
        return [path_of(environ), path_of({"PATH_INFO": environ.get("PATH_INFO", "")})]

    def route_feature(self) -> RouteFeature:
        """As Exchange.route_feature."""
        counter, environ, method = self.counter, self.carrier, self.request.method
        handled: Any = environ.get("werkzeug.request")
        rule = getattr(handled, "url_rule", None)
        if rule is None:
            # The environ of the app may be a copy, and any later werkzeug Request replaces the entry.
            running = flask_request(self.request)
            if running is None and not hasattr(handled, "url_rule"):
                return self._outside_flask(method)
            rule = None if running is None else running.url_rule
            if rule is None:
                return NO_ROUTE
            environ = running.environ
        prefix = environ.get("SCRIPT_NAME", "").removeprefix(self.script)
        key = (id(rule), method, prefix)
        found = counter.routes.get(key)
        if found is None:
            route = told_apart(self.middleware.app, self.middleware.routes.find(rule, prefix))
            found = counter.remember(key, counter.feature_of(route, method, rule))
        return found

    def _outside_flask(self, method: str) -> RouteFeature:
        counter, environ = self.counter, self.carrier
        marker = routed_object(environ)
        if marker is not None:
            key = (id(marker), method, "")
            return counter.routes.get(key) or counter.remember(
                key, counter.feature_of(self.middleware.others.find(marker, method), method, marker)
            )
        scope = self.request.inner_scope
        marker = None if scope is None else marker_of(scope)
        if scope is not None and marker is not None:
            return self._in_asgi(scope, marker, method)
        path = path_of(environ)
        found = counter.feature_of_path(path, method, names=scope is None or "router" not in scope)
        if found is NO_ROUTE and scope is not None and "router" in scope:  # which has matched none
            return found
        if found is NO_ROUTE:
            counter.report_unnamed(self.request, path, method)
        return found

    def _in_asgi(self, scope: Scope, marker: object, method: str) -> RouteFeature:
        """What the route counts as that a router of Starlette's has matched within an adapter."""
        counter, prefix = self.counter, scope.get("root_path", "").removeprefix(self.script)
        if scope.get("app_root_path") is not None:
            prefix = scope["app_root_path"].removeprefix(self.script)
        key = (id(marker), method, prefix)
        found = counter.routes.get(key)
        if found is None:
            route, is_certain = self.middleware.tree.find(scope, marker, 0)
            found = counter.feature_of(told_apart(self.middleware.app, below(prefix, route)), method, marker)
            if is_certain:
                counter.remember(key, found)
        return found


def _known_user(environ: Environ, app: Any = None) -> UserId | Unset:
    """The user of Flask-Login, else that of AuthenticationMiddleware in an ASGI app within an adapter."""
    found = flask_user(environ, app)
    request = environ.get(SCOPE_KEY)
    scope = None if found is not UNSET or request is None else request.inner_scope
    return found if scope is None else loaded_user(scope.get("user"))


def _is_untouchable(body: object, environ: Environ) -> bool:
    """Whether a server uses more of a body than its pieces: its length, or the file that it is."""
    if hasattr(type(body), "__len__") or hasattr(body, "fileno"):
        return True
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


@log.quietly("cannot follow Flask-Login")  # Flask-Login is blocked, or another thread is importing it
def _connect_flask_login() -> None:
    """Hear of redirects to the login page, some of which keep `next` in the session, and of the user who logs out."""
    signals: Any = sys.modules["flask_login"]
    signals.user_unauthorized.connect(_deny)
    signals.user_needs_refresh.connect(_deny)
    signals.user_logged_out.connect(keep_logged_out)


@log.quietly("cannot follow Flask")  # Flask is blocked, or another thread is importing it
def _connect_flask_session(receiver: Callable[..., None]) -> None:
    """Hear of each request of Flask's that begins."""
    signals: Any = sys.modules["flask"]
    signals.request_started.connect(receiver)


def _deny(sender: object, **_: object) -> None:
    request = current_request()
    if request is not None:
        request.deny()
