"""The routes of a Django site, and the one that a request took; imports no framework."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

from .path_templates import plain_template
from .routes import MOST, Route, class_methods, qualified

_REGEX_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?P<(?P<name>\w+)>)?|\)[?*+]?")
"""What may hold a parenthesis that groups nothing, and those that do."""
_REGEX_BEGIN = re.compile(r"^(?:\(\?[aiLmsux]+\))?(?:\^|\\A)?")
_REGEX_END = re.compile(r"(?:\\?/\?)?(?:(?<!\\)\$|\\[Zz])$")
_ESCAPED = frozenset({r"\.", r"\-", r"\/"})
_REDIRECT_VIEW = "django.views.generic.base.RedirectView"
_REDIRECTING = ("dispatch", "get", "post", "put", "patch", "delete", "get_redirect_url")
"""The methods of a RedirectView that a request which may be a use runs."""
_STATIC = frozenset({"django.views.static", "django.contrib.staticfiles.views"})


class DjangoRoutes:
    """The routes of a URLconf, by their views and names."""

    def __init__(self) -> None:
        self._found: dict[object, list[Route]] = {}
        self._kept: dict[object, object] = {}

    def find(self, match: Any, urlconf: Any, method: str) -> Route:
        """The route of a ResolverMatch, for a method."""
        key = id(match.func), match.view_name
        if key not in self._found:
            self._walk(urlconf)
        routes = self._found.get(key) or qualified(_routes_of(match))
        method = "GET" if method == "HEAD" else method
        return next((route for route in routes if route.methods is None or method in route.methods), routes[0])

    def _walk(self, urlconf: Any) -> None:
        pairs = list(islice(_walk(urlconf), MOST))
        if len(self._found) > MOST:  # a site that creates URLconfs while it runs
            self._found.clear()
            self._kept.clear()
        for (match, _), route in zip(pairs, qualified(route for _, route in pairs), strict=True):
            key = id(match.func), match.view_name
            self._kept[key] = match.func  # an id is good for as long as its object lives
            self._found.setdefault(key, []).append(route)


def django_routes(urlconf: Any = None) -> list[Route]:
    """The routes of a URLconf, by default the one of the settings. Raises what loading it raises."""
    return qualified(route for _, route in islice(_walk(urlconf), MOST))


def _walk(urlconf: Any) -> Iterator[tuple[Any, Route]]:
    urls: Any = sys.modules["django.urls"]
    for match in _matches(urls.get_resolver(urlconf), "", []):
        for route in _routes_of(match):
            yield match, route


def _matches(resolver: Any, prefix: str, namespaces: list[str]) -> Iterator[Any]:
    """What a request to each pattern would match, in their order."""
    urls: Any = sys.modules["django.urls.resolvers"]
    for pattern in list(resolver.url_patterns):
        # The prefix of a language is another in each request.
        own = "{language}/" if hasattr(pattern.pattern, "language_prefix") else str(pattern.pattern)
        route = prefix + (_of_regex(own) if isinstance(pattern.pattern, urls.RegexPattern) else own)
        if hasattr(pattern, "url_patterns"):
            namespace = [pattern.namespace] if pattern.namespace else []
            yield from _matches(pattern, route, [*namespaces, *namespace])
        else:
            yield urls.ResolverMatch(pattern.callback, (), {}, pattern.name, None, namespaces, route)


def _of_regex(regex: str) -> str:
    r"""A regular expression as a template: `^archive/(?P<year>\d{4})/$` is `archive/{year}/`.

    A group without a name is `*`. What stands between groups stays as it is written, but for escaped punctuation of
    paths and for an optional slash at the end.
    """
    regex = _REGEX_END.sub("", _REGEX_BEGIN.sub("", regex))
    found, start, depth = "", 0, 0
    for token in _REGEX_TOKEN.finditer(regex):
        if token[0] in _ESCAPED:
            if depth == 0:
                found, start = found + regex[start : token.start()] + token[0][1], token.end()
        elif token[0].startswith("("):
            if depth == 0:
                found += regex[start : token.start()] + (f"{{{token['name']}}}" if token["name"] else "*")
            depth += 1
        elif token[0].startswith(")"):
            depth, start = depth - 1, token.end()
    return found + regex[start:]


def _routes_of(match: Any) -> list[Route]:
    """The routes that a pattern is: one for each operation for which its framework has a word."""
    view = match.func
    template = "/" + plain_template(match.route or "")
    is_static = getattr(view, "__module__", None) in _STATIC
    route = Route(match.view_name, (template,), template, view, not is_static)
    operations = _ninja_operations(view)
    if operations:
        return [_of_ninja(route, match, operation) for operation in operations]
    actions = getattr(view, "actions", None)
    if isinstance(actions, dict):  # a viewset of REST framework
        return _of_viewset(route, view, {method.upper(): action for method, action in actions.items()})
    cls = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if not isinstance(cls, type):
        return [route._replace(methods=_required_methods(view))]
    names = {name.upper() for name in getattr(cls, "http_method_names", ())}
    methods = class_methods(cls)
    return [
        route._replace(
            endpoint=_decorated_by_api_view(cls) or view,
            methods=None if methods is None else methods & names or methods,
            redirects=_only_redirects(cls),
            owner=view if getattr(view, "view_initkwargs", None) else cls,  # the same class may show several things
        )
    ]


def _only_redirects(cls: type) -> bool:
    """Whether a class is a RedirectView whose methods are all Django's: one of the host's may do more."""
    if all(f"{base.__module__}.{base.__name__}" != _REDIRECT_VIEW for base in cls.__mro__):
        return False
    methods = (getattr(cls, name, None) for name in _REDIRECTING)
    return all((getattr(method, "__module__", None) or "").startswith("django.") for method in methods)


def _required_methods(view: Any) -> frozenset[str] | None:
    """The methods that `require_http_methods` of Django lets through; None if the view takes any."""
    for _ in range(50):
        code = getattr(view, "__code__", None)
        if code is None:
            return None
        if view.__globals__.get("__name__") == "django.views.decorators.http":
            methods = _closure(view).get("request_method_list")
            if methods is not None:
                return frozenset(methods)
        view = getattr(view, "__wrapped__", None)
    return None


def _closure(function: Any) -> dict[str, Any]:
    """The variables that a function refers to."""
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None) or ()
    return {} if code is None else dict(zip(code.co_freevars, (cell.cell_contents for cell in cells), strict=True))


# ---- REST framework


def _of_viewset(route: Route, view: Any, actions: dict[str, str]) -> list[Route]:
    counted = {method: action for method, action in actions.items() if method not in ("HEAD", "OPTIONS")}
    cls = view.cls
    if len(counted) < 2:
        endpoints = [getattr(cls, action, None) for action in counted.values()]
        return [route._replace(endpoint=(endpoints or [view])[0], methods=frozenset(actions), owner=cls)]
    basename = getattr(view, "initkwargs", {}).get("basename")
    namespace, _, name = (route.name or "").rpartition(":")
    found = []
    for method, action in counted.items():
        word = f"{basename}-{action}" if basename and name.startswith(f"{basename}-") else f"{name} {action}"
        found.append(
            route._replace(
                name=f"{namespace}:{word}" if namespace else word,
                endpoint=getattr(cls, action, None),
                methods=frozenset({method}),
                aliases=(route.name,) if route.name else (),
                owner=cls,
            )
        )
    return found


def _decorated_by_api_view(cls: type) -> object:
    """The function that `api_view` of REST framework has made a class of."""
    if cls.__qualname__ != "WrappedAPIView" and "api_view" not in cls.__qualname__:
        return None
    handlers = (vars(cls).get(name) for name in getattr(cls, "http_method_names", ()))
    return next((found for handler in handlers if (found := _closure(handler).get("func")) is not None), None)


# ---- django-ninja


def _ninja_operations(view: Any) -> list[Any]:
    if "ninja" not in sys.modules:
        return []
    path_view = getattr(view, "__self__", None) or _closure(view).get("self")
    found = getattr(path_view, "operations", None)
    return list(found) if isinstance(found, list) and type(path_view).__module__ == "ninja.operation" else []


def _of_ninja(route: Route, match: Any, operation: Any) -> Route:
    """An operation, by its own name, without the version of its API."""
    api, view = operation.api, operation.view_func
    versioned = f"api-{api.version}"
    namespaces = ["api" if name == versioned == api.urls_namespace else name for name in match.namespaces]
    return route._replace(
        name=":".join([*namespaces, getattr(operation, "url_name", None) or view.__name__]),
        endpoint=view,
        methods=frozenset(operation.methods),
        aliases=(route.name,) if route.name else (),
        owner=view,
    )
