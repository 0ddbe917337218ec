"""Which features an endpoint is tracked for."""

from __future__ import annotations

import functools
from typing import Any
from unittest.mock import MagicMock

import pytest
from fastapi import APIRouter, FastAPI
from starlette.testclient import TestClient

import usage_instrument as usage
from usage_instrument import asgi
from usage_instrument.capture.registry import declared
from usage_instrument.testing import capture_usage
from usage_instrument.web.routes import WEBSOCKET, Route, tracked_features, visible_routes
from usage_instrument.web.rules import Rules, is_technical


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
    assert [route.name for route in visible_routes(app) or ()] == expected
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
