"""A middleware that is put up wrongly says so once: around the wrong app, twice, for routes that are not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi import APIRouter, FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client
from werkzeug.wrappers import Response as WSGIResponse

import usage_instrument as usage
from usage_instrument import asgi, wsgi
from usage_instrument.capture.registry import Catalog
from usage_instrument.errors import ConfigurationError
from usage_instrument.testing import CapturedUsage, capture_usage
from usage_instrument.typing import Receive, Scope, Send


@pytest.fixture(autouse=True)
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


async def plain_asgi(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


def flask_app(name: str = "app") -> Flask:
    app = Flask(name)
    app.add_url_rule("/", "home", lambda: "home")
    app.add_url_rule("/events/<int:id>", "event", lambda **arguments: "event", methods=["POST"])
    return app


# ---- the wrong app


@pytest.mark.parametrize("app", [Starlette(), FastAPI(), plain_asgi, asgi.UsageMiddleware(plain_asgi)])
def test_the_wsgi_middleware_refuses_an_asgi_app(app: Any) -> None:
    said = r"is an ASGI app: wrap it in usage_instrument\.asgi\.UsageMiddleware, not usage_instrument\.wsgi's"
    with pytest.raises(ConfigurationError, match=said):
        wsgi.UsageMiddleware(app)


@pytest.mark.parametrize("app", [Flask("app"), Flask("app").wsgi_app, wsgi.UsageMiddleware(Flask("app"))])
def test_the_asgi_middleware_refuses_a_wsgi_app(app: Any) -> None:
    said = r"is a WSGI app: wrap it in usage_instrument\.wsgi\.UsageMiddleware, not usage_instrument\.asgi's"
    with pytest.raises(ConfigurationError, match=said):
        asgi.UsageMiddleware(app)


def test_what_is_no_app_is_refused() -> None:
    for middleware in (asgi.UsageMiddleware, wsgi.UsageMiddleware):
        with pytest.raises(ConfigurationError, match="wraps an app, and this is str"):
            middleware("module:app")  # type: ignore[arg-type]


@pytest.mark.parametrize("app", [Mock(), lambda *args: None, dict, Mock(spec=["__call__"])])
def test_what_cannot_be_told_apart_is_taken(app: Any) -> None:
    for middleware in (asgi.UsageMiddleware(app), wsgi.UsageMiddleware(app)):
        assert middleware.app is app


# ---- twice


TWICE = "UsageMiddleware stands twice around one app: take one of the two away"


async def pass_on(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    return response


def starlette(*middleware: Middleware, **options: Any) -> Starlette:
    routes = [Route("/", ok, name="home"), Route("/events/{id:int}", ok, name="event", methods=["POST"])]
    return Starlette(routes=[*routes, *options.pop("routes", [])], middleware=middleware, **options)


@pytest.mark.parametrize(
    "app",
    [
        lambda: starlette(Middleware(asgi.UsageMiddleware), Middleware(asgi.UsageMiddleware)),
        lambda: starlette(
            Middleware(asgi.UsageMiddleware),
            Middleware(BaseHTTPMiddleware, dispatch=pass_on),
            Middleware(asgi.UsageMiddleware),
        ),
        lambda: asgi.UsageMiddleware(starlette(Middleware(asgi.UsageMiddleware))),
        lambda: asgi.UsageMiddleware(asgi.UsageMiddleware(starlette())),
    ],
)
def test_twice_around_one_asgi_app_is_said_once(
    app: Any, captured: CapturedUsage, caplog: pytest.LogCaptureFixture
) -> None:
    client = TestClient(app())
    client.get("/")
    client.get("/")
    assert [record.getMessage() for record in caplog.records] == [TWICE]
    assert captured.count("home") == 2


def twice_inside() -> Any:
    app = flask_app()
    app.wsgi_app = wsgi.UsageMiddleware(ProxyFix(wsgi.UsageMiddleware(app.wsgi_app)))  # type: ignore[method-assign]
    return app


def inside_and_around() -> Any:
    app = flask_app()
    app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return wsgi.UsageMiddleware(app)


@pytest.mark.parametrize("app", [twice_inside, inside_and_around])
def test_twice_around_one_wsgi_app_is_said_once(
    app: Any, captured: CapturedUsage, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(app())
    client.get("/")
    client.get("/")
    assert [record.getMessage() for record in caplog.records] == [TWICE]
    assert captured.count("home") == 2


def test_an_app_in_an_app_is_no_misuse(caplog: pytest.LogCaptureFixture) -> None:
    inner = starlette(Middleware(asgi.UsageMiddleware))
    outer = starlette(Middleware(asgi.UsageMiddleware), routes=[Mount("/inner", inner)])
    client = TestClient(outer)
    client.get("/inner/")
    client.get("/")
    front, back = flask_app("front"), flask_app("back")
    for app in (front, back):
        app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    dispatched = Client(wsgi.UsageMiddleware(DispatcherMiddleware(front, {"/back": back})))
    dispatched.get("/")
    dispatched.get("/back/")
    assert caplog.records == []


def test_two_trackers_around_one_app_are_no_misuse(caplog: pytest.LogCaptureFixture) -> None:
    with capture_usage(catalog=Catalog()) as own:
        client = TestClient(asgi.UsageMiddleware(starlette(Middleware(asgi.UsageMiddleware)), tracker=own))
        client.get("/")
    assert own.names == ["home"]
    assert caplog.records == []


# ---- keys that are no routes


FEATURES = {
    "GET /": "home_seen",
    "POST /events/{id}": "event_made",
    "event": "event_made",
    "GET /events/{id}": "event_seen",  # there is POST only
    "/event/{id}": None,
    "hom": "home_seen",
}
UNKNOWN = [
    "features= names 'GET /events/{id}', which is no route of this app; did you mean '/events/{id}'?",
    "features= names '/event/{id}', which is no route of this app; did you mean '/events/{id}'?",
    "features= names 'hom', which is no route of this app; did you mean 'home'?",
]


@pytest.mark.parametrize("place", ["around", "inside"])
def test_keys_that_are_no_routes_are_said_once(place: str, caplog: pytest.LogCaptureFixture) -> None:
    app: Any = starlette() if place == "around" else starlette(Middleware(asgi.UsageMiddleware, features=FEATURES))
    http = TestClient(asgi.UsageMiddleware(app, features=FEATURES) if place == "around" else app)
    flask = flask_app()
    if place == "inside":
        flask.wsgi_app = wsgi.UsageMiddleware(flask.wsgi_app, features=FEATURES)  # type: ignore[method-assign]
    wsgi_http = Client(wsgi.UsageMiddleware(flask, features=FEATURES) if place == "around" else flask)
    for client in (http, wsgi_http):
        caplog.clear()
        for _ in range(2):
            client.get("/")
            client.post("/events/7")
        assert [record.getMessage() for record in caplog.records] == UNKNOWN


def test_keys_of_what_is_mounted_and_included_are_known(caplog: pytest.LogCaptureFixture) -> None:
    async def chat(websocket: Any) -> None: ...

    router, app = APIRouter(prefix="/items"), FastAPI()
    router.add_api_route("/{id}", ok, name="show")
    app.include_router(router, prefix="/v1")
    app.mount("/sub", starlette(), name="sub")
    app.add_api_websocket_route("/live", chat)
    app.routes.append(WebSocketRoute("/chat", chat))
    keys = ["GET /v1/items/{id}", "show", "sub:home", "POST /sub/events/{id}", "WEBSOCKET /live", "/chat", "/sub"]
    client = TestClient(asgi.UsageMiddleware(app, features=dict.fromkeys(keys, "x") | {"/items/{id}": "y"}))
    client.get("/sub/")
    (record,) = caplog.records
    assert record.getMessage().startswith("features= names '/items/{id}'")


def test_what_lies_in_an_opaque_mount_cannot_be_known(caplog: pytest.LogCaptureFixture) -> None:
    app = starlette(routes=[Mount("/old", plain_asgi, name="old")])
    keys = ["/old/anything", "somewhere", "/olden"]
    TestClient(asgi.UsageMiddleware(app, features=dict.fromkeys(keys, "x") | {"/new": "y"})).get("/")
    assert [record.getMessage()[:22] for record in caplog.records] == ["features= names '/new'"]


def test_other_apps_behind_a_dispatcher_are_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    app = DispatcherMiddleware(flask_app("front"), {"/back": flask_app("back")})
    client = Client(wsgi.UsageMiddleware(app, features={"/back/": "back_home", "/never": "never"}))
    client.get("/")
    client.get("/back/")
    assert caplog.records == []


def test_a_mounted_app_may_name_itself_from_the_outside(
    captured: CapturedUsage, caplog: pytest.LogCaptureFixture
) -> None:
    inner = starlette(Middleware(asgi.UsageMiddleware, features={"POST /in/events/{id}": "made"}))
    TestClient(starlette(routes=[Mount("/in", inner)])).post("/in/events/7")
    assert captured.names == ["made"]
    assert caplog.records == []


def test_an_app_that_cannot_be_looked_at_is_served(captured: CapturedUsage, caplog: pytest.LogCaptureFixture) -> None:
    class Shy(Starlette):
        @property
        def routes(self) -> Any:
            raise LookupError

    app = Shy()
    app.add_route("/", ok, name="home")
    assert TestClient(asgi.UsageMiddleware(app, features={"nothing": "x"})).get("/").text == "ok"
    assert captured.names == ["home"]


# ---- nothing to name


def plain_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"ok"]


class Plain:
    """An app whose routes nobody sees."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await plain_asgi(scope, receive, send)


ASGI_APPS = pytest.mark.parametrize(
    "make", [Plain, lambda: Starlette(routes=[Mount("/orders", Plain())])], ids=["alone", "mounted"]
)


@ASGI_APPS
def test_successes_without_any_name_are_reported_once_with_the_line_that_helps(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = TestClient(asgi.UsageMiddleware(make()))
    for count in (0, 0, 1, 1, 1):
        assert client.get("/orders/77").status_code == 200
        assert len(caplog.messages) == count
    assert "UsageMiddleware(app, features={'GET /orders/{id}': 'my_feature'})" in caplog.text
    caplog.clear()
    client = TestClient(asgi.UsageMiddleware(make(), features={"/orders/{id}/pay": "paid"}))
    assert {client.get("/orders/77").status_code for _ in range(5)} == {200}
    assert caplog.messages == []


def test_an_app_that_counts_by_itself_needs_no_name(caplog: pytest.LogCaptureFixture, captured: CapturedUsage) -> None:
    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        usage.track("done")
        await plain_asgi(scope, receive, send)

    client = TestClient(asgi.UsageMiddleware(counting))
    assert {client.get("/orders").status_code for _ in range(5)} == {200}
    assert (captured.count("done"), caplog.messages) == (5, [])


def test_successes_without_any_name_under_wsgi(caplog: pytest.LogCaptureFixture, captured: CapturedUsage) -> None:
    client = Client(wsgi.UsageMiddleware(plain_wsgi))
    for _ in range(5):
        client.post("/orders/77")
    assert len(caplog.messages) == 1
    assert "features={'POST /orders/{id}': 'my_feature'}" in caplog.text
    client = Client(wsgi.UsageMiddleware(plain_wsgi, features={"/orders/*": "orders"}))
    client.get("/orders/77")
    assert captured.names == ["orders"]


# ---- the catalogue


def test_all_features_of_an_app_are_in_the_catalogue_after_its_first_request(captured: CapturedUsage) -> None:
    app = flask_app()
    app.add_url_rule("/form", "form", lambda: "form", methods=["GET", "POST"])
    app.add_url_rule("/healthz", "healthz", lambda: "ok")
    catalog = Catalog(captured)
    tracker = Mock(catalog=catalog)
    client = Client(wsgi.UsageMiddleware(app, tracker=tracker, features={"event": "event_made"}))
    assert client.get("/").status_code == 200
    assert sorted(feature.name for feature in catalog) == ["event_made", "home"]
    catalog.declare_pending()  # as the writer does
    assert sorted(feature.name for feature in catalog) == ["event_made", "form GET", "form POST", "home"]
    catalog = Catalog(captured)
    back, front = flask_app("back"), flask_app("front")
    app_of_apps = wsgi.UsageMiddleware(DispatcherMiddleware(front, {"/back": back}), tracker=Mock(catalog=catalog))
    assert Client(app_of_apps).get("/").status_code == 200
    catalog.declare_pending()
    names = ["event /back/events/{id}", "event /events/{id}", "home /", "home /back/"]
    assert sorted(feature.name for feature in catalog) == names


# ---- frameworks that are not there


@pytest.mark.parametrize("name", ["flask", "flask_login"])
def test_a_framework_that_cannot_be_imported_stops_no_request(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert TestClient(asgi.UsageMiddleware(Starlette(routes=[Route("/", ok)]))).get("/").text == "ok"
    assert Client(wsgi.UsageMiddleware(WSGIResponse("ok"))).get("/").text == "ok"
