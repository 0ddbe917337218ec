"""Reads headers, path, request id and impersonation from an ASGI scope, a WSGI environ or a framework's request."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from usage_instrument.errors import UserIdError
from usage_instrument.typing import UserId

from .loaded_attributes import attributes_of
from .user_ids import unwrapped, user_id_of

_IMPERSONATION = ("impersonator", "impersonator_id", "_impersonate", "hijack_history")
"""Keys of a session and attributes of a user, as the usual libraries and apps set them."""
_IMPERSONATED = ("is_impersonate", "is_hijacked")
_REQUEST_ID = 100
"""The longest request id, in characters; the rest is cut off."""


def header(info: Any, name: str) -> str:
    """The value of a header; empty if there is none."""
    if not isinstance(info, Mapping):
        return str((getattr(info, "headers", None) or {}).get(name, ""))
    if "headers" in info:
        return header_of(info["headers"], name)
    return str(info.get("HTTP_" + name.upper().replace("-", "_"), ""))


def header_of(headers: Iterable[tuple[Any, Any]], name: str) -> str:
    """The first header of a name in lower case, from pairs of text or of bytes; empty if there is none."""
    raw = name.encode()
    for key, value in headers:
        if key.lower() in (name, raw):
            return value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return ""


def request_id(info: Any) -> str | None:
    """The request's own id: its `X-Request-ID`, else `X-Correlation-ID`, else the trace's of `traceparent`."""
    for name in ("x-request-id", "x-correlation-id"):
        value = header(info, name).strip()
        if value:
            return "".join(character for character in value if character.isprintable())[:_REQUEST_ID]
    parts = header(info, "traceparent").split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 and parts[1].isalnum() else None


def flask_session() -> object:
    """The session of the Flask request that runs; None without one.

    Read without the session's own methods and property, which change the Vary header.
    """
    flask: Any = sys.modules.get("flask")
    if flask is None or not flask.has_request_context():
        return None
    context = flask.globals.request_ctx._get_current_object()
    return vars(context).get("_session", vars(context).get("session"))


def path_of(info: Any) -> str:
    """The path of the request."""
    if not isinstance(info, Mapping):
        return str(getattr(info, "path", ""))
    if "path" in info:
        return str(info["path"])
    return f"{info.get('SCRIPT_NAME', '')}{info.get('PATH_INFO', '')}".encode("latin-1").decode("utf-8", "replace")


def query_of(info: Any) -> str:
    """The query of the request, as the client wrote it."""
    if not isinstance(info, Mapping):
        info = getattr(info, "META", None) or {}
    query = info.get("query_string", info.get("QUERY_STRING", ""))
    return query.decode("latin-1") if isinstance(query, bytes) else str(query)


def method_overrides(info: Any) -> set[str]:
    """The methods that a header or the query of the request names, for frameworks that serve another one than sent."""
    names = {header(info, name) for name in ("x-http-method-override", "x-http-method", "x-method-override")}
    query = query_of(info)
    names |= set(parse_qs(query).get("_method", ())) if "_method" in query else set()
    return {name.strip().upper() for name in names if name}


_SPECULATIVE = {b"sec-purpose": b"pre", b"purpose": b"pre", b"x-purpose": b"pre", b"x-moz": b"prefetch"}
"""The headers of a request that no user has made yet, and how their values begin: prefetch, prerender, preview."""
_PROBES = (b"kube-probe/", b"GoogleHC/", b"ELB-HealthChecker/")
"""How the user agents of load balancers and orchestrators begin."""
_AUTOMATIC = frozenset({b"user-agent", *_SPECULATIVE})
"""The headers that need a look."""
_ENVIRON_SPECULATIVE = {
    "HTTP_" + name.decode().upper().replace("-", "_"): start.decode() for name, start in _SPECULATIVE.items()
}
_ENVIRON_NAMES = frozenset(_ENVIRON_SPECULATIVE)
_ENVIRON_PROBES = tuple(start.decode() for start in _PROBES)


def is_automatic(info: Mapping[str, Any]) -> bool:
    """Whether a scope or environ is of a speculative request, or of a load balancer's probe."""
    headers = info.get("headers")
    if headers is None:
        agent: str = info.get("HTTP_USER_AGENT", "")
        if agent and agent.startswith(_ENVIRON_PROBES):
            return True
        return not info.keys().isdisjoint(_ENVIRON_NAMES) and any(
            str(info.get(name, "")).strip().lower().startswith(start) for name, start in _ENVIRON_SPECULATIVE.items()
        )
    for name, value in headers:
        if name in _AUTOMATIC and (
            value.startswith(_PROBES) if name == b"user-agent" else value.strip().lower().startswith(_SPECULATIVE[name])
        ):
            return True
    return False


def path_in(location: str) -> str:
    """The path of a URL; empty if it cannot be parsed."""
    try:
        return unquote(urlsplit(location).path)
    except ValueError:
        return ""


def is_login_redirect(location: str, info: Any) -> bool:
    """Whether a redirect seems to lead to a login page: its `next` is the present path, and the client wrote no such
    parameter.

    Flask-Login, Starlette's `requires` and Django's `login_required` redirect so.
    """
    if "next=" not in location or "next" in unquote(unquote(query_of(info))):
        return False
    try:
        targets = parse_qs(urlsplit(location).query).get("next", ())
    except ValueError:
        return False
    return any(path_in(url) == path_of(info) for url in targets)


def names_path_of(location: str, info: Any) -> bool:
    """Whether a parameter of a location, of any name, is the path of the request."""
    path = path_of(info)
    return any(path_in(value) == path for value in values_in(location))


def values_in(location: str) -> list[str]:
    """The values of the parameters of a URL; none if it cannot be parsed."""
    try:
        return [value for values in parse_qs(urlsplit(location).query).values() for value in values]
    except ValueError:
        return []


def is_impersonated(info: Any) -> bool:
    """Whether the session or the loaded user says that somebody else acts as the user."""
    session, marks = _marks(info)
    return any(session.get(name) for name in _IMPERSONATION) or any(
        marks.get(name) for name in (*_IMPERSONATED, *_IMPERSONATION)
    )


def impersonator(info: Any) -> UserId:
    """The id of the user who acts as the current one; None if nobody does."""
    for value in _impersonators(*_marks(info)):
        with contextlib.suppress(UserIdError):  # not every app keeps an id there
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


def _marks(info: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The session, and the attributes of the loaded user."""
    if isinstance(info, Mapping):
        session, user = info.get("session") or {}, info.get("user")
    else:
        loaded = attributes_of(info)
        # Django's, if something in the request has read it.
        session, user = attributes_of(loaded.get("session")).get("_session_cache", {}), loaded.get("user")
    return session, attributes_of(unwrapped(user))
