"""The routes of an app, the feature that each counts as, why the others do not count, and what is tracked elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from usage_instrument.capture.registry import Catalog, Unconfigured, declared
from usage_instrument.errors import ConfigurationError

from .adapted_asgi import combined_routes
from .django_routes import django_routes
from .flask_routes import FlaskRoutes, flask_apps
from .framework_users import ids_are_keys
from .graphql import endpoint_path
from .other_routes import OtherRoutes, connexion_layers, connexion_routes
from .request_counter import RequestCounter
from .routes import Route, executes_graphql, tracked_features, unreached
from .setup_checks import layers
from .starlette_routes import is_static, visible_routes


class CoveredRoute(NamedTuple):
    """A route of an app, by one of its methods, or a feature that is tracked elsewhere."""

    method: str
    """Empty for any method, and without a route."""
    route: str
    """The template, as the whole app has it; empty for a feature that is tracked elsewhere."""
    feature: str | None
    """What a success counts as; None if it does not count, or if a callable names it by the request."""
    why: str
    """The option or decorator that counts it, or why it does not count."""


def route_coverage(app: Any) -> list[CoveredRoute]:
    """The routes of a Flask, Quart, Starlette, FastAPI, Django, Bottle, Pyramid or Connexion app in their order, as its
    UsageMiddleware counts them; then the keys of `features` that are no route, and by name the features that imported
    modules track elsewhere. For an app of another framework, the keys of `features` stand for its routes.

    Serves no request. Raises ConfigurationError for an app without routes or keys.
    """
    counter = _counter_of(app)
    routes = _routes_of(app)
    catalog = declared if counter is None else counter.catalog
    if routes is None:
        by_path = [] if counter is None else list(_by_path(counter))
        if not by_path:
            raise ConfigurationError(
                f"{type(app).__name__} shows no routes: "
                "this takes an app of Flask, Quart, Starlette, FastAPI, Django, Bottle, Pyramid or Connexion. "
                "UsageMiddleware counts any other by its paths: UsageMiddleware(app, features={'GET /path': 'name'})"
            )
        return [*by_path, *_elsewhere(catalog, [])]
    by_route = [
        CoveredRoute(
            method, route.templates[0], feature, why + _audit(counter, route, method) + _mistake(route, catalog)
        )
        for route in routes
        if route.countable or not route.is_mount or route.opaque or is_static(route.endpoint)
        for method in route.counted_methods
        for feature, why in [_decide(counter, catalog, route, method)]
    ]
    return [*dict.fromkeys(by_route), *_unmatched(counter, routes), *_elsewhere(catalog, routes)]


def is_configured(app: Any) -> bool:
    """Whether a tracker records the uses of an app."""
    counter = _counter_of(app)
    catalog = declared if counter is None else counter.catalog
    return not isinstance(catalog.recorder, Unconfigured)


def user_source(app: Any) -> str:
    """Where the user of a request comes from, unless `as_user` or `identify` states one."""
    counter = _counter_of(app)
    if counter is None:
        return "as_user, identify or the decorator, since the app has no UsageMiddleware"
    if counter.user is not None:
        return "user="
    found = [source for layer in _layers_of(app) for source in _sources_of(layer)]
    if counter.session_user is not None:
        found.append(f"session[{counter.session_user!r}]")
    return " or ".join(dict.fromkeys(found)) or (
        "unknown: every use is anonymous, unless the app calls usage.identify(user_id) or passes user= or session_user="
    )


def _sources_of(layer: Any) -> Iterator[str]:
    if getattr(layer, "login_manager", None) is not None:
        yield "Flask-Login's user, once it is loaded" + (", or the id in its session" if ids_are_keys() else "")
    kinds = {base.__module__ + "." + base.__name__ for base in type(layer).__mro__}
    if "django.contrib.auth.middleware.AuthenticationMiddleware" in kinds:
        yield "Django's request.user, once it is loaded, or the id in a loaded session"
    if "starlette.middleware.authentication.AuthenticationMiddleware" in kinds:
        yield 'scope["user"] of AuthenticationMiddleware'


def _layers_of(app: Any) -> Iterator[Any]:
    yield from (mounted.app for mounted in flask_apps(app))
    for layer in layers(app):
        yield layer
        yield from connexion_layers(layer)
        yield from _django_layers(getattr(layer, "_middleware_chain", None))
        if getattr(layer, "middleware_stack", layer) is None:  # Starlette builds it when it is first called
            yield from layers(layer.build_middleware_stack())


def _django_layers(layer: Any) -> Iterator[Any]:
    """The middlewares of a Django handler, which wraps each in functions."""
    for _ in range(200):
        if not hasattr(layer, "__dict__"):
            return
        yield layer
        own = vars(layer)
        layer = next((own[name] for name in ("__wrapped__", "get_response", "func") if name in own), None)


def _counter_of(app: Any) -> RequestCounter | None:
    found = (getattr(layer, "_counter", None) for layer in _layers_of(app))
    return next((one for one in found if isinstance(one, RequestCounter)), None)


def _routes_of(app: Any) -> list[Route] | None:
    below = list(layers(app))
    if any(type(layer).__module__.startswith("django.core.handlers") for layer in below):
        return django_routes()
    operations = next((found for layer in below if (found := connexion_routes(layer)) is not None), None)
    if operations is not None:  # a Connexion app of Flask's has routes of its own, too
        taken = {template for route in operations for template in route.templates}
        plain = FlaskRoutes(app).visible() or []
        return [*operations, *(route for route in plain if taken.isdisjoint(route.templates))]
    seen = (OtherRoutes(layer).visible() for layer in below)
    known = next((routes for routes in seen if routes is not None), None) or combined_routes(app)
    return (
        known
        or FlaskRoutes(app).visible()
        or next((found for layer in below if (found := visible_routes(layer))), None)
    )


def _decide(counter: RequestCounter | None, catalog: Catalog, route: Route, method: str) -> tuple[str | None, str]:
    """The feature, and why."""
    tracked = " and ".join(sorted(tracked_features(route.endpoint, method, catalog))) or None
    if counter is None:
        return tracked, "@tracks" if tracked else "the app has no UsageMiddleware"
    if not route.countable:
        return tracked, "@tracks" if tracked else "static files are no use"
    rule, _, counts = counter.decision(route, method)
    if tracked and not rule.explicit:
        return tracked, "@tracks"
    if not counts:
        return None, _why_operations(counter, route)
    if callable(rule.feature):
        return None, "features= names it by the request"
    if rule.feature is None:
        return None, "features=" if rule.explicit else counter.rules.exclusion(route, method) or "it has no name"
    if tracked and rule.feature != tracked:
        return f"{rule.feature} and {tracked}", "features= and @tracks"
    if rule.explicit:
        return rule.feature, "features="
    return rule.feature, _why_named(route, method, rule.feature)


_EXTENSIONS = tuple(f"usage_instrument.integrations.{name}" for name in ("strawberry", "ariadne", "graphene"))


def _why_operations(counter: RequestCounter, route: Route) -> str:
    """What counts the operations of a GraphQL endpoint. An extension of ours in its schema cannot be seen from here."""
    if counter.reads(route):
        return "its operations count, by graphql="
    if executes_graphql(route.endpoint):
        return "its operations count, by its extension"
    path = endpoint_path(route.templates[-1])
    if any(name in sys.modules for name in _EXTENSIONS):
        return f"its operations count if its schema has our UsageExtension, else pass graphql={path!r}"
    return f"nothing counts its operations: add our UsageExtension to its schema, or pass graphql={path!r}"


def _why_named(route: Route, method: str, feature: str) -> str:
    name = route.name_for(method) or ""
    notes = [
        "others have the same" if route.qualifier else "",
        "by its method" if route.by_method else "methods other than GET are added to it" if method == "" else "",
        "shortened" if feature != name else "",
    ]
    return ", ".join(["the name of the route", *filter(None, notes)])


def _audit(counter: RequestCounter | None, route: Route, method: str) -> str:
    """How the middleware audits a route, for its `why`; decorators are not included."""
    policy = None if counter is None else counter.policy
    if counter is None or policy is None:
        return ""
    rule, tracked, _ = counter.decision(route, method)
    return "".join(f"; audit={policy.levels[name]!r}" for name in sorted(policy.among(rule.names | tracked)))


def _mistake(route: Route, catalog: Catalog) -> str:
    """The decorators that no request to the route calls, for its `why`."""
    names = " and ".join(f"@tracks({feature.name!r})" for feature in unreached(route.endpoint, catalog))
    return names and f"; {names} above the route's decorator is never called: put it below"


def _by_path(counter: RequestCounter) -> Iterator[CoveredRoute]:
    """The keys of `features` that are paths, which count in an app of any framework."""
    for key in counter.rules.keys:
        if key.template is not None:
            feature = key.value if isinstance(key.value, str) else None
            why = "features= names it by the request" if callable(key.value) else "features="
            yield CoveredRoute(key.method, key.target, feature, why)


def _unmatched(counter: RequestCounter | None, routes: list[Route]) -> Iterator[CoveredRoute]:
    if counter is None:
        return
    for key in counter.rules.unmatched(routes):
        method, _, target = key.rpartition(" ")
        yield CoveredRoute(method, target, None, "features= names it, and the app has no such route")
    for name in [] if counter.policy is None else counter.policy.unmatched(routes, counter.rules):
        yield CoveredRoute("", "", name, "audit= names it, and it is no route of the app")


def _elsewhere(catalog: Catalog, routes: list[Route]) -> Iterator[CoveredRoute]:
    """The functions that `tracks` decorates and that are no endpoint."""
    known = {feature.name for route in routes for feature in unreached(route.endpoint, catalog)}
    for route in routes:
        for method in route.counted_methods:
            known |= tracked_features(route.endpoint, method, catalog)
    for feature in sorted(catalog, key=lambda feature: feature.name):
        if feature.decorates is not None and feature.name not in known:
            yield CoveredRoute("", "", feature.name, f"@tracks on {feature.decorates}, from any caller")
