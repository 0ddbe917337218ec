"""Which features an endpoint is tracked for."""

from __future__ import annotations

import functools
from typing import Any
from unittest.mock import MagicMock

import pytest

import usage_instrument as usage
from usage_instrument.capture.registry import declared
from usage_instrument.web.routes import WEBSOCKET, Route, tracked_features
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
