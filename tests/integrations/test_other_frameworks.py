"""The plain ASGI middleware around Quart, which is named by its routes, and around frameworks that it knows nothing of:
they count by path, as `features` says."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs, no-warn-return-any

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import httpx
import pytest
from starlette.testclient import TestClient

import usage_instrument as usage
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.capture.registry import Catalog
from usage_instrument.testing import capture_usage
from usage_instrument.web.route_coverage import route_coverage

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


def check(app, *more):
    with capture_usage(user_id_type="string") as captured:
        statuses, body = asyncio.run(living(app))
    assert statuses == [200, 200, 405, 404, 200, 200]
    assert body == b"ab"
    assert sorted((use.feature, use.user) for use in captured.uses) == sorted([*EXPECTED, *more])


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
    check(app, ("of_decorator", "bob"))


@pytest.mark.parametrize("place", ["within", "around", "mounted"])
def test_quart_is_named_by_its_routes(place):
    quart = pytest.importorskip("quart")
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app, admin = quart.Quart(__name__, static_folder=None), quart.Blueprint("admin", __name__)

    @app.get("/items/<int:number>")
    async def item(number):
        return "ok"

    @app.route("/form", methods=["GET", "POST"])
    async def form():
        return "ok"

    @app.get("/healthz")
    async def healthz():
        return "ok"

    @app.get("/told")
    @usage.tracks("quart_told")
    async def told():
        return "ok"

    @admin.get("/users")
    async def users():
        return "ok"

    @app.websocket("/live")
    async def live():
        await quart.websocket.accept()
        await quart.websocket.send("ok")

    app.register_blueprint(admin, url_prefix="/admin")
    if place == "within":
        app.asgi_app = UsageMiddleware(app.asgi_app)
        served = app
    else:
        served = UsageMiddleware(app if place == "around" else Starlette(routes=[Mount("/q", app)]))
    below = "/q" if place == "mounted" else ""
    requests = [("GET", "/items/7"), ("GET", "/form"), ("POST", "/form"), ("GET", "/healthz"), ("GET", "/told")]
    client = TestClient(served)
    with capture_usage(user_id_type="string") as captured:
        for method, path in [*requests, ("GET", "/admin/users")]:
            assert client.request(method, below + path).status_code == 200
        with client.websocket_connect(f"{below}/live") as socket:
            assert socket.receive_text() == "ok"
    catalog = Catalog(captured)
    with capture_usage(user_id_type="string", catalog=catalog):
        tracker = Mock(catalog=catalog)
        TestClient(UsageMiddleware(served, tracker=tracker)).get(f"{below}/items/7")
    catalog.declare_pending()
    names = ["item", "form GET", "form POST", "quart_told", "admin.users", "live"]
    assert captured.names == names
    assert {feature.name for feature in catalog} == {*names, "told"} - {"quart_told"}  # which is in another catalogue
    planned = {row.feature for row in route_coverage(served) if row.route and row.feature}
    assert planned == set(names)


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
