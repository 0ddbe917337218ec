"""What a middleware can tell of how it was put up: around the wrong app, twice, or with names of routes that are not
there."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

from usage_instrument.errors import ConfigurationError

from .request_counter import Counter
from .routes import Route

logger = logging.getLogger("usage_instrument")

WSGI, ASGI = 2, 3
"""The protocols, by how many arguments their apps take."""
_NAMES = {WSGI: "wsgi", ASGI: "asgi"}


def check_protocol(app: Any, protocol: int) -> None:
    """Raise ConfigurationError for an app that can only be of the other protocol, or none at all."""
    other = WSGI + ASGI - protocol
    if not callable(app):
        raise ConfigurationError(f"a middleware wraps an app, and this is {type(app).__name__}")
    try:
        signature = inspect.signature(app)
    except Exception:  # the host's, or one that nobody can tell
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


def look_below(app: object, counter: Counter, routes: Callable[[object], list[Route] | None]) -> None:
    """Say in the log what is wrong with a middleware that wraps this app, at its first request: by then all is there.

    `routes` tells those of an app, or None where not all of them can be known.
    """
    try:
        below = list(layers(app))
        if any(getattr(getattr(one, "_counter", None), "catalog", None) is counter.catalog for one in below):
            logger.warning("UsageMiddleware stands twice around one app: take one of the two away")
        known = routes(getattr(below[-1], "__self__", below[-1])) if below else None
        for key in [] if known is None else counter.rules.unmatched(known):
            names = {name for route in known or () for name in route.keys}
            near = difflib.get_close_matches(key.rpartition(" ")[2], names, 1)
            logger.warning(
                "features= names %r, which is no route of this app%s", key,
                f"; did you mean {near[0]!r}?" if near else "",
            )  # fmt: skip
        unaudited = counter.auditing.unmatched(known, counter.rules) if counter.auditing and known is not None else []
        for name in unaudited:
            logger.error("audit= names the feature %r, which no route of this app is: nothing of it is recorded", name)
    except Exception:  # of the host's objects
        logger.debug("cannot look at the app", exc_info=True)


def layers(app: Any) -> Iterator[Any]:
    """What stands between a middleware and the entrance of the one app that it is for, both included."""
    for _ in range(50):
        if app is None or hasattr(app, "mounts"):  # werkzeug's dispatcher: several apps stand below
            return
        yield app
        own = vars(app) if hasattr(app, "__dict__") and not hasattr(app, "__func__") else {}
        app = next((own[name] for name in ("app", "wsgi_app", "middleware_stack") if name in own), None)
