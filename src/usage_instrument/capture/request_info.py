"""What a request carries: read out of an ASGI scope, a WSGI environ or a framework's own request, if it is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from usage_instrument.errors import UserIdError
from usage_instrument.typing import UserId

from .loaded_attributes import attributes_of
from .user_ids import unwrapped, user_id_of

_IMPERSONATION = ("impersonator", "impersonator_id", "_impersonate", "hijack_history")
"""In a session, and on a user: what the usual libraries leave there, and what an app of its own may."""
_IMPERSONATED = ("is_impersonate", "is_hijacked")
_REQUEST_ID = 100
"""Characters of a request's id that are kept."""


def header(carrier: Any, name: str) -> str:
    """A header; empty where there is none."""
    if not isinstance(carrier, Mapping):
        return str((getattr(carrier, "headers", None) or {}).get(name, ""))
    for key, value in carrier.get("headers", ()):
        if key == name.encode():
            return bytes(value).decode("latin-1")
    return str(carrier.get("HTTP_" + name.upper().replace("-", "_"), ""))


def request_id(carrier: Any) -> str | None:
    """The request's own id: its `X-Request-ID`, else `X-Correlation-ID`, else the trace's of `traceparent`."""
    for name in ("x-request-id", "x-correlation-id"):
        said = header(carrier, name).strip()
        if said:
            return "".join(character for character in said if character.isprintable())[:_REQUEST_ID]
    parts = header(carrier, "traceparent").split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 and parts[1].isalnum() else None


def path_of(carrier: Any) -> str:
    """The path that was asked for."""
    if not isinstance(carrier, Mapping):
        return str(getattr(carrier, "path", ""))
    if "path" in carrier:
        return str(carrier["path"])
    return f"{carrier.get('SCRIPT_NAME', '')}{carrier.get('PATH_INFO', '')}".encode("latin-1").decode(
        "utf-8", "replace"
    )


def is_login_redirect(location: str, path: str) -> bool:
    """Whether a redirect leads to a login page that is to send the user back: to `next`, which is where they are.

    So do Flask-Login, Starlette's `requires` and Django's `login_required`.
    """
    query = urlsplit(location).query
    if "next=" not in query:
        return False
    return any(unquote(urlsplit(url).path) == path for url in parse_qs(query).get("next", ()))


def is_impersonated(carrier: Any) -> bool:
    """Whether the session, or the user that the framework has loaded, says that somebody else acts."""
    session, marks = _marks(carrier)
    return any(session.get(name) for name in _IMPERSONATION) or any(
        marks.get(name) for name in (*_IMPERSONATED, *_IMPERSONATION)
    )


def impersonator(carrier: Any) -> UserId:
    """Who acts as the user, as far as that can be told; None where nobody does."""
    for value in _impersonators(*_marks(carrier)):
        with contextlib.suppress(UserIdError):  # what an app keeps there need not be an id
            return user_id_of(value)
    return None


def _impersonators(session: Mapping[str, Any], marks: Mapping[str, Any]) -> Iterator[Any]:
    for place in (session, marks):
        for name in ("impersonator_id", "impersonator"):
            if place.get(name):
                yield place[name]
        history = place.get("hijack_history")
        if isinstance(history, list | tuple) and history:
            yield history[0]


def _marks(carrier: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The session, and the attributes of the loaded user."""
    if isinstance(carrier, Mapping):
        session, user = carrier.get("session") or {}, carrier.get("user")
    else:
        loaded = attributes_of(carrier)
        # Django's, if something in the request has read it.
        session, user = attributes_of(loaded.get("session")).get("_session_cache", {}), loaded.get("user")
    return session, attributes_of(unwrapped(user))
