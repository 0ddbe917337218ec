"""The plain ASGI middleware around frameworks that it knows nothing of: they count by path, as `features` says."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs, no-warn-return-any

from __future__ import annotations

import asyncio

import httpx
import pytest

import usage_instrument as usage
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.testing import capture_usage

FEATURES = {"POST /events/{id}/follow": "event_followed", "GET /events": "events_listed", "/live": "live_watched"}
EXPECTED = [
    ("event_followed", "ada"),
    ("events_listed", None),
    ("inner", "bob"),
    ("live_watched", None),
    ("piece", None),
]


async def ask(app):
    """Every kind of request; the bodies that came back."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answers = [
            await client.request(method, path, headers=headers)
            for method, path, headers in (
                ("POST", "/events/7/follow", {"X-User": "ada"}),
                ("GET", "/events", {}),
                ("GET", "/events/8/follow", {}),
                ("GET", "/nothing", {}),
                ("GET", "/tracked", {"X-User": "bob"}),
                ("GET", "/live", {}),
            )
        ]
    return [answer.status_code for answer in answers], answers[-1].content


@usage.tracks("inner")
async def tracked():
    return "ok"


async def pieces():
    usage.track("piece")
    for piece in (b"a", b"b"):
        yield piece


async def living(app):
    """An ASGI lifespan around the requests."""
    heard, said = asyncio.Queue(), asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}}, heard.get, said.put))
    await heard.put({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    found = await ask(app)
    await heard.put({"type": "lifespan.shutdown"})
    assert (await said.get())["type"] == "lifespan.shutdown.complete"
    await task
    return found


def check(app):
    with capture_usage(user_id_type="string") as captured:
        statuses, body = asyncio.run(living(app))
    assert statuses == [200, 200, 405, 404, 200, 200]
    assert body == b"ab"
    assert [(use.feature, use.user) for use in captured.uses] == EXPECTED


def test_quart():
    quart = pytest.importorskip("quart")
    app = quart.Quart(__name__)

    @app.post("/events/<int:number>/follow")
    async def follow(number):
        usage.identify(quart.request.headers["X-User"])
        return "ok"

    @app.get("/events")
    async def events():
        return "ok"

    @app.get("/tracked")
    async def of_decorator():
        usage.identify(quart.request.headers["X-User"])
        return await tracked()

    @app.get("/live")
    async def live():
        return pieces()

    app.asgi_app = UsageMiddleware(app.asgi_app, features=FEATURES)
    check(app)


def test_litestar():
    litestar = pytest.importorskip("litestar")
    from litestar.connection import Request
    from litestar.response import Stream

    @litestar.post("/events/{number:int}/follow", status_code=200)
    async def follow(request: Request) -> str:
        usage.identify(request.headers["X-User"])
        return "ok"

    @litestar.get("/events")
    async def events() -> str:
        return "ok"

    @litestar.get("/tracked")
    async def of_decorator(request: Request) -> str:
        usage.identify(request.headers["X-User"])
        return await tracked()

    @litestar.get("/live")
    async def live() -> Stream:
        return Stream(pieces())

    app = litestar.Litestar(
        [follow, events, of_decorator, live],
        openapi_config=None,
        logging_config=None,  # the default one sets the level of every logger here
        signature_namespace={"Request": Request, "Stream": Stream},
    )
    check(UsageMiddleware(app, features=FEATURES))
