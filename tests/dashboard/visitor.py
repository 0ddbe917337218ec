"""Somebody who looks: raw requests to the two shells, and what came back."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode
from wsgiref.validate import validator

Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def page(self) -> Page:
        page = Page()
        page.feed(self.text)
        page.close()
        assert page.open == [], f"not closed: {page.open}"
        return page


class Page(HTMLParser):
    """What a page says, and the elements it is made of."""

    _VOID = frozenset({"meta", "link", "input", "br", "rect", "line", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> ends nothing"
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("title", "desc", "style", "script"):
            self.words += data if self.tags[-1][0] == "wbr" else f" {data}"  # within a word

    @property
    def said(self) -> str:
        """The words, with single spaces."""
        return " ".join(self.words.split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every such element."""
        return [attributes for name, attributes in self.tags if name == tag]


def asgi(
    app: Any, path: str = "/", *, mount: str = "", method: str = "GET", headers: Headers = (), **parameters: str
) -> Answer:
    """Ask an ASGI app."""

    async def ask() -> Answer:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": method,
            "path": mount + path,
            "root_path": mount,
            "query_string": urlencode(parameters).encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        start, *bodies = sent
        return Answer(
            start["status"],
            {name.decode().title(): value.decode() for name, value in start["headers"]},
            b"".join(body["body"] for body in bodies),
        )

    return asyncio.run(ask())


def wsgi(
    app: Any, path: str = "/", *, mount: str = "", method: str = "GET", headers: Headers = (), **parameters: str
) -> Answer:
    """Ask a WSGI app, with the standard library's validator in between."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": mount,
        "PATH_INFO": path.encode().decode("latin-1"),
        "QUERY_STRING": urlencode(parameters),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers},
    }
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> Any:
        started.append((status, headers))
        return lambda data: None

    chunks: Any = validator(app)(environ, start_response)
    try:
        body = b"".join(chunks)
    finally:
        chunks.close()
    ((status, found),) = started
    return Answer(int(status.split()[0]), {name.title(): value for name, value in found}, body)
