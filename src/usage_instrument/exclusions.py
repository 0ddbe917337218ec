"""Rules for `before_track` that are ready to use: robots, and staff who look at the app as somebody else."""

from __future__ import annotations

import re

from .capture.context import current_request
from .capture.request_info import header, is_impersonated
from .events import Use

_BOT = re.compile(
    r"bot\b|bot[/_-]|crawl|spider|slurp|scrap|headless|lighthouse|monitor|pingdom|uptime|statuscake|preview|"
    r"facebookexternalhit|whatsapp|^(?:curl|wget|python|go-http-client|java|okhttp|libwww|axios|node|kube-probe)\b",
    re.IGNORECASE,
)
"""In a User-Agent: crawlers, previews and monitors say what they are; programs begin with their library's name."""


def without_bots(use: Use) -> Use | None:
    """The use, unless the request's `User-Agent` is a robot's, a monitor's or a program's."""
    request = current_request()
    agent = "" if request is None else header(request.info, "user-agent")
    return None if _BOT.search(agent) else use


def without_impersonation(use: Use) -> Use | None:
    """The use, unless somebody else acts as the user: so the session says, or the user that the framework has loaded.

    Looks only at what is loaded already. Django-hijack, django-impersonate and any app that keeps `impersonator` in its
    session are understood; others call `usage.discard()`.
    """
    request = current_request()
    return None if request is not None and is_impersonated(request.info) else use


def people_only(use: Use) -> Use | None:
    """The use, unless a robot made it or somebody who acts as another."""
    return None if without_bots(use) is None else without_impersonation(use)
