"""Rules for `before_track`: leave out bots, and staff who act as another user."""

from __future__ import annotations

import re

from .capture.context import current_request
from .capture.request_info import header, is_impersonated
from .events import Use

__all__ = ["people_only", "without_bots", "without_impersonation"]

_BOT = re.compile(
    r"bot\b|bot[/_-]|crawl|spider|slurp|scrap|headless|lighthouse|monitor|pingdom|uptime|statuscake|preview|"
    r"facebookexternalhit|whatsapp|^(?:curl|wget|python|go-http-client|java|okhttp|libwww|axios|node|kube-probe)\b",
    re.IGNORECASE,
)
"""Matches the User-Agent of crawlers, previews and monitors, and of programs, which begins with a library's name."""


def without_bots(use: Use) -> Use | None:
    """The use, unless the `User-Agent` of the request is that of a bot, a monitor or a program."""
    request = current_request()
    agent = "" if request is None else header(request.info, "user-agent")
    return None if _BOT.search(agent) else use


def without_impersonation(use: Use) -> Use | None:
    """The use, unless the session or the loaded user says that somebody acts as the user.

    Recognises Django-hijack, django-impersonate and an `impersonator` in the session. Other apps call
    `usage.discard()`.
    """
    request = current_request()
    return None if request is not None and is_impersonated(request.info) else use


def people_only(use: Use) -> Use | None:
    """The use, unless a bot made it, or somebody who acts as another user."""
    return None if without_bots(use) is None else without_impersonation(use)
