"""The routes of Starlette and FastAPI apps, and the one that a request took; imports no framework."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from usage_instrument.capture.context import LoginPage
from usage_instrument.errors import ConfigurationError
from usage_instrument.runtime import log
from usage_instrument.typing import Scope

from .flask_routes import FLASK_APP, RULE_KEY, FlaskRoutes, flask_apps, flask_rules
from .mounts import Mounted
from .other_routes import follow_bottle, follow_pyramid, is_known, walk
from .path_templates import PathTemplate, plain_template
from .routes import MOST, WEBSOCKET, Route, class_methods, qualified


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
        self._flask: FlaskRoutes | None = None

    def find(self, scope: Scope, marker: object, depth: int) -> tuple[Route, bool]:
        """The route, and whether the marker alone identifies it."""
        found = self._routes(scope.get("router") or scope.get("app"), marker)
        if not found and FLASK_APP in scope and marker is scope.get(RULE_KEY):
            found = [self._flask_routes(scope[FLASK_APP]).find(marker, "")]
        elif not found:
            found = [_route(marker, _spelled(marker), _name(marker), getattr(marker, "endpoint", marker))]
        route = found[0] if len(found) == 1 else _by_path(found, scope)
        if depth > 0:
            nearer = "/" + "/".join(route.templates[0].split("/")[depth + 1 :])
            own = (route.name or "").rpartition(":")[2]
            aliases = (own, *route.aliases) if own else route.aliases
            route = route._replace(templates=(nearer, *route.templates), aliases=aliases)
        return route, len(found) == 1

    def _flask_routes(self, app: object) -> FlaskRoutes:
        """The routes of a Flask app that no walk leads to."""
        if self._flask is None or self._flask.app is not app:
            self._flask = FlaskRoutes(app)
        return self._flask

    def _routes(self, router: object, marker: object) -> list[Route]:
        if router is None:
            return []
        known = self._walked.get(id(router))
        if known is None or id(marker) not in known[1]:  # routes may be added while the app runs
            index: dict[int, list[Route]] = {}
            kept: list[object] = [router]  # an id is good for as long as its object lives
            for markers, route in _walked(getattr(router, "routes", ())):
                kept.append(markers)
                for marked in {id(one) for one in markers if one is not None}:
                    index.setdefault(marked, []).append(route)
            if len(self._walked) > 100:  # an app that creates routers while it runs
                self._walked.clear()
            known = self._walked[id(router)] = (kept, index)
        return known[1].get(id(marker), [])


def _walked(routes: Any) -> list[tuple[tuple[object, ...], Route]]:
    """The routes below a list of routes, each with the objects that identify it."""
    found = list(islice(_walk(routes, Route("", ("",), ""), ()), MOST))
    return list(zip((markers for markers, _ in found), qualified(route for _, route in found), strict=True))


_Found = Iterator[tuple[tuple[object, ...], Route]]


def _walk(routes: Any, mount: Route, above: tuple[object, ...]) -> _Found:
    """`mount` is what the routes are mounted at, `above` the apps that they are mounted in."""
    for route in list(routes or ()):
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is None:
            yield from _walk_one((route,), route, mount, above)
            continue
        for context in contexts():  # FastAPI's routes with the prefixes of include_router
            effective = getattr(context, "starlette_route", None) or context
            yield from _walk_one((context, context.original_route), effective, mount, above)


def _walk_one(markers: tuple[object, ...], route: Any, mount: Route, above: tuple[object, ...]) -> _Found:
    name = _name(route)
    full = ":".join(filter(None, (mount.name, name)))
    app = getattr(route, "app", None)
    endpoint = getattr(route, "endpoint", app)
    found = _route(route, mount.spelled + _spelled(route), full if name else None, endpoint, mount.host)
    yield (*markers, route, endpoint), found
    if not _is_mount(route) or any(app is one for one in above):  # an app may be mounted in itself
        return
    routes, prefix = _routes_below(app), found.spelled.rstrip("/")
    if routes is not None:
        yield from _walk(routes, found._replace(name=full, spelled=prefix), (*above, app))
        return
    for rule, below in flask_rules(Mounted(prefix + one.prefix, one.app) for one in flask_apps(app)):
        yield (rule,), below._replace(name=":".join(filter(None, (full, below.name))) or None, host=found.host)
    for one in _below(app):
        for marker, below in walk(one):
            template = prefix + below.templates[0]
            name = ":".join(filter(None, (full, below.name))) or None
            yield (marker,), below._replace(name=name, templates=(template,), spelled=template, host=found.host)


def visible_routes(app: object) -> list[Route] | None:
    """The routes of an ASGI app and of the apps mounted in it; None if it has no list of routes."""
    routes = _routes_below(app)
    return None if routes is None else [route for _, route in _walked(routes)]


@log.quietly("cannot follow mounted apps")
def follow_mounts(app: object) -> None:
    """Note the routes that the apps of Bottle and Pyramid match that are mounted in an ASGI app. Raises nothing."""
    mounts = [route for route in visible_routes(app) or () if route.is_mount]
    for one in {id(one): one for mount in mounts for one in _below(mount.endpoint)}.values():
        follow_bottle(one)
        follow_pyramid(one)


def _route(route: Any, template: str, name: str | None, endpoint: object, host: str = "") -> Route:
    is_mount, serves_files = _is_mount(route), is_static(endpoint)
    has_routes = is_mount and (
        _routes_below(endpoint) is not None
        or next(flask_apps(endpoint), None) is not None
        or any(map(is_known, _below(endpoint)))
    )
    own_host = getattr(route, "host", "")
    return Route(
        name,
        (plain_template(template) or "/",),
        plain_template(_spelled(route)) or "/",
        endpoint,
        not (serves_files or has_routes),
        getattr(endpoint, "__module__", None) == "fastapi.applications",
        methods=_methods(route, endpoint, is_mount=is_mount),
        redirects=any(base.__name__ == "RedirectResponse" for base in type(endpoint).__mro__),
        opaque=is_mount and not (serves_files or has_routes),
        is_mount=is_mount,
        spelled=template or "/",
        host=own_host if isinstance(own_host, str) and own_host else host,
    )


def _methods(route: Any, endpoint: object, *, is_mount: bool) -> frozenset[str] | None:
    methods = getattr(route, "methods", WEBSOCKET)
    if is_mount or isinstance(methods, str):
        return None if is_mount else frozenset({WEBSOCKET})
    if isinstance(methods, set | frozenset):
        return frozenset(methods)
    return class_methods(endpoint) if isinstance(endpoint, type) else None


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
    """The list of routes of an app, or of the app that its middleware wraps; None without one."""
    found = (getattr(one, "routes", None) for one in _below(app) if not is_known(one))
    return next((routes for routes in found if isinstance(routes, Sequence)), None)


def is_static(app: object) -> bool:
    """Whether an app serves files."""
    return any(base.__name__ == "StaticFiles" for one in _below(app) for base in type(one).__mro__)


def _by_path(routes: list[Route], scope: Scope) -> Route:
    """The one of several routes with one endpoint that the path matches: the scope holds nothing else."""
    path = scope["path"].removeprefix(scope.get("app_root_path", scope.get("root_path", "")))
    for route in routes:
        template = _template(route.spelled)
        if (
            template is not None
            and template.names >= set(scope.get("path_params", ()))  # a mounted app's own are not there
            and (route.methods is None or scope.get("method", WEBSOCKET) in route.methods)
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


def starlette_login_pages(scope: Scope) -> dict[str, LoginPage]:
    """The pages, by their paths, to which `requires(…, redirect=name)` of Starlette redirects from the endpoint."""
    found: dict[str, LoginPage] = {}
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
                found[path] = "bare"  # as before Starlette 0.21
        endpoint = getattr(endpoint, "__wrapped__", None)
    return found
