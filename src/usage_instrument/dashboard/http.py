"""What comes in and what goes out, as values that know no server."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl, quote

MAX_QUERY = 2_000
"""Characters of a query string; the longest honest one holds a feature name of 100 characters, percent-encoded."""
MAX_PARAMETERS = 20

HTML = "text/html; charset=utf-8"
NOTHING_ELSE = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = (
    ("Content-Security-Policy", NOTHING_ELSE),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("X-Robots-Tag", "noindex"),
)


@dataclass(frozen=True)
class Request:
    """What a visitor asks for."""

    method: str
    mount: str
    """The path that the dashboard is mounted at, without a slash at its end."""
    path: str
    """The path below that: empty, or with a slash in front."""
    query: str

    def parameters(self) -> dict[str, str] | None:
        """The query's parameters, the last of each name; None when there is more of them than any link has."""
        if len(self.query) > MAX_QUERY:
            return None
        try:
            return dict(parse_qsl(self.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS))
        except ValueError:
            return None


@dataclass(frozen=True)
class Response:
    """What they get."""

    status: int
    body: bytes
    content_type: str = HTML
    extra: tuple[tuple[str, str], ...] = ()
    cache: str = "no-store"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """All headers: no answer goes without those that keep it safe."""
        return [
            ("Content-Type", self.content_type),
            ("Content-Length", str(len(self.body))),
            ("Cache-Control", self.cache),
            *_HEADERS,
            *self.extra,
        ]

    @property
    def status_line(self) -> str:
        """As WSGI wants it: `404 Not Found`."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"


def page(text: str, status: int = 200, *extra: tuple[str, str]) -> Response:
    """An HTML page."""
    return Response(status, text.encode("utf-8", "replace"), extra=extra)


def redirect(location: str, *extra: tuple[str, str]) -> Response:
    """Look there instead, with a GET."""
    return Response(303, b"", "text/plain; charset=utf-8", (("Location", location), *extra))


def into(request: Request) -> str:
    """From the bare path that the dashboard is mounted at to the one that its relative links start from."""
    last = quote(request.mount.rpartition("/")[2])
    return f"./{last}/" + (f"?{request.query}" if request.query else "")
