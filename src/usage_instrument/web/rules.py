"""The `features`, `include` and `exclude` options of a middleware: which routes count, and under which name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from usage_instrument.errors import DeclarationError
from usage_instrument.events import check_feature, shortened

from .options import Features, Namer, check_callable
from .path_templates import PathTemplate, Pattern, plain_template
from .routes import WEBSOCKET, Route

_ALWAYS = frozenset(
    {
        *("healthz", "livez", "readyz", "startupz", "health-check", "health_check", "healthcheck", "_health", "_ping"),
        *("__heartbeat__", "__lbheartbeat__", "__version__", "favicon.ico", "favicon.png", "favicon.svg", "robots.txt"),
        *("openapi.json", "openapi.yaml", "openapi.yml", "swagger.json", "swagger.yaml", "swagger-ui", "redoc"),
        *("apidocs", "oauth2-redirect", "_reload-hash", "_dash-layout", "_dash-dependencies", "_favicon.ico"),
        *("manifest.json", "manifest.webmanifest", "site.webmanifest"),
    }
)
"""Last segments of routes that are never a feature."""
_AFTER_TECHNICAL = frozenset(
    {
        *("health", "healthy", "live", "liveness", "ready", "readiness", "startup", "started", "up", "alive", "ping"),
        *("heartbeat", "metrics", "docs", "swagger", "schema", "openapi", "prometheus"),
    }
)
"""Last segments that may be a feature (`/my/health`), unless each segment before is technical (`/api/v1/health`)."""
_PROBES = frozenset({"health", "healthz", "healthcheck", "health-check", "health_check", "livez", "readyz", "startupz"})
"""Segments before the name of what a probe asks for."""
_PROBED = frozenset({"db", "database", "cache", "redis", "queue", "broker", "storage", "disk", "migrations"})
"""Last segments after a probe's."""
_TECHNICAL = re.compile(
    r"-|_ah|api|rest|v\d+|q|utils?|internal|system|_?status|actuator|management|monitoring|probes?|docs|schema|"
    r"health|healthz|livez|readyz|startupz|health[-_]?check"
)
_ASSETS = "_dash-component-suites"
"""A segment before the bundles of a framework's own pages."""


def is_technical(template: str) -> bool:
    """Whether a route without parameters is a probe, metrics or API documentation, by its whole last segments."""
    *before, last = template.lower().strip("/").split("/")
    if _ASSETS in before:
        return True
    if "{" in template or "*" in template:  # a group without a name, in a regular expression of Django's
        return False
    if last in _ALWAYS:
        return True
    is_probed = last in _PROBED and before and before[-1] in _PROBES
    return bool(last in _AFTER_TECHNICAL or is_probed) and all(map(_TECHNICAL.fullmatch, before))


class Rule(NamedTuple):
    """What the options decide about a route: the name of its feature or None, and whether `features` decided."""

    feature: str | Namer | None
    explicit: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The name, if it is known without a request."""
        return frozenset((self.feature,)) if isinstance(self.feature, str) else frozenset()


NEVER = Rule(None)


class Key(NamedTuple):
    """An entry of `features`."""

    method: str
    """Empty for any."""
    target: str
    """The name or template, as it is written."""
    value: str | Namer | None
    template: PathTemplate | None
    """None for a name, and in a framework that decides by its routes alone."""

    pattern: Pattern | None
    """For a key with `*`."""

    def answers(self, method: str) -> bool:
        """Whether the entry is for a method."""
        return self.method in ("", method)

    def covers(self, route: Route, method: str) -> bool:
        """Whether the entry is a pattern of a route."""
        return self.pattern is not None and self.answers(method) and any(map(self.pattern.matches, route.keys(method)))


class Rules:
    """Decides by name, template and method. The first of these that applies decides:

    1. **`features`** is a mapping from routes to feature names. A key is an endpoint's name (`"calendar.follow"`) or
       a route's template (`"/events/{id}"`, in Flask's spelling or in Starlette's, with or without converters), with
       or without a method before it (`"POST /events/{id}/follow"`, `"WEBSOCKET /chat"`); the more exact key wins. A
       key may be a pattern, in which `*` matches any characters (`"orders.*"`, `"/orders/*"`): of several patterns
       the first applies, after all other keys. A value is a name, None (never count it), or a callable that gets the
       request and returns either.
    2. **`exclude`**: patterns of routes that do not count. A pattern is like a key, and `*` matches any
       characters, `/` too: `"admin.*"`, `"/internal/*"`, `"GET /events*"`.
    3. **`include`**: patterns; no other route counts.
    4. Health, metrics and API-docs routes, and those that only redirect, do not count, unless in `include`.
    5. **`features`** as a callable names all other routes.
    6. The route's own name; see `qualified` for names that are not unique.

    For an app whose framework is unknown, templates match its paths, and there are no names.
    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError (a TypeError).
    """

    def __init__(
        self,
        features: Features | None,
        include: Iterable[str] | None,
        exclude: Iterable[str] | None,
        *,
        matches_paths: bool = True,
    ) -> None:
        """With `matches_paths`, a key that is a template must be one that can be matched with paths."""
        self._namer: Namer | None = None
        self._keys: dict[tuple[str, str], Key] = {}
        if isinstance(features, Mapping):
            for text, value in features.items():
                key = _key(text, value, matches_paths)
                self._keys[key.method, plain_template(key.target)] = key
        elif features is not None:
            self._namer = check_callable("features=", features)
        self._include = None if include is None else _patterns("include", include)
        self._exclude = _patterns("exclude", exclude or ())

    @property
    def keys(self) -> list[Key]:
        """The entries of `features`."""
        return list(self._keys.values())

    @property
    def names(self) -> list[str]:
        """The feature names that are known from the start."""
        return list(dict.fromkeys(key.value for key in self.keys if isinstance(key.value, str)))

    @property
    def has_callables(self) -> bool:
        """Whether some feature names are known only with a request."""
        return self._namer is not None or any(callable(key.value) for key in self.keys)

    def has_paths(self, prefix: str) -> bool:
        """Whether an entry of `features` names paths below a template."""
        targets = [key.target for key in self.keys if key.template is not None]
        return any(target.startswith(prefix) or "*" in target for target in targets)

    def unmatched(self, routes: list[Route]) -> list[str]:
        """The keys of `features` that are no route of an app; keys that a mounted app may have are left out."""
        hidden = [route.templates[0] for route in routes if route.opaque]
        found = []
        for method, target in self._keys:
            if hidden and (not target.startswith("/") or target.startswith(tuple(hidden))):
                continue
            key = self._keys[method, target]
            if not any(_leads_to(key, target, route) for route in routes):
                found.append(f"{method} {target}".lstrip())
        return found

    def decide(self, route: Route, method: str) -> Rule:
        """The rule for a route that a framework matched."""
        exact = (self._keys.get((wanted, name)) for wanted in (method, "") for name in route.keys(method))
        for key in (*exact, *(key for key in self.keys if key.covers(route, method))):
            if key is not None:
                return Rule(key.value, explicit=True)
        if self.exclusion(route, method) is not None:
            return NEVER
        if self._namer is not None:
            return Rule(self._namer, explicit=True)
        name = route.name_for(method)
        return Rule(None if name is None else shortened(name))

    def decide_path(self, path: str, method: str, *, names: bool = True) -> Rule:
        """The rule for a path of an app whose routes are unknown; with `names`, also by a callable that names all."""
        for key in sorted(self._keys.values(), key=lambda key: key.pattern is not None):
            if key.template is not None and key.answers(method) and key.template.matches(path):
                return Rule(key.value, explicit=True)
        if names and self._namer is not None and self.exclusion(Route(None, (path,), path), method) is None:
            return Rule(self._namer, explicit=True)
        return NEVER

    def exclusion(self, route: Route, method: str) -> str | None:
        """Why the options exclude a route; None if they do not."""
        if any(pattern.matches(route, method) for pattern in self._exclude):
            return "exclude="
        if self._include is not None:
            return None if any(pattern.matches(route, method) for pattern in self._include) else "not in include="
        if route.documentation or (method != WEBSOCKET and is_technical(route.local)):
            return "probes, metrics and API documentation are not, unless in include="
        if route.redirects:
            return "a redirect is no use, unless in include="
        return None


class _RoutePattern(NamedTuple):
    method: str
    pattern: Pattern

    def matches(self, route: Route, method: str) -> bool:
        return self.method in ("", method) and any(map(self.pattern.matches, route.keys(method)))


def _leads_to(key: Key, target: str, route: Route) -> bool:
    """Whether a key of `features` is for some method of a route."""
    methods = route.methods or ("", "GET", "POST")
    answered = [method for method in methods if not key.method or route.methods is None or method == key.method]
    return any(target in route.keys(method) or key._replace(method="").covers(route, method) for method in answered)


def _key(text: object, value: object, matches_paths: bool) -> Key:
    if not isinstance(text, str):
        raise DeclarationError(f"a key of features= is a str, not {type(text).__name__}")
    if value is not None:
        value = check_feature(value) if isinstance(value, str) else check_callable(f"features[{text!r}]", value)
    method, target = _split(text)
    template = PathTemplate(target) if matches_paths and target.startswith("/") else None
    return Key(method, target, value, template, Pattern(target) if "*" in target else None)


def _split(text: str) -> tuple[str, str]:
    """The method, maybe empty, and the name or template."""
    method, _, target = text.strip().partition(" ")
    target = target.lstrip()
    if target and method.isalpha() and (method.isupper() or target.startswith("/")):
        return method.upper(), target
    return "", text.strip()


def _patterns(option: str, patterns: Iterable[str]) -> list[_RoutePattern]:
    if isinstance(patterns, str):
        raise DeclarationError(f"{option}= is a list of patterns, not one str")
    found = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise DeclarationError(f"a pattern of {option}= is a str, not {type(pattern).__name__}")
        method, target = _split(pattern)
        found.append(_RoutePattern(method, Pattern(target)))
    return found
