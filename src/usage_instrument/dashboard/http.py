"""Requests and responses as values that know no server, and the style sheet."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl, quote

MAX_QUERY = 2_000
"""Characters of a query string. The longest valid one holds a percent-encoded feature name of 100 characters."""
MAX_PARAMETERS = 20

HTML = "text/html; charset=utf-8"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("X-Robots-Tag", "noindex"),
)


@dataclass(frozen=True)
class HTTPRequest:
    """What a visitor asks for."""

    method: str
    mount: str
    """The path of the mounted dashboard, without a slash at its end."""
    path: str
    """The path below the mount: empty, or with a slash in front."""
    query: str
    fetch_site: str = ""
    """The header `Sec-Fetch-Site`: which kind of page asks. Empty for a program or an old browser."""
    fetch_dest: str = ""
    """The header `Sec-Fetch-Dest`: what the browser makes of the response."""

    @property
    def is_foreign(self) -> bool:
        """Whether a page of another site, or of another port of this host, asks; or a page embeds the response."""
        return self.fetch_site not in ("", "same-origin", "none") or self.fetch_dest not in ("", "document", "empty")

    def parameters(self, lists: Container[str] = ()) -> dict[str, str] | None:
        """The query's parameters, the last of each name; None for more than any link of ours has.

        Those in `lists` are all of that name, with commas in between: a form has several fields for a list.
        """
        if len(self.query) > MAX_QUERY:
            return None
        try:
            given = parse_qsl(self.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError:
            return None
        found: dict[str, str] = {}
        for name, value in given:
            known = found.get(name) if name in lists else None
            found[name] = ",".join(filter(None, (known, value)))
        return found


@dataclass(frozen=True)
class Response:
    """The answer to a visitor."""

    status: int
    body: bytes
    content_type: str = HTML
    extra: tuple[tuple[str, str], ...] = ()
    cache: str = "no-store"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """All headers: every response carries those that keep it safe."""
        return [
            ("Content-Type", self.content_type),
            ("Content-Length", str(len(self.body))),
            ("Cache-Control", self.cache),
            *_HEADERS,
            *self.extra,
        ]

    @property
    def status_line(self) -> str:
        """The status for WSGI: `404 Not Found`."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"


def page(text: str, status: int = 200, *extra: tuple[str, str]) -> Response:
    """An HTML page."""
    return Response(status, text.encode("utf-8", "replace"), extra=extra)


def redirect(location: str, *extra: tuple[str, str]) -> Response:
    """A redirect to a GET of another address."""
    return Response(303, b"", "text/plain; charset=utf-8", (("Location", location), *extra))


def into(request: HTTPRequest) -> str:
    """The address with a slash at its end, from which the relative links of all pages start."""
    last = quote(request.mount.rpartition("/")[2])
    # Percent-encoded: a header takes neither line ends nor other characters than those of Latin-1.
    query = quote(request.query, safe="!$%&'()*+,-./:;=?@_~", encoding="latin-1", errors="replace")
    return f"./{last}/" + (f"?{query}" if query else "")


_STYLES = (Path(__file__).parent / "static" / "usage.css").read_bytes()
STYLESHEET = f"usage-{hashlib.sha256(_STYLES).hexdigest()[:12]}.css"
"""The name of the style sheet. It names the content, so that browsers may keep it for good."""
_STYLESHEET_RESPONSE = Response(200, _STYLES, "text/css; charset=utf-8", cache="public, max-age=31536000, immutable")


def asset(path: str) -> Response | None:
    """The style sheet, if that is its path. It contains no data, so that anybody may have it."""
    return _STYLESHEET_RESPONSE if path == f"/{STYLESHEET}" else None
