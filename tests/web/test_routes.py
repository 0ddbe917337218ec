"""Which features an endpoint is tracked for."""

from __future__ import annotations

import functools
from typing import Any
from unittest.mock import MagicMock

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount
from starlette.routing import Route as StarletteRoute
from starlette.testclient import TestClient

import usage_instrument as usage
from usage_instrument import asgi
from usage_instrument.capture.registry import declared
from usage_instrument.testing import capture_usage
from usage_instrument.web.routes import WEBSOCKET, Route, tracked_features
from usage_instrument.web.rules import Rules, is_technical
from usage_instrument.web.starlette_routes import visible_routes


@usage.tracks("function")
def function() -> None: ...


class View:
    @usage.tracks("get")
    def get(self) -> None: ...

    def post(self) -> None: ...

    @usage.tracks("received")
    def on_receive(self) -> None: ...


class Instance:
    @usage.tracks("called")
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("endpoint", "method", "names"),
    [
        (function, "GET", {"function"}),
        (functools.partial(function), "GET", {"function"}),
        (View, "GET", {"get"}),
        (View, "POST", set()),
        (View, WEBSOCKET, {"received"}),
        (Instance(), "GET", {"called"}),
        (None, "GET", set()),
        (MagicMock(), "GET", set()),
    ],
)
def test_what_an_endpoint_is_tracked_for(endpoint: Any, method: str, names: set[str]) -> None:
    assert tracked_features(endpoint, method, declared) == names


@pytest.mark.parametrize("path", ["/docs/{slug}", "/healthcare", "/projects/{id}/docs", "/users/metrics", "/pingpong"])
def test_features_that_only_sound_like_probes_count(path: str) -> None:
    assert not is_technical(path)
    assert Rules(None, None, None).decide(Route("name", (path,), path), "GET").feature == "name"


def test_the_more_exact_entry_wins() -> None:
    rules = Rules({"name": "by name", "/x": "by route", "POST /x": "by method"}, None, None)
    route = Route("name", ("/x",), "/x")
    assert [rules.decide(route, method).feature for method in ("POST", "GET")] == ["by method", "by route"]


def test_names_that_several_endpoints_share_are_qualified() -> None:
    items, orders, app = APIRouter(prefix="/items"), APIRouter(prefix="/orders"), FastAPI(openapi_url=None)

    def named(name: str) -> Any:
        def endpoint() -> None: ...

        endpoint.__name__ = name
        return endpoint

    items.add_api_route("", named("get_all"))
    orders.add_api_route("", named("get_all"))
    orders.add_api_route("/one", named("one"))
    orders.add_api_route("/form", named("form"), methods=["GET"])
    orders.add_api_route("/form", named("form"), methods=["POST"])
    app.include_router(items)
    app.include_router(orders)
    expected = ["get_all /items", "get_all /orders", "one", "form GET /orders/form", "form POST /orders/form"]
    routes = visible_routes(app) or ()
    assert [route.name_for(method) for route in routes for method in route.counted_methods] == expected
    with capture_usage() as captured:
        client = TestClient(asgi.UsageMiddleware(app, exclude=["one"], features={"GET form": "form_seen"}))
        for method, path in (
            ("GET", "/items"),
            ("GET", "/orders"),
            ("GET", "/orders/one"),
            ("GET", "/orders/form"),
            ("POST", "/orders/form"),
        ):
            assert client.request(method, path).status_code == 200
    assert captured.names == ["get_all /items", "get_all /orders", "form_seen", "form POST /orders/form"]


def test_an_app_that_is_mounted_in_itself_is_walked_once() -> None:
    app = Starlette(routes=[StarletteRoute("/", function, name="home")])
    for number in range(12):
        app.mount(f"/{number}", app, name=str(number))
    templates = [route.templates[0] for route in visible_routes(app) or ()]
    assert len(templates) == 13 + 12 * 13, "the app, and the app once in itself"


def test_no_name_depends_on_the_order_of_routes_or_requests() -> None:
    async def ok(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    def routes() -> list[Any]:
        # Each endpoint is one of its own.
        names = [("/a", "same"), ("/b", "same"), ("/c", "other")]
        mounted = [StarletteRoute(path, functools.partial(ok), name=name) for path, name in names]
        return [*mounted, Mount("/in", routes=[StarletteRoute("/a", functools.partial(ok), name="same")])]

    requests = ["/a", "/b", "/c", "/in/a"]
    expected = {"same /a", "same /b", "other", "same /in/a"}
    for step in (1, -1):
        with capture_usage() as captured:
            client = TestClient(asgi.UsageMiddleware(Starlette(routes=routes()[::step])))
            assert {client.get(path).status_code for path in requests[::step]} == {200}
        assert set(captured.names) == expected


def test_equal_routes_of_several_hosts_are_told_apart_by_the_host() -> None:
    async def ok(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    def site() -> Starlette:
        return Starlette(routes=[StarletteRoute("/", functools.partial(ok), name="home")])

    app = Starlette(routes=[Host("a.example", site()), Host("b.example", site())])
    with capture_usage() as captured:
        client = TestClient(asgi.UsageMiddleware(app))
        assert [client.get("/", headers={"host": f"{host}.example"}).status_code for host in "ab"] == [200, 200]
    assert captured.names == ["home a.example/", "home b.example/"]
