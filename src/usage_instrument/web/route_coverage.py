"""What an app is going to count: its routes, the feature that each of them is, why the others are none, and what is
tracked elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from usage_instrument.capture.registry import Catalog, Unconfigured, declared
from usage_instrument.errors import ConfigurationError

from .endpoints import unreached
from .request_counter import Counter
from .routes import WEBSOCKET, Route, flask_routes, tracked_features, visible_routes
from .setup_checks import layers

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_UNCOUNTED = frozenset({"HEAD", "OPTIONS"})


class Planned(NamedTuple):
    """A route of an app, by one of its methods, or a feature that is tracked elsewhere."""

    method: str
    """`WEBSOCKET` for one; empty where any method will do, and where there is no route."""
    route: str
    """The template, as the whole app has it; empty for what is tracked elsewhere."""
    feature: str | None
    """What a success counts as; None if it does not, or if only the request tells."""
    why: str
    """By what it is counted, or why it is not."""


def plan(app: Any) -> list[Planned]:
    """The routes of a Flask, Starlette or FastAPI app in their order, as its UsageMiddleware counts them; then what
    `features` names in vain, and by name the features that are tracked elsewhere in what has been imported.

    Serves no request. Raises ConfigurationError for an app that shows no routes.
    """
    counter = _counter_of(app)
    routes = _routes_of(app)
    if routes is None:
        raise ConfigurationError(f"{type(app).__name__} shows no routes: this takes a Flask, Starlette or FastAPI app")
    catalog = declared if counter is None else counter.catalog
    by_route = [
        Planned(method, route.templates[0], feature, why + _audited(counter, route, method) + _mistake(route, catalog))
        for route in routes
        if route.countable or visible_routes(route.endpoint) is None  # else they are listed themselves
        for method in _methods_of(route)
        for feature, why in [_decide(counter, catalog, route, method)]
    ]
    return [*by_route, *_in_vain(counter, routes), *_elsewhere(catalog, routes)]


def is_configured(app: Any) -> bool:
    """Whether anything takes the uses of an app."""
    counter = _counter_of(app)
    catalog = declared if counter is None else counter.catalog
    return not isinstance(catalog.recorder, Unconfigured)


def _layers_of(app: Any) -> Iterator[Any]:
    for layer in layers(app):
        yield layer
        if getattr(layer, "middleware_stack", layer) is None:  # Starlette makes it when it is first called
            yield from layers(layer.build_middleware_stack())


def _counter_of(app: Any) -> Counter | None:
    found = (getattr(layer, "_counter", None) for layer in _layers_of(app))
    return next((one for one in found if isinstance(one, Counter)), None)


def _routes_of(app: Any) -> list[Route] | None:
    for layer in layers(app):
        if hasattr(layer, "url_map") and hasattr(layer, "app_context"):
            with layer.app_context():
                return flask_routes(layer)
        routes = visible_routes(layer)
        if routes is not None:
            return routes
    return None


def _methods_of(route: Route) -> Iterator[str]:
    if route.methods is not None:
        yield from sorted(route.methods - _UNCOUNTED)
    elif inspect.isclass(route.endpoint) and not hasattr(route.endpoint, "on_receive"):
        yield from (method for method in _METHODS if hasattr(route.endpoint, method.lower()))
    else:
        yield "" if route.opaque or not route.countable else WEBSOCKET


def _decide(counter: Counter | None, catalog: Catalog, route: Route, method: str) -> tuple[str | None, str]:
    """The feature, and why it is that."""
    tracked = " and ".join(sorted(tracked_features(route.endpoint, method, catalog))) or None
    if counter is None:
        return tracked, "@tracks" if tracked else "the app has no UsageMiddleware"
    if not route.countable:
        return tracked, "@tracks" if tracked else "static files are no use"
    rule = counter.rules.decide(route, method)
    if tracked and not rule.explicit:
        return tracked, "@tracks"
    if callable(rule.feature):
        return None, "features= names it by the request"
    if rule.feature is None:
        return None, "features=" if rule.explicit else counter.rules.refusal(route, method) or "it has no name"
    if tracked and rule.feature != tracked:
        return f"{rule.feature} and {tracked}", "features= and @tracks"
    return rule.feature, "features=" if rule.explicit else "the name of the route"


def _audited(counter: Counter | None, route: Route, method: str) -> str:
    """How the middleware audits it, for its `why`; what a decorator says for itself is not told."""
    auditing = None if counter is None else counter.auditing
    if counter is None or auditing is None:
        return ""
    names = counter.rules.decide(route, method).names | tracked_features(route.endpoint, method, counter.catalog)
    return "".join(f"; audit={auditing.levels[name]!r}" for name in sorted(auditing.among(names)))


def _mistake(route: Route, catalog: Catalog) -> str:
    """What no request to the route comes by, for its `why`."""
    names = " and ".join(f"@tracks({feature.name!r})" for feature in unreached(route.endpoint, catalog))
    return names and f"; {names} above the route's decorator is never called: put it below"


def _in_vain(counter: Counter | None, routes: list[Route]) -> Iterator[Planned]:
    if counter is None:
        return
    for key in counter.rules.unmatched(routes):
        method, _, target = key.rpartition(" ")
        yield Planned(method, target, None, "features= names it, and the app has no such route")
    for name in [] if counter.auditing is None else counter.auditing.unmatched(routes, counter.rules):
        yield Planned("", "", name, "audit= names it, and it is no route of the app")


def _elsewhere(catalog: Catalog, routes: list[Route]) -> Iterator[Planned]:
    """What `tracks` decorates and no route leads to: others call it."""
    known = {feature.name for route in routes for feature in unreached(route.endpoint, catalog)}
    for route in routes:
        for method in _methods_of(route):
            known |= tracked_features(route.endpoint, method, catalog)
    for feature in sorted(catalog, key=lambda feature: feature.name):
        if feature.decorates is not None and feature.name not in known:
            yield Planned("", "", feature.name, f"@tracks on {feature.decorates}, whoever calls it")
