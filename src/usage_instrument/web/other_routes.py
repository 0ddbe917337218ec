"""The routes of Bottle, Pyramid and Connexion, and the one that a request took; imports no framework."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

from usage_instrument.capture.context import current_request
from usage_instrument.runtime import log
from usage_instrument.typing import Environ, Scope

from .flask_routes import RULE_KEY
from .path_templates import plain_template
from .routes import MOST, UNCOUNTED, Route, qualified

_PYRAMID_KEY = "usage_instrument.pyramid_route"
"""The key of an environ with the route that Pyramid has matched; Pyramid itself leaves no trace of it there."""
_BOTTLE_PARAMETER = re.compile(r"<([A-Za-z_]\w*)(?::[^>]*)?>")


def routed_object(environ: Environ) -> Any:
    """The object of Bottle or Pyramid that identifies the route that a request took; None without one."""
    return environ.get("bottle.route") or environ.get(_PYRAMID_KEY)


class OtherRoutes:
    """The routes of a Bottle or Pyramid app, by the objects that identify them."""

    def __init__(self, app: object) -> None:
        self._app = app
        self._found: dict[int, tuple[object, list[Route]]] = {}

    def find(self, marker: Any, method: str) -> Route:
        """The route that a `routed_object` identifies, for a method."""
        if id(marker) not in self._found:  # routes may be added while the app runs
            pairs = list(islice(walk(self._app), MOST))
            if not any(found is marker for found, _ in pairs):
                pairs += [(marker, route) for route in _routes_of(marker)]
            self._found = {}
            for (one, _), route in zip(pairs, qualified(route for _, route in pairs), strict=True):
                self._found.setdefault(id(one), (one, []))[1].append(route)
        _, routes = self._found[id(marker)]
        method = "GET" if method == "HEAD" else method
        return next((route for route in routes if route.methods is None or method in route.methods), routes[0])

    def visible(self) -> list[Route] | None:
        """The routes; None for an app of another framework."""
        return qualified(route for _, route in islice(walk(self._app), MOST)) if is_known(self._app) else None


def is_known(app: object) -> bool:
    """Whether an app is one of Bottle or Pyramid."""
    return _is_bottle(app) or _is_pyramid(app)


def walk(app: Any) -> Iterator[tuple[object, Route]]:
    """The routes of a Bottle or Pyramid app, each with the object that identifies it; none of another app."""
    if _is_bottle(app):
        yield from _bottle_routes(app, "", (app,))
    elif _is_pyramid(app):
        mapper = app.registry.getUtility(sys.modules["pyramid.interfaces"].IRoutesMapper)
        for route in mapper.get_routes():
            for found in _pyramid_routes(route, app.registry):
                yield route, found


def _routes_of(marker: Any) -> list[Route]:
    return [_bottle_route(marker, "")] if hasattr(marker, "rule") else _pyramid_routes(marker, None)


# ---- Bottle


def _is_bottle(app: object) -> bool:
    return any(base.__module__ == "bottle" and base.__name__ == "Bottle" for base in type(app).__mro__)


def _bottle_routes(app: Any, prefix: str, above: tuple[object, ...]) -> Iterator[tuple[object, Route]]:
    for route in list(app.routes):
        mounted = route.config.get("mountpoint.target")
        if mounted is None:
            yield route, _bottle_route(route, prefix)
        elif _is_bottle(mounted) and not any(mounted is one for one in above):  # an app may be mounted in itself
            path = prefix + str(route.config.get("mountpoint.prefix", "")).rstrip("/")
            yield from _bottle_routes(mounted, path, (*above, mounted))


def _bottle_route(route: Any, prefix: str) -> Route:
    local = _BOTTLE_PARAMETER.sub(r"{\1}", route.rule)
    name = route.name or getattr(route.callback, "__name__", None)
    methods = None if route.method == "ANY" else frozenset({route.method})
    return Route(name, (prefix + local,), local, route.callback, methods=methods)


def follow_bottle(app: Any) -> None:
    """Note the routes that a Bottle app matches within an ASGI request, by a hook of the app's."""
    if _is_bottle(app):
        app.add_hook("after_request", _note_bottle)


@log.quietly("cannot read a Bottle request")  # a request of the host's
def _note_bottle() -> None:
    bottle: Any = sys.modules["bottle"]
    _note_in_scope(bottle.request.environ.get("bottle.route"))


def _note_in_scope(route: object) -> None:
    """Note the route that a WSGI app has matched within an ASGI request."""
    request = current_request()
    scope: Any = None if request is None else request.info
    if route is not None and type(scope) is dict and scope.get("type") == "http":
        scope[RULE_KEY] = route


# ---- Pyramid


def _is_pyramid(app: object) -> bool:
    return type(app).__module__ == "pyramid.router"


def follow_pyramid(app: Any) -> None:
    """Note the routes that a Pyramid app matches, by an event of the app's."""
    if _is_pyramid(app):
        app.registry.registerHandler(_note, (sys.modules["pyramid.interfaces"].INewResponse,))


@log.quietly("cannot read a Pyramid request")  # a request of the host's
def _note(event: Any) -> None:
    route = event.request.matched_route
    event.request.environ[_PYRAMID_KEY] = route
    _note_in_scope(route)


def _pyramid_routes(route: Any, registry: Any) -> list[Route]:
    """A route of Pyramid's, for each of its views."""
    local = "/" + plain_template(route.pattern).lstrip("/")
    found = Route(route.name, (local,), local, countable=not route.name.startswith("__"), owner=route)
    views = [] if registry is None else registry.introspector.get_category("views", ())
    routes = []
    for view in (each["introspectable"] for each in views):
        if view["route_name"] == route.name:
            methods = view["request_methods"]
            endpoint = view["callable"]
            endpoint = getattr(endpoint, view["attr"], endpoint) if view["attr"] else endpoint
            known = None if methods is None else frozenset([methods] if isinstance(methods, str) else methods)
            routes.append(found._replace(endpoint=endpoint, methods=known))
    return routes or [found]


# ---- Connexion


def connexion_route(scope: Scope, method: str) -> Route | None:
    """The operation that Connexion has matched; None without one."""
    routing = connexion_routing(scope)
    name = None if routing is None else routing.get("operation_id")
    return _operation(name, (), method) if isinstance(name, str) else None


def connexion_routing(scope: Scope) -> dict[str, Any] | None:
    """What Connexion has noted of its routing; None if that did not run, or not with our `extensions`."""
    routing = (scope.get("extensions") or {}).get("connexion_routing")
    return routing if isinstance(routing, dict) else None


def located(operation: Route, scope: Scope) -> Route:
    """An operation that Connexion has matched, with the template that it has in its app."""
    found = (route for route in connexion_routes(scope.get("app")) or () if route.name == operation.name)
    return next((route for route in found if route.methods == operation.methods), operation)


def connexion_layers(app: Any) -> list[Any]:
    """The layers of a Connexion app, the innermost first; none of another app. An app that has not started builds them,
    as its first request does."""
    middleware = getattr(app, "middleware", app)
    if type(middleware).__module__ != "connexion.middleware.main":
        return []
    if middleware.middleware_stack is None:
        middleware.app, middleware.middleware_stack = middleware._build_middleware_stack()
    return list(middleware.middleware_stack)


def connexion_routes(app: Any) -> list[Route] | None:
    """The operations of a Connexion app; None for another one."""
    routing = [layer for layer in connexion_layers(app) if type(layer).__name__ == "RoutingMiddleware"]
    if not routing:
        return None
    found = (
        _operation(route.endpoint.operation_id, (mount.path + plain_template(route.path),), method)
        for mount in routing[0].router.routes
        for route in mount.app.routes
        for method in sorted(route.methods - UNCOUNTED)
    )
    return qualified(islice((route for route in found if route.name is not None), MOST))


def _operation(name: str | None, templates: tuple[str, ...], method: str) -> Route:
    module, _, attribute = (name or "").rpartition(".")
    handler = getattr(sys.modules.get(module), attribute, None)  # which its default resolver has imported
    return Route(name, templates, (templates or ("",))[0], handler, methods=frozenset({method}))
