"""ASGI apps that a2wsgi runs within a WSGI app: their routes, and the scope of the request; imports no framework."""

from __future__ import annotations

from collections.abc import Iterator

from usage_instrument.capture.context import SCOPE_KEY, Request
from usage_instrument.runtime import log
from usage_instrument.typing import ASGIApp, Receive, Scope, Send

from .flask_routes import FlaskRoutes
from .mounts import Mounted, mounted_apps
from .routes import Route, qualified
from .starlette_routes import visible_routes


def adapters(app: object) -> Iterator[Mounted]:
    """The ASGIMiddleware objects of a2wsgi that a WSGI app is or leads to, and the paths at which they are mounted."""
    return mounted_apps(app, _is_adapter)


def _is_adapter(app: object) -> bool:
    return any(base.__module__ == "a2wsgi.asgi" and base.__name__ == "ASGIMiddleware" for base in type(app).__mro__)


@log.quietly("cannot follow a2wsgi")
def follow_adapters(app: object) -> None:
    """Note the scopes that a2wsgi makes for the ASGI apps in a WSGI app. Raises nothing."""
    for adapter in (mounted.app for mounted in adapters(app)):
        if type(adapter.app) is not _NotesScope:
            adapter.app = _NotesScope(adapter.app)


def combined_routes(app: object) -> list[Route]:
    """The routes of the ASGI apps in a WSGI app, and of the Flask apps beside them; none without an ASGI app."""
    found = [
        below(mounted.prefix, route) for mounted in adapters(app) for route in visible_routes(mounted.app.app) or ()
    ]
    return qualified([*(FlaskRoutes(app).visible() or ()), *found]) if found else []


def below(prefix: str, route: Route) -> Route:
    """A route of an app that is mounted at a path."""
    return route._replace(templates=tuple(prefix + one for one in route.templates))


def told_apart(app: object, route: Route) -> Route:
    """A route, told apart from those of the other apps in a WSGI app."""
    same = (one for one in combined_routes(app) if _key(one) == _key(route))
    return next(same, route)


def _key(route: Route) -> tuple[object, ...]:
    return route.name, route.templates[0], route.methods, id(route.endpoint)


class _NotesScope:
    """An ASGI app whose scope the WSGI request of the middleware sees while it runs."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        environ = scope.get("wsgi_environ")
        request = environ.get(SCOPE_KEY) if isinstance(environ, dict) else None
        if type(request) is not Request:
            await self.app(scope, receive, send)
            return
        request.inner_scope = scope
        scope[SCOPE_KEY] = request  # a middleware within the ASGI app counts the same request
        try:
            await self.app(scope, receive, send)
        finally:
            request.inner_scope = None  # which refers to the environ
