"""The `features`, `include` and `exclude` options of a middleware: which routes count, and under which name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from usage_instrument.errors import ConfigurationError, DeclarationError
from usage_instrument.events import check_feature

from .routes import Route, plain_template

Namer: TypeAlias = Callable[[Any], "str | None"]
"""From a scope or an environ to the name of its feature; None counts nothing."""
Features: TypeAlias = Mapping[str, "str | Namer | None"] | Namer
"""The `features` option; see Rules."""

_HEALTH = "health|health[-_]?check|healthz|livez|readyz|liveness|readiness|heartbeat|ping"
_TOOLS = r"metrics|docs|redoc|apidocs|openapi\.(?:json|ya?ml)|swagger(?:\.json)?|favicon\.ico|robots\.txt"
EXCLUDED = re.compile(rf"(?:/api)?(?:/v\d+)?/(?:{_HEALTH})(?:/.*)?|/(?:{_TOOLS})(?:/[^{{]*)?", re.IGNORECASE)
"""Templates, within their own app, of the routes that are excluded by default."""


class Rule(NamedTuple):
    """What the options say of a route: the name of its feature (or None), and whether `features` itself said so."""

    feature: str | Namer | None
    explicit: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The name, if it does not take a request to tell it."""
        return frozenset((self.feature,)) if isinstance(self.feature, str) else frozenset()


NEVER = Rule(None)


class Rules:
    """Decides by name, template and method. The first that applies, wins:

    1. **`features`** is a mapping from routes to feature names. A key is an endpoint's name (`"calendar.follow"`) or
       a route's template (`"/events/{id}"`, in Flask's spelling or in Starlette's, converters left out or not), with
       or without a method before it (`"POST /events/{id}/follow"`, `"WEBSOCKET /chat"`); the more exact key wins. A
       value is a name, None (never count it), or a callable that gets the scope or environ and returns either.
    2. **`exclude`**: patterns of routes that do not count. A pattern is like a key, and `*` stands for any
       characters, `/` too: `"admin.*"`, `"/internal/*"`, `"GET /events*"`.
    3. **`include`**: patterns; when given, nothing else counts.
    4. Health, metrics and API-docs routes do not count, unless in `include`.
    5. **`features`** as a callable: it names every route that is left.
    6. The route's own name.

    An app without a framework that we know matches templates by its path, and has no names of its own.
    Raises FeatureNameError and ConfigurationError (ValueErrors), DeclarationError (a TypeError).
    """

    def __init__(self, features: Features | None, include: Iterable[str] | None, exclude: Iterable[str] | None) -> None:
        self._namer: Namer | None = None
        self._named: dict[tuple[str, str], str | Namer | None] = {}
        self.templates: list[tuple[str, str, str]] = []
        """Of each key of `features` that has a name: the method, the template as it is spelled, and the name."""
        if isinstance(features, Mapping):
            for key, value in features.items():
                method, target = _key(key)
                self._named[method, plain_template(target)] = named = _value(key, value)
                if isinstance(named, str):
                    self.templates.append((method, target, named))
        elif features is not None:
            self._namer = check_callable("features=", features)
        self._by_path = [(method, _path_pattern(target), value) for (method, target), value in self._named.items()]
        self._include = None if include is None else _patterns("include", include)
        self._exclude = _patterns("exclude", exclude or ())

    @property
    def names(self) -> list[str]:
        """The feature names that are known from the start."""
        return list(dict.fromkeys(value for value in self._named.values() if isinstance(value, str)))

    @property
    def has_callables(self) -> bool:
        """Whether there are feature names that only a request tells."""
        return self._namer is not None or any(map(callable, self._named.values()))

    def unmatched(self, routes: list[Route]) -> list[str]:
        """The keys of `features` that are none of an app's routes, as far as that can be known."""
        hidden = [route.templates[0] for route in routes if route.opaque]
        found = []
        for method, target in self._named:
            if hidden and (not target.startswith("/") or target.startswith(tuple(hidden))):
                continue
            if not any(target in route.keys and _answers(route, method) for route in routes):
                found.append(f"{method} {target}".lstrip())
        return found

    def decide(self, route: Route, method: str) -> Rule:
        """What the options say of a route that a framework matched."""
        for wanted in (method, ""):
            for key in route.keys:
                if (wanted, key) in self._named:
                    return Rule(self._named[wanted, key], explicit=True)
        if self.refusal(route, method) is not None:
            return NEVER
        return Rule(route.name) if self._namer is None else Rule(self._namer, explicit=True)

    def decide_path(self, path: str, method: str) -> Rule:
        """What the options say of a path of an app whose routes are not known."""
        for wanted, pattern, value in self._by_path:
            if wanted in ("", method) and pattern is not None and pattern.fullmatch(path):
                return Rule(value, explicit=True)
        if self._namer is not None and self.refusal(Route(None, (path,), path), method) is None:
            return Rule(self._namer, explicit=True)
        return NEVER

    def refusal(self, route: Route, method: str) -> str | None:
        """Why the options leave a route out; None if they do not."""
        if any(_matches(pattern, route, method) for pattern in self._exclude):
            return "exclude="
        if self._include is not None:
            return None if any(_matches(pattern, route, method) for pattern in self._include) else "not in include="
        if route.documentation or EXCLUDED.fullmatch(route.local):
            return "probes, metrics and API documentation are not, unless in include="
        return None


_Pattern: TypeAlias = tuple[str, re.Pattern[str]]


def _matches(pattern: _Pattern, route: Route, method: str) -> bool:
    return pattern[0] in ("", method) and any(map(pattern[1].fullmatch, route.keys))


def _answers(route: Route, method: str) -> bool:
    return not method or route.methods is None or method in route.methods


def _key(key: object) -> tuple[str, str]:
    if not isinstance(key, str):
        raise DeclarationError(f"a key of features= is a str, not {type(key).__name__}")
    if "*" in key:
        raise ConfigurationError(f"a key of features= is one route, without *: {key!r}; patterns are for exclude=")
    return _split(key)


def _split(text: str) -> tuple[str, str]:
    """The method (maybe empty), and the name or template."""
    method, _, target = text.strip().partition(" ")
    target = target.lstrip()
    if target and method.isalpha() and (method.isupper() or target.startswith("/")):
        return method.upper(), target
    return "", text.strip()


def _value(key: str, value: object) -> str | Namer | None:
    if value is None or isinstance(value, str):
        return None if value is None else check_feature(value)
    namer: Namer = check_callable(f"features[{key!r}]", value)
    return namer


def check_callable(option: str, value: Any) -> Any:
    """The callable itself; raises DeclarationError for what cannot be called, or only with `await`."""
    if not callable(value):
        raise DeclarationError(f"{option} cannot be a {type(value).__name__}")
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__):
        raise DeclarationError(f"{option} is called without await, so it cannot be a coroutine function")
    return value


def _patterns(option: str, patterns: Iterable[str]) -> list[_Pattern]:
    if isinstance(patterns, str):
        raise DeclarationError(f"{option}= is a list of patterns, not one str")
    found = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise DeclarationError(f"a pattern of {option}= is a str, not {type(pattern).__name__}")
        method, target = _split(pattern)
        found.append((method, re.compile(".*".join(map(re.escape, plain_template(target).split("*"))), re.DOTALL)))
    return found


def _path_pattern(template: str) -> re.Pattern[str] | None:
    """What the paths of a template look like; None for a name."""
    if not template.startswith("/"):
        return None
    return re.compile("[^/]+".join(map(re.escape, re.split(r"\{[^{}]*\}", template))))
