"""Mistakes in the setup of a middleware: around the wrong app, twice, or with names of unknown routes."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from usage_instrument.errors import ConfigurationError
from usage_instrument.runtime import log

from .request_counter import RequestCounter
from .routes import Route

WSGI, ASGI = 2, 3
"""The protocols, by the number of arguments of their apps."""
_NAMES = {WSGI: "wsgi", ASGI: "asgi"}


def check_protocol(app: Any, protocol: int) -> None:
    """Raise ConfigurationError for an app that can only be of the other protocol, or of none."""
    other = WSGI + ASGI - protocol
    if not callable(app):
        raise ConfigurationError(f"a middleware wraps an app, and this is {type(app).__name__}")
    try:
        signature = inspect.signature(app)
    except Exception:  # the host's, or a callable without a signature
        return
    if _takes(signature, other) and not _takes(signature, protocol):
        raise ConfigurationError(
            f"{type(app).__name__} is {'a WSGI' if other == WSGI else 'an ASGI'} app: "
            f"wrap it in usage_instrument.{_NAMES[other]}.UsageMiddleware, not usage_instrument.{_NAMES[protocol]}'s"
        )


def _takes(signature: inspect.Signature, arguments: int) -> bool:
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True


@log.quietly("cannot check the app")
def check_app(app: object, counter: RequestCounter, routes_of: Callable[[object], list[Route] | None]) -> None:
    """Log what is wrong with a middleware around this app, at its first request, when the app is complete.

    `routes_of` returns the routes of an app, or None if some are unknown.
    """
    below = list(layers(app))
    if any(getattr(getattr(one, "_counter", None), "catalog", None) is counter.catalog for one in below):
        log.emit(logging.WARNING, "UsageMiddleware stands twice around one app: take one of the two away")
    declare_later(counter, lambda: routes_of(app) or ())
    is_named = bool(counter.rules.keys or counter.policy)
    known = routes_of(getattr(below[-1], "__self__", below[-1])) if below and is_named else None
    if known is None:
        return
    for key in counter.rules.unmatched(known):
        near = difflib.get_close_matches(
            key.rpartition(" ")[2],
            {name for route in known for each in route.counted_methods for name in route.keys(each)},
            1,
        )
        hint = f"; did you mean {near[0]!r}?" if near else ""
        log.emit(logging.WARNING, "features= names %r, which is no route of this app%s", key, hint)
    for name in counter.policy.unmatched(known, counter.rules) if counter.policy else ():
        log.emit(logging.ERROR, "audit= names the feature %r, which is no route of this app: none is recorded", name)


def declare_later(counter: RequestCounter, routes_of: Callable[[], Iterable[Route]]) -> None:
    """Have the features of an app's routes entered in the catalogue, so that those that nobody uses are there too."""
    counter.catalog.declare_later(lambda: counter.declare(routes_of()))


def layers(app: Any) -> Iterator[Any]:
    """The layers from the one that a middleware wraps to the entrance of its app, both included."""
    for _ in range(50):
        if app is None or hasattr(app, "mounts"):  # werkzeug's dispatcher, with several apps below
            return
        yield app
        own = vars(app) if hasattr(app, "__dict__") and not hasattr(app, "__func__") else {}
        app = next((own[name] for name in ("app", "wsgi_app", "asgi_app", "middleware_stack") if name in own), None)
