"""The ASGI middleware: requests and WebSockets that succeed become uses of features."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from operator import index
from typing import Unpack

from .capture.context import holder
from .capture.outcome import outcome_of_response
from .capture.request_info import header_of
from .errors import AuditUnavailable, UserIdError
from .runtime import log
from .typing import UNSET, ASGIApp, Message, Receive, Scope, Send, Unset, UserId
from .web import unavailable
from .web.exchange import Exchange
from .web.flask_routes import RULE_KEY, FlaskRoutes, follow_flask, follow_quart
from .web.framework_users import FLASK_USER, loaded_user, note_session_user
from .web.options import MiddlewareOptions
from .web.other_routes import connexion_route, connexion_routes, connexion_routing, located
from .web.request_counter import NO_ROUTE, RequestCounter, RouteFeature
from .web.routes import WEBSOCKET, Route
from .web.setup_checks import ASGI, check_app, check_protocol, declare_later, layers
from .web.starlette_routes import (
    RouteTree,
    follow_mounts,
    marker_of,
    mount_depth,
    starlette_login_pages,
    visible_routes,
)

__all__ = ["UsageMiddleware"]

_FIRST_USER = "usage_instrument.user"
"""The key of a scope with the user that a middleware further out has put there."""


class UsageMiddleware:
    """Counts the successful requests and WebSockets of its app. See MiddlewareOptions for the options.

    Without `user=`, the user is the one that `as_user` or `identify` stated, else `scope["user"]`, else anonymous.
    A WebSocket is a use when it is accepted. Responses are passed on unchanged; an AuditUnavailable becomes a 503.
    When the lifespan ends, the middleware writes what is pending; it answers the lifespan of an app without one.

    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError, MetadataError and TypeError for
    options that cannot work. At run time it raises nothing of its own unless the tracker is strict.
    """

    def __init__(self, app: ASGIApp, **options: Unpack[MiddlewareOptions[Scope]]) -> None:
        check_protocol(app, ASGI)
        self.app = app
        self._has_begun = False
        self._shares_extensions = False
        """Whether the scope needs `extensions`, in which Connexion notes its routing: it routes a copy of the scope."""
        self._counter = RequestCounter(options, _user_in, starlette_login_pages, session_of=_session_in)
        self._counter.check_setup = self._check_setup
        self._tree = RouteTree()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As the ASGI specification says."""
        kind = scope["type"]
        if not self._has_begun:
            self._begin()
        if kind not in ("http", "websocket"):
            await (self._lifespan if kind == "lifespan" else self.app)(scope, receive, send)
            return
        if self._shares_extensions:
            scope.setdefault("extensions", {})
        exchange = ASGIExchange(self._counter, kind, scope["method"].upper() if kind == "http" else "", scope, scope)
        exchange.respond = send
        exchange.tree = self._tree
        exchange.has_begun = False
        exchange.depth = mount_depth(scope) if "app_root_path" in scope else 0
        if "user" in scope or "session" in scope:
            self._note_users(scope)
        if self._counter.graphql:
            receive = _read_bodies(exchange, scope, receive)
        token = holder.set(exchange.holder)
        try:
            if exchange.audit is None:
                await self.app(scope, receive, exchange.send)
            else:
                await self._audited(exchange, scope, receive)
        except BaseException as error:
            exchange.request.succeeded = False  # also where the response has started
            if exchange.has_begun or not isinstance(error, AuditUnavailable):
                raise
            unavailable.report(error)
            await _refuse(kind, send)
        finally:
            if exchange.is_pending:
                exchange.count_socket(is_last=True)
            try:
                holder.reset(token)
            except ValueError:  # something has moved the request to another context
                pass
            if exchange.is_ours:
                exchange.close_request()

    def _note_users(self, scope: Scope) -> None:
        """Keep the users of middlewares further out: logging out may replace or remove them."""
        if "user" in scope:
            scope[_FIRST_USER] = scope["user"]
        if self._counter.session_user is not None:
            note_session_user(scope, scope.get("session"), self._counter.session_user)

    def _begin(self) -> None:
        self._has_begun = True
        self._shares_extensions = "connexion" in sys.modules
        if "flask" in sys.modules:  # an app of Flask's may be mounted
            follow_flask()
        if "quart" in sys.modules:
            follow_quart()
        if "bottle" in sys.modules or "pyramid" in sys.modules:
            follow_mounts(self.app)
        if self._counter.session_user is not None:
            follow_session(self.app, self._counter.session_user)

    def _check_setup(self) -> None:
        check_app(self.app, self._counter, visible_routes)
        declare_later(self._counter, self._other_routes)
        follow_authentication(self.app)
        if self._counter.session_user is not None:  # the first call may have been before the app built its layers
            follow_session(self.app, self._counter.session_user)

    def _other_routes(self) -> Sequence[Route]:
        """The routes of an app of Connexion or Quart."""
        if visible_routes(self.app) is not None:
            return ()
        return connexion_routes(self.app) or FlaskRoutes(self.app).visible() or ()

    async def _audited(self, exchange: ASGIExchange, scope: Scope, receive: Receive) -> None:
        """Record the attempt at what is required, call the app, and record the outcome."""
        try:
            roots = ("", scope.get("root_path", ""), scope.get("app_root_path", ""))  # now: mounts change them
            exchange.path_below = [scope["path"].removeprefix(root) for root in roots]
            await exchange.admit_async()
            await self.app(scope, receive, exchange.send)
        except BaseException as error:
            exchange.end_audit(error)
            raise
        exchange.end_audit()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the lifespan on, and write what is pending at its end. Answer it for an app without a lifespan."""
        has_begun = has_ended = False

        async def watched_receive() -> Message:
            nonlocal has_begun
            has_begun = True
            return await receive()

        async def watched_send(message: Message) -> None:
            nonlocal has_begun, has_ended
            has_begun = True
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                has_ended = True
                await self._flush()
            await send(message)

        try:
            await self.app(scope, watched_receive, watched_send)
        except Exception as error:
            # The app's own failure: an app without a lifespan does not receive or send, and a framework that puts
            # itself into the scope has one.
            if has_begun or "app" in scope:
                if not has_ended:
                    await self._flush()
                raise
            log.debug("the app has no lifespan: %r", error)
        if has_begun:
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._flush()
        await send({"type": "lifespan.shutdown.complete"})

    async def _flush(self) -> None:
        try:
            await self._counter.recorder.ashutdown()
        except Exception:
            log.warning("lifespan", "could not write what was pending at the end of the lifespan", exc_info=True)


class ASGIExchange(Exchange):
    """One request or WebSocket, and the messages that answer it."""

    __slots__ = ("depth", "has_begun", "path_below", "respond", "tree")

    counts_at_start = True

    # Set by the middleware: one more call would cost each request too much.
    respond: Send
    tree: RouteTree
    depth: int
    """How many segments of the path the mounts outside of the middleware have consumed."""
    has_begun: bool
    """Whether the app has begun its response or accepted the WebSocket."""
    path_below: Sequence[str]
    """The path below each root that the app may know; only for audits."""

    async def send(self, message: Message) -> None:
        """The `send` that the app gets."""
        kind = message["type"]
        if kind == "http.response.start":
            self.has_begun = True
            try:
                status = index(message["status"])
            except Exception as error:
                self.malformed(error)
            else:
                self.started(status, message.get("headers", ()))
            if self.audit is not None:
                self.end_audit()
        elif kind == "websocket.send":
            if self.is_pending:
                self.count_socket()
        elif kind != "http.response.body":
            self._hear(kind, message)
        await self.respond(message)

    def count_socket(self, *, is_last: bool = False) -> None:
        """Count an accepted WebSocket, as soon as its user is known: many apps identify the user by the first message.
        At its end, it counts as anonymous."""
        try:
            if self.user is None and self.request.open:
                self.user = self.request.known_user()
        except UserIdError as error:
            self.is_pending = False
            self.counter.failed(error)
        if self.is_pending and (self.user is not None or is_last):
            self.complete()

    def _hear(self, kind: str, message: Message) -> None:
        """A WebSocket is accepted, closed or denied."""
        if kind == "websocket.accept":
            self.has_begun = True
            self.started(None)
            if self.is_pending:
                self.count_socket()
        elif kind == "websocket.close":  # which changes nothing after an accept; before one, servers answer 403
            self.answered("denied")
        elif kind == "websocket.http.response.start":
            try:
                location = header_of(message.get("headers", ()), "location")
                outcome = outcome_of_response(self.request, index(message["status"]), location)
            except Exception:  # invalid: the server raises its own error
                outcome = "failed"
            self.answered(outcome)
        else:
            return
        self.end_audit()

    def paths(self) -> Sequence[str]:
        """As Exchange.paths."""
        return self.path_below

    def route_feature(self) -> RouteFeature:
        """As Exchange.route_feature."""
        counter, scope, depth = self.counter, self.carrier, self.depth
        method = self.request.method or WEBSOCKET
        marker = marker_of(scope)
        if marker is None:
            return self._without_route(method)
        found = counter.routes.get((id(marker), method, depth)) or self._find(marker, method)
        return found if found.mount is None else self._below(found, found.mount, method)

    def _find(self, marker: object, method: str) -> RouteFeature:
        counter, depth = self.counter, self.depth
        if depth > 0:
            counter.check_setup = None  # the options may name routes that only the app around this one knows
        route, is_certain = self.tree.find(self.carrier, marker, depth)
        found = counter.feature_of(route, method, marker)
        return counter.remember((id(marker), method, depth), found) if is_certain else found

    def _below(self, found: RouteFeature, mount: Route, method: str) -> RouteFeature:
        """What a request to a mount counts as: its app may be of another kind, with routes of its own."""
        counter, scope = self.counter, self.carrier
        operation, rule = connexion_route(scope, method), scope.get(RULE_KEY)
        if rule is not None and operation is None:
            return counter.routes.get((id(rule), method, self.depth)) or self._find(rule, method)
        by_path = self._by_path(operation, method, names=operation is not None)
        if by_path is not NO_ROUTE:
            return by_path
        if (
            (mount.opaque or connexion_routing(scope) is not None)
            and mount.name is None
            and found.namer is None
            and not found.graphql
        ):
            counter.report_unnamed(self.request, scope["path"], method, mount.templates[0])
        return found

    def _without_route(self, method: str) -> RouteFeature:
        """What a request that no router of Starlette's has matched counts as."""
        counter, scope = self.counter, self.carrier
        operation, rule = connexion_route(scope, method), scope.get(RULE_KEY)
        if rule is not None and operation is None:  # a path may have names of its own for the parameters of the rule
            by_path = counter.feature_of_path(scope["path"], method, names=False)
            if by_path is not NO_ROUTE:
                return by_path
            return counter.routes.get((id(rule), method, self.depth)) or self._find(rule, method)
        is_unmatched = operation is None and "router" in scope and connexion_routing(scope) is None
        found = self._by_path(operation, method, names=not is_unmatched)
        if found is NO_ROUTE and not is_unmatched:
            counter.report_unnamed(self.request, scope["path"], method)
        return found

    def _by_path(self, operation: Route | None, method: str, *, names: bool) -> RouteFeature:
        counter = self.counter
        found = counter.feature_of_path(self.carrier["path"], method, names=names)
        if found is not NO_ROUTE or operation is None:
            return found
        key = (operation.name, method)
        return counter.routes.get(key) or counter.remember(
            key, counter.feature_of(located(operation, self.carrier), method)
        )


def _read_bodies(exchange: ASGIExchange, scope: Scope, receive: Receive) -> Receive:
    """The `receive` of the app.

    The operations of GraphQL count when the app has given the last piece of its answer, before it is sent: a client
    that has the answer finds them counted, and one that leaves then has used them all the same.
    """
    if scope["type"] != "http":
        return receive
    content_type = header_of(scope.get("headers", ()), "content-type")
    query = scope.get("query_string", b"").decode("latin-1")
    paths = scope["path"], scope["path"].removeprefix(scope.get("root_path", ""))
    bodies = exchange.counter.bodies(exchange.request, paths, content_type, query)
    if bodies is None:
        return receive
    send = exchange.respond

    async def respond(message: Message) -> None:
        if message["type"] == "http.response.start":
            bodies.begin(message["status"], header_of(message.get("headers", ()), "content-type"))
        elif message["type"] == "http.response.body":
            bodies.answered(message.get("body", b""))
            if not message.get("more_body"):
                bodies.count()
        await send(message)

    async def receive_and_read() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            bodies.asked(message.get("body", b""))
        return message

    exchange.respond = respond
    return receive_and_read


async def _refuse(kind: str, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": unavailable.TRY_AGAIN})
        return
    headers = [(name.lower().encode(), value.encode()) for name, value in unavailable.HEADERS]
    await send({"type": "http.response.start", "status": unavailable.STATUS, "headers": headers})
    await send({"type": "http.response.body", "body": unavailable.BODY})


def follow_authentication(app: ASGIApp) -> None:
    """Have an AuthenticationMiddleware further in note its user, before an endpoint logs that user out."""
    _follow(app, "starlette.middleware.authentication.AuthenticationMiddleware", None)


def follow_session(app: ASGIApp, key: str) -> None:
    """Have a SessionMiddleware further in note the user of its session, before an endpoint empties the session."""
    _follow(app, ".SessionMiddleware", key)


@log.quietly("cannot follow a middleware further in")
def _follow(app: ASGIApp, name: str, key: str | None) -> None:
    for layer in layers(app):
        if any(f"{base.__module__}.{base.__name__}".endswith(name) for base in type(layer).__mro__):
            if not (type(layer.app) is _NotesUser and layer.app.key == key):
                layer.app = _NotesUser(layer.app, key)
            return


class _NotesUser:
    """The app below a middleware, with the user kept in the scope: the scope's own, or that of a key of its session."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self.app = app
        self.key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.key is not None:
            note_session_user(scope, scope.get("session"), self.key)
        elif "user" in scope:
            scope[_FIRST_USER] = scope["user"]
        await self.app(scope, receive, send)


def _session_in(scope: Scope) -> object:
    return scope.get("session")


def _user_in(scope: Scope) -> UserId | Unset:
    user = scope.get("user")
    found = UNSET if user is None else loaded_user(user)
    return loaded_user(scope.get(FLASK_USER, scope.get(_FIRST_USER))) if found is UNSET else found
