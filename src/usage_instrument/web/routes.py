"""The routes of apps, the names of their features, and what their endpoints are tracked for."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from usage_instrument.capture.registry import Catalog, Feature, features_of

WEBSOCKET = "WEBSOCKET"
"""The method of a WebSocket."""


MOST = 10_000
"""Routes that a walk of an app looks at."""
UNCOUNTED = frozenset({"HEAD", "OPTIONS"})
"""Methods that routes have and that are never a use."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""Methods that a class may handle, each by a method of its own."""


class Route(NamedTuple):
    """A route: its name, its templates with parameters spelled `{id}`, its endpoint."""

    name: str | None
    """The framework's name of the route, or its word for the operation."""
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
    """None if they are unknown; `WEBSOCKET` for a WebSocket."""
    redirects: bool = False
    """Whether it does nothing but redirect."""
    opaque: bool = False
    """Whether it is a mount whose own routes are hidden."""
    is_mount: bool = False
    spelled: str = ""
    """The template as the framework spells it, with converters."""
    owner: object = None
    """What tells it from another route of its name; by default the endpoint."""
    host: str = ""
    """The host that it is for, if any."""
    qualifier: str = ""
    """What its features are qualified by, since other endpoints have its name."""
    by_method: bool = False
    """Whether each of its methods is a feature."""

    def name_for(self, method: str) -> str | None:
        """The name of the feature that one of its methods is, unless the options name it."""
        if self.name is None:
            return None
        is_named = self.by_method or (self.methods is None and method not in ("", "GET"))
        return " ".join(filter(None, (self.name, method if is_named else "", self.qualifier)))

    def keys(self, method: str) -> tuple[str, ...]:
        """The names and templates that the options may use for one of its methods, the most exact first."""
        names = (self.name_for(method), self.name, *self.aliases)
        return (*self.templates, *dict.fromkeys(name for name in names if name is not None))

    @property
    def counted_methods(self) -> tuple[str, ...]:
        """The methods that may be uses; one that is empty stands for any."""
        return ("",) if self.methods is None else tuple(sorted(self.methods - UNCOUNTED))


def qualified(routes: Iterable[Route]) -> list[Route]:
    """The routes of an app, so that no two endpoints, methods or operations count as one feature.

    A route that serves several methods is a feature for each of them. A name that several endpoints share is qualified
    by the template of each, and by the method if they share the template too. Nothing else is qualified. An endpoint
    that has several routes of one name is one endpoint.
    """
    found = list(routes)
    first: dict[tuple[str | None, int], Route] = {}
    methods: dict[tuple[str | None, int], set[str]] = {}
    for route in found:
        identity = _identity(route)
        first.setdefault(identity, route)
        methods.setdefault(identity, set()).update(route.counted_methods)
    counted = [(identity, route) for identity, route in first.items() if route.countable and not route.documentation]
    by_name = Counter(route.name for _, route in counted)
    by_place = Counter((route.name, _place(route)) for _, route in counted)
    by_all = Counter((route.name, _place(route), method) for key, route in counted for method in methods[key])
    for position, route in enumerate(found):
        identity = _identity(route)
        leader, served = first[identity], methods[identity]
        place = _place(leader)
        qualifier, by_method = "", len(served) > 1
        if by_name[route.name] > 1 and route.countable and not route.documentation:
            qualifier, by_method = place, by_method or by_place[route.name, place] > 1
            if any(by_all[route.name, place, method] > 1 for method in served):
                qualifier = f"{place} {source_of(route.endpoint) or ''}".strip()
        if qualifier or by_method:
            found[position] = route._replace(qualifier=qualifier, by_method=by_method)
    return found


def _identity(route: Route) -> tuple[str | None, int]:
    return route.name, id(route.endpoint if route.owner is None else route.owner)


def _place(route: Route) -> str:
    return route.host + route.templates[0]


def class_methods(cls: type) -> frozenset[str] | None:
    """The methods that a class handles by a method of its own; None if there are none."""
    return frozenset(method for method in METHODS if hasattr(cls, method.lower())) or None


# ---- endpoints


def source_of(endpoint: object) -> str | None:
    """The `module:qualname` of an endpoint; None without one."""
    module, name = getattr(endpoint, "__module__", None), getattr(endpoint, "__qualname__", None)
    return f"{module}:{name}" if isinstance(module, str) and isinstance(name, str) else None


def first_line_of(endpoint: object) -> str | None:
    """The first line of an endpoint's docstring."""
    text = getattr(endpoint, "__doc__", None) if hasattr(endpoint, "__qualname__") else None
    return (text.strip().partition("\n")[0].strip() or None) if isinstance(text, str) else None


_GRAPHQL = frozenset(
    {"strawberry", "ariadne", "graphene_django", "starlette_graphene3", "graphql_server", "flask_graphql"}
)


def is_graphql(endpoint: object) -> bool:
    """Whether an endpoint serves GraphQL operations, which count by the integrations of GraphQL libraries."""
    kind = getattr(endpoint, "view_class", None) or (endpoint if isinstance(endpoint, type) else type(endpoint))
    modules = {getattr(endpoint, "__module__", None), *(base.__module__ for base in kind.__mro__)}
    return any(isinstance(module, str) and module.partition(".")[0] in _GRAPHQL for module in modules)


_EXTENSIONS = frozenset({"UsageExtension", "UsageExecutionContext"})


def executes_graphql(endpoint: object) -> bool:
    """Whether the code of an endpoint names an extension of ours for a GraphQL library.

    Such a view of the app's own serves operations alone. An invalid query never reaches Graphene's extension.
    """
    owner: Any = getattr(endpoint, "view_class", endpoint)
    names = [*(method.lower() for method in METHODS), *_HANDLERS]
    served = [getattr(owner, name, None) for name in names] if isinstance(owner, type) else [endpoint]
    return any(_names_extension(one) for one in served)


def _names_extension(function: Any) -> bool:
    for _ in range(50):
        code = getattr(function, "__code__", None)
        if code is None:
            return False
        values = [function.__globals__.get(name) for name in code.co_names]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # a variable without a value yet
                values.append(cell.cell_contents)
        if any(_is_extension(value) for value in values):
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def _is_extension(value: object) -> bool:
    return isinstance(value, type) and any(
        base.__name__ in _EXTENSIONS and base.__module__.startswith("usage_instrument.") for base in value.__mro__
    )


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
