"""What a client writes into an address must not become a header, and must not fail on its way into one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conftest import Database
from reading import made
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.dashboard.http import HTTPRequest, into
from usage_instrument.dashboard.token_auth import TokenAuth

SECRET = "correct horse battery"


def raw(app: Any, path: str, query: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a response to an address that no client library would send."""
    sent: list[Any] = []

    async def ask() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "query_string": query, "headers": []}
        await app(scope, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] in (303, 401)
    headers: list[tuple[bytes, bytes]] = sent[0]["headers"]
    return headers


@pytest.mark.parametrize("path", ["/a\r\nX-Evil: 1", "/größe", "/\u202e🎉", "/\udcff", "/\0"])
def test_the_redirect_of_a_token_is_one_line_of_ascii(sqlite: Database, path: str) -> None:
    made(sqlite.engine())
    auth = TokenAuth(SECRET)
    app = auth.protect(Dashboard(sqlite.url, authorize=auth.authorize))
    for place in (path, f"/{auth.prefix}{path}"):
        query = b"token=correct+horse+battery&feature=%0d%0aX-Evil:1&q=%ff%f0%9f"
        location = dict(raw(app, place, query))[b"location"]
        assert location.isascii()
        assert not {b"\r", b"\n", b"\0"} & {bytes([byte]) for byte in location}


@pytest.mark.parametrize("query", ["a=1\r\nX-Evil: 1", "a=\xff", "a=\u20ac", "period=7d&feature=a%20b+c"])
def test_the_redirect_to_the_mount_is_one_line_of_ascii(query: str) -> None:
    location = into(HTTPRequest("GET", "/admin/our usage", "", query))
    assert location.isascii()
    assert location.isprintable()
    if query.isprintable() and query.isascii():
        assert location == f"./our%20usage/?{query}"
