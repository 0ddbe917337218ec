"""Rules for `before_track` that are ready to use: robots, and staff who look at the app as somebody else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .context import current_request
from .events import Use

_BOT = re.compile(
    r"bot\b|bot[/_-]|crawl|spider|slurp|scrap|headless|lighthouse|monitor|pingdom|uptime|statuscake|preview|"
    r"facebookexternalhit|whatsapp|^(?:curl|wget|python|go-http-client|java|okhttp|libwww|axios|node|kube-probe)\b",
    re.IGNORECASE,
)
"""In a User-Agent: crawlers, previews and monitors say what they are; programs begin with their library's name."""
_IMPERSONATION = ("impersonator", "impersonator_id", "_impersonate", "hijack_history")
"""In a session, and on a user: what the usual libraries leave there, and what an app of its own may."""
_IMPERSONATED = ("is_impersonate", "is_hijacked")


def without_bots(use: Use) -> Use | None:
    """The use, unless the request's `User-Agent` is a robot's, a monitor's or a program's."""
    request = current_request()
    agent = "" if request is None else _header(request.carrier, "user-agent")
    return None if _BOT.search(agent) else use


def without_impersonation(use: Use) -> Use | None:
    """The use, unless somebody else acts as the user: so the session says, or the user that the framework has loaded.

    Looks only at what is loaded already. Django-hijack, django-impersonate and any app that keeps `impersonator` in its
    session are understood; others call `usage.discard()`.
    """
    request = current_request()
    return None if request is not None and _is_impersonated(request.carrier) else use


def people_only(use: Use) -> Use | None:
    """The use, unless a robot made it or somebody who acts as another."""
    return None if without_bots(use) is None else without_impersonation(use)


def _header(carrier: Any, name: str) -> str:
    """A header out of an ASGI scope, a WSGI environ or a request object of a framework."""
    if not isinstance(carrier, Mapping):
        return str(getattr(carrier, "headers", {}).get(name, ""))
    for key, value in carrier.get("headers", ()):
        if key == name.encode():
            return bytes(value).decode("latin-1")
    return str(carrier.get("HTTP_" + name.upper().replace("-", "_"), ""))


def _is_impersonated(carrier: Any) -> bool:
    if isinstance(carrier, Mapping):
        session, user = carrier.get("session") or {}, carrier.get("user")
    else:
        loaded = vars(carrier).get("session")
        session = getattr(loaded, "_session_cache", {})  # Django's, if something in the request has read it
        user = getattr(vars(carrier).get("user"), "_wrapped", vars(carrier).get("user"))
    marks = vars(user) if hasattr(user, "__dict__") else {}
    return any(session.get(name) for name in _IMPERSONATION) or any(
        marks.get(name) for name in (*_IMPERSONATED, *_IMPERSONATION)
    )
