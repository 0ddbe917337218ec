"""The route that a request took, read from what its framework left in the scope or environ; imports no framework."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from usage_instrument.capture.context import SCOPE_KEY
from usage_instrument.capture.registry import Catalog, Feature, features_of
from usage_instrument.errors import ConfigurationError
from usage_instrument.typing import Scope

from .path_templates import PathTemplate, plain_template

WEBSOCKET = "WEBSOCKET"
"""The method of a WebSocket."""


class Route(NamedTuple):
    """A route: its name, its templates with parameters spelled `{id}`, its endpoint."""

    name: str | None
    templates: tuple[str, ...]
    """As seen from the middleware; for a route in a mounted app also as seen from the outermost app."""
    local: str
    """The template within the innermost app."""
    endpoint: object = None
    countable: bool = True
    """False for static files, and for a mount in which nothing matched."""
    documentation: bool = False
    """Whether it is the framework's own API documentation."""
    aliases: tuple[str, ...] = ()
    """Other names that the options may use."""
    methods: frozenset[str] | None = None
    opaque: bool = False
    """Whether it is a mount whose own routes are hidden."""
    spelled: str = ""
    """The template as the framework spells it, with converters."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The names and templates that the options may use, the most exact first."""
        names = () if self.name is None else (self.name,)
        return (*self.templates, *names, *self.aliases)


# ---- endpoints


def source_of(endpoint: object) -> str | None:
    """The `module:qualname` of an endpoint; None without one."""
    module, name = getattr(endpoint, "__module__", None), getattr(endpoint, "__qualname__", None)
    return f"{module}:{name}" if isinstance(module, str) and isinstance(name, str) else None


def first_line_of(endpoint: object) -> str | None:
    """The first line of an endpoint's docstring."""
    text = getattr(endpoint, "__doc__", None) if hasattr(endpoint, "__qualname__") else None
    return (text.strip().partition("\n")[0].strip() or None) if isinstance(text, str) else None


def unreached(endpoint: object, catalog: Catalog) -> list[Feature]:
    """The features whose `tracks` is above the framework's decorator, which has kept the function below it."""
    source, reached = source_of(endpoint), features_of(endpoint, catalog)
    if source is None or source.endswith("<lambda>"):  # the name of every lambda
        return []
    return [feature for feature in catalog if feature.decorates == source and feature.name not in reached]


_HANDLERS = ("dispatch", "dispatch_request", "__call__")
_WEBSOCKET_HANDLERS = ("dispatch", "on_connect", "on_receive", "on_disconnect", "__call__")


def tracked_features(endpoint: object, method: str, catalog: Catalog) -> frozenset[str]:
    """The names of a catalogue's features that an endpoint is tracked for when it serves a method (or `WEBSOCKET`)."""
    names = features_of(endpoint, catalog)
    owner: Any = getattr(endpoint, "view_class", endpoint)  # Flask's MethodView
    if owner is not endpoint:
        names |= features_of(owner, catalog)
    for name in _WEBSOCKET_HANDLERS if method == WEBSOCKET else (method.lower(), *_HANDLERS):
        # An instance serves with the methods of its class; a function's class has none of these but __call__.
        names |= features_of(getattr(owner if isinstance(owner, type) else type(owner), name, None), catalog)
    return names


# ---- Starlette, FastAPI


def marker_of(scope: Scope) -> object:
    """The object that identifies the route that matched; None without one.

    A scope keeps what an outer router wrote. The endpoint, which every router writes, identifies the last one.
    """
    route = scope.get("route")
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return route
    fastapi = scope.get("fastapi")
    if type(fastapi) is dict:  # it has the prefixes of include_router
        context = fastapi.get("effective_route_context")
        if context is not None and _leads_to(getattr(context, "starlette_route", None) or context, endpoint):
            return context
    if getattr(route, "endpoint", None) is endpoint:
        return route
    return route if route is not None and _leads_to(route, endpoint) else endpoint


def _leads_to(route: object, endpoint: object) -> bool:
    return getattr(route, "endpoint", None) is endpoint or getattr(route, "app", None) is endpoint


def mount_depth(scope: Scope) -> int:
    """How many segments of the path the mounts outside of the middleware have consumed."""
    outermost = scope.get("app_root_path")
    return 0 if outermost is None else scope.get("root_path", "").count("/") - outermost.count("/")


class RouteTree:
    """The routes of an ASGI app by the objects that identify them, found by walking routers and mounts once."""

    def __init__(self) -> None:
        self._walked: dict[int, tuple[object, dict[int, list[Route]]]] = {}

    def find(self, scope: Scope, marker: object, depth: int) -> tuple[Route, bool]:
        """The route, and whether the marker alone identifies it."""
        found = self._routes(scope.get("router") or scope.get("app"), marker)
        if not found:
            found = [_route(marker, _spelled(marker), _name(marker), getattr(marker, "endpoint", marker))]
        route = found[0] if len(found) == 1 else _by_path(found, scope)
        if depth > 0:
            nearer = "/" + "/".join(route.templates[0].split("/")[depth + 1 :])
            own = (route.name or "").rpartition(":")[2]
            aliases = (own, *route.aliases) if own else route.aliases
            route = route._replace(templates=(nearer, *route.templates), aliases=aliases)
        return route, len(found) == 1

    def _routes(self, router: object, marker: object) -> list[Route]:
        if router is None:
            return []
        known = self._walked.get(id(router))
        if known is None or id(marker) not in known[1]:  # routes may be added while the app runs
            index: dict[int, list[Route]] = {}
            kept: list[object] = [router]  # an id is good for as long as its object lives
            for markers, route in _told_apart(_walk(getattr(router, "routes", ()), "", "", 0)):
                kept.append(markers)
                for marked in {id(one) for one in markers if one is not None}:
                    index.setdefault(marked, []).append(route)
            if len(self._walked) > 100:  # an app that creates routers while it runs
                self._walked.clear()
            known = self._walked[id(router)] = (kept, index)
        return known[1].get(id(marker), [])


_Found = Iterator[tuple[tuple[object, ...], Route]]


def _told_apart(found: _Found) -> list[tuple[tuple[object, ...], Route]]:
    """The routes, with names that several endpoints share qualified by the template, and by the methods if needed."""
    walked = list(found)
    by_name: dict[str | None, set[int]] = {}
    by_template: dict[tuple[str | None, str], set[int]] = {}
    for _, route in walked:
        by_name.setdefault(route.name, set()).add(id(route.endpoint))
        by_template.setdefault((route.name, route.templates[0]), set()).add(id(route.endpoint))
    for position, (markers, route) in enumerate(walked):
        if route.name is None or len(by_name[route.name]) == 1:
            continue
        template = route.templates[0]
        methods = "|".join(sorted((route.methods or frozenset()) - {"HEAD", "OPTIONS"}))
        is_one = len(by_template[route.name, template]) == 1
        name = f"{route.name} {template}" if is_one or not methods else f"{route.name} {methods} {template}"
        walked[position] = markers, route._replace(name=name, aliases=(route.name, *route.aliases))
    return walked


def _walk(routes: Any, prefix: str, owner: str, depth: int) -> _Found:
    for route in list(routes or ()) if depth < 20 else ():
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is None:
            yield from _walk_one((route,), route, prefix, owner, depth)
            continue
        for context in contexts():  # FastAPI's routes with the prefixes of include_router
            effective = getattr(context, "starlette_route", None) or context
            yield from _walk_one((context, context.original_route), effective, prefix, owner, depth)


def _walk_one(markers: tuple[object, ...], route: Any, prefix: str, owner: str, depth: int) -> _Found:
    path = prefix + _spelled(route)
    name = _name(route)
    full = ":".join(filter(None, (owner, name)))
    app = getattr(route, "app", None)
    endpoint = getattr(route, "endpoint", app)
    yield (*markers, route, endpoint), _route(route, path, full if name else None, endpoint)
    if _is_mount(route):
        yield from _walk(_routes_below(app), path, full, depth + 1)


def visible_routes(app: object) -> list[Route] | None:
    """The routes of an ASGI app and of the apps mounted in it; None if it has no list of routes."""
    routes = _routes_below(app)
    return None if routes is None else [route for _, route in _told_apart(_walk(routes, "", "", 0))]


def _route(route: Any, template: str, name: str | None, endpoint: object) -> Route:
    methods = getattr(route, "methods", None)
    is_mount, is_static = _is_mount(route), _is_static(endpoint)
    has_routes = is_mount and _routes_below(endpoint) is not None
    return Route(
        name,
        (plain_template(template) or "/",),
        plain_template(_spelled(route)) or "/",
        endpoint,
        not (is_static or has_routes),
        getattr(endpoint, "__module__", None) == "fastapi.applications",
        methods=frozenset(methods) if isinstance(methods, set | frozenset) else None,
        opaque=is_mount and not (is_static or has_routes),
        spelled=template or "/",
    )


def _is_mount(route: object) -> bool:
    return getattr(route, "app", None) is not None and not hasattr(route, "endpoint")


def _spelled(route: object) -> str:
    path = getattr(route, "path", "")
    return path if isinstance(path, str) else ""


def _name(route: object) -> str | None:
    name = getattr(route, "name", None) or getattr(route, "__name__", None)
    return name if isinstance(name, str) else None


def _below(app: object) -> Iterator[object]:
    """An app, and the apps that its middleware wraps."""
    for _ in range(50):
        yield app
        app = getattr(app, "app", None)
        if app is None or hasattr(app, "__func__"):  # a Router's own `app` is a method
            return


def _routes_below(app: object) -> Any:
    return next((routes for one in _below(app) if (routes := getattr(one, "routes", None)) is not None), None)


def _is_static(app: object) -> bool:
    return any(base.__name__ == "StaticFiles" for one in _below(app) for base in type(one).__mro__)


def _by_path(routes: list[Route], scope: Scope) -> Route:
    """The one of several routes with one endpoint that the path matches: the scope holds nothing else."""
    path = scope["path"].removeprefix(scope.get("app_root_path", scope.get("root_path", "")))
    for route in routes:
        template = _template(route.spelled)
        if (
            template is not None
            and template.names == set(scope.get("path_params", ()))
            and (route.methods is None or scope.get("method") in route.methods)
            and template.matches(path)
        ):
            return route
    return routes[0]


@functools.lru_cache(1000)
def _template(spelled: str) -> PathTemplate | None:
    try:
        return PathTemplate(spelled)
    except ConfigurationError:  # a framework with a grammar of its own
        return None


def starlette_login_paths(scope: Scope) -> tuple[str, ...]:
    """The paths of the pages to which `requires(…, redirect=name)` of Starlette redirects from the endpoint."""
    found: list[str] = []
    endpoint: Any = scope.get("endpoint")
    for _ in range(50):
        code = getattr(endpoint, "__code__", None)
        if code is None:
            break
        if endpoint.__globals__.get("__name__") == "starlette.authentication":
            variables = dict(zip(code.co_freevars, (cell.cell_contents for cell in endpoint.__closure__), strict=True))
            router: Any = scope.get("app") or scope.get("router")
            if isinstance(variables.get("redirect"), str):
                path = scope.get("app_root_path", scope.get("root_path", "")) + router.url_path_for(
                    variables["redirect"]
                )
                found.append(path)
        endpoint = getattr(endpoint, "__wrapped__", None)
    return tuple(found)


# ---- Flask


def flask_request(request: object) -> Any:
    """The Flask request that runs for a Request, whatever copies of its environ were made; None without one."""
    flask: Any = sys.modules.get("flask")
    if flask is None or not flask.has_request_context():
        return None
    running = flask.request._get_current_object()
    return running if running.environ.get(SCOPE_KEY) is request else None


def flask_route(rule: Any, prefix: str) -> Route:
    """The route of a werkzeug Rule, for the app that is running; `prefix` is the path at which that app is mounted."""
    endpoint = rule.endpoint
    local = plain_template(rule.rule)
    if not isinstance(endpoint, str):
        return Route(None, (prefix + local,), local)
    flask: Any = sys.modules.get("flask")
    is_running = flask is not None and flask.has_app_context()
    view = flask.current_app.view_functions.get(endpoint) if is_running else None
    is_static = endpoint == "static" or endpoint.endswith(".static")
    methods = getattr(rule, "methods", None)
    return Route(
        endpoint,
        (prefix + local,),
        local,
        view,
        not is_static,
        methods=frozenset(methods) if isinstance(methods, set) else None,
    )


def flask_routes(app: object) -> list[Route] | None:
    """The routes of the Flask app that is running; None if that is another app."""
    flask: Any = sys.modules.get("flask")
    if flask is None or not flask.has_app_context() or flask.current_app._get_current_object() is not app:
        return None
    return [flask_route(rule, "") for rule in flask.current_app.url_map.iter_rules()]
