"""The routes of Flask and Quart apps, and the one that a request took; imports no framework."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from usage_instrument.capture.context import SCOPE_KEY, current_request
from usage_instrument.runtime import log
from usage_instrument.typing import UNSET, Scope

from .framework_users import FLASK_USER, flask_user
from .mounts import Mounted, mounted_apps
from .path_templates import plain_template
from .routes import MOST, WEBSOCKET, Route, qualified

RULE_KEY = "usage_instrument.flask_rule"
"""The key of an ASGI scope with the rule of the Flask request that runs in it, or the route of Bottle or Pyramid."""


FLASK_APP = "usage_instrument.flask_app"
"""The key of an ASGI scope with the app of that request."""


def flask_request(request: object) -> Any:
    """The Flask request that runs for a Request, whatever copies of its environ were made; None without one."""
    flask: Any = sys.modules.get("flask")
    if flask is None or not flask.has_request_context():
        return None
    running = flask.request._get_current_object()
    return running if running.environ.get(SCOPE_KEY) is request else None


def flask_apps(app: object) -> Iterator[Mounted]:
    """The Flask apps that a WSGI app is or leads to."""
    return mounted_apps(app, lambda each: hasattr(each, "url_map") and hasattr(each, "view_functions"))


def flask_rules(apps: Iterable[Mounted]) -> Iterator[tuple[Any, Route]]:
    """The rules of Flask apps, each with its route, which is not told apart yet."""
    for prefix, app in apps:
        for rule in list(app.url_map.iter_rules()):
            yield rule, _route(app, rule, prefix)


class FlaskRoutes:
    """The routes of the Flask apps below a WSGI middleware, by their rules."""

    def __init__(self, app: object) -> None:
        self.app = app
        self._found: dict[int, tuple[object, list[Route]]] = {}

    def find(self, rule: Any, prefix: str) -> Route:
        """The route of a rule of the app that is running, mounted at `prefix`."""
        if id(rule) not in self._found:  # routes may be added while the app runs
            self._walk(prefix)
        _, routes = self._found.get(id(rule), (None, []))
        local = plain_template(rule.rule)
        exact = next((route for route in routes if route.templates[0] == prefix + local), None)
        if exact is not None:
            return exact
        return (routes[0] if routes else _route(None, rule, prefix))._replace(templates=(prefix + local,))

    def visible(self) -> list[Route] | None:
        """The routes that can be seen from outside; None without a Flask app."""
        apps = list(flask_apps(self.app))
        return qualified(route for _, route in islice(flask_rules(apps), MOST)) if apps else None

    def _walk(self, prefix: str) -> None:
        apps = list(flask_apps(self.app))
        flask: Any = sys.modules.get("flask")
        if flask is not None and flask.has_app_context():
            running = flask.current_app._get_current_object()
            if not any(mounted.app is running for mounted in apps):
                apps.append(Mounted(prefix, running))
        pairs = list(islice(flask_rules(apps), MOST))
        found: dict[int, tuple[object, list[Route]]] = {}
        for (rule, _), route in zip(pairs, qualified(route for _, route in pairs), strict=True):
            found.setdefault(id(rule), (rule, []))[1].append(route)
        self._found = found


def _route(app: Any, rule: Any, prefix: str) -> Route:
    endpoint = rule.endpoint
    local = plain_template(rule.rule)
    is_name = isinstance(endpoint, str)
    return Route(
        endpoint if is_name else None,
        (prefix + local,),
        local,
        app.view_functions.get(endpoint) if is_name and app is not None else None,
        not is_name or not (endpoint == "static" or endpoint.endswith(".static")),
        methods=_methods(rule),
        redirects=getattr(rule, "redirect_to", None) is not None,
        spelled=prefix + rule.rule,
        owner=(app or rule),
    )


def _methods(rule: Any) -> frozenset[str] | None:
    if getattr(rule, "websocket", None) is True:  # of Quart
        return frozenset({WEBSOCKET})
    methods = getattr(rule, "methods", None)
    return frozenset(methods) if isinstance(methods, set) else None


# ---- a Flask app in an ASGI app, and Quart


@log.quietly("cannot follow Flask")  # Flask is blocked, or another thread is importing it
def follow_flask() -> None:
    """Note the rule and the user of Flask requests that run within an ASGI request. Raises nothing."""
    signals: Any = sys.modules["flask"]
    signals.request_finished.connect(_note)


@log.quietly("cannot read a Flask request")
def _note(sender: object, **_: object) -> None:
    request = current_request()
    scope: Scope | None = None if request is None else request.info
    if type(scope) is dict and scope.get("type") == "http":
        running: Any = sys.modules["flask"].request
        scope[RULE_KEY] = running.url_rule
        scope[FLASK_APP] = sys.modules["flask"].current_app._get_current_object()
        user = flask_user(running.environ)
        if user is not UNSET:
            scope[FLASK_USER] = user


@log.quietly("cannot follow Quart")  # Quart is blocked, or another thread is importing it
def follow_quart() -> None:
    """Note the rule of Quart's requests and WebSockets. Raises nothing."""
    signals: Any = sys.modules["quart.signals"]
    signals.request_started.connect(_note_quart)
    signals.websocket_started.connect(_note_quart)


async def _note_quart(sender: object, **_: object) -> None:  # Quart runs a plain function in a thread
    with log.quietly("cannot read a Quart request"):
        request = current_request()
        scope: Scope | None = None if request is None else request.info
        if type(scope) is dict and scope.get("type") in ("http", "websocket"):
            quart: Any = sys.modules["quart"]
            running = quart.request if quart.has_request_context() else quart.websocket
            if running.url_rule is not None:
                scope[RULE_KEY], scope[FLASK_APP] = running.url_rule, quart.current_app._get_current_object()
