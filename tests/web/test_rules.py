"""The grammar of `features`, `include` and `exclude`."""

from __future__ import annotations

from typing import Any

import pytest

from usage_instrument.errors import DeclarationError, FeatureNameError
from usage_instrument.events import shortened
from usage_instrument.web.routes import Route
from usage_instrument.web.rules import Rule, Rules, is_technical


def route(template: str, name: str | None = "view", **more: Any) -> Route:
    return Route(name, (template,), more.pop("local", template), **more)


FOLLOW = route("/events/{id}/follow", "calendar.follow", methods=frozenset({"POST"}))


@pytest.mark.parametrize(
    "key",
    [
        "calendar.follow",
        "POST calendar.follow",
        "/events/{id}/follow",
        "POST /events/{id}/follow",
        "post /events/{id}/follow",
        "  POST   /events/{id}/follow ",
        "/events/<id>/follow",
        "/events/<int:id>/follow",
        "/events/<any(one, two):id>/follow",
        "POST /events/{id:int}/follow",
    ],
)
def test_the_spellings_of_a_key(key: str) -> None:
    assert Rules({key: "chosen"}, None, None).decide(FOLLOW, "POST") == Rule("chosen", explicit=True)


@pytest.mark.parametrize(
    "key",
    [
        "follow",
        "calendar",
        "GET calendar.follow",
        "GET /events/{id}/follow",
        "/events/{event}/follow",
        "/events/7/follow",
        "/events/{id}/follow/",
        "Calendar.follow",
    ],
)
def test_keys_of_other_routes(key: str) -> None:
    assert Rules({key: "chosen"}, None, None).decide(FOLLOW, "POST") == Rule("calendar.follow")


def test_the_more_exact_key_wins() -> None:
    features = {
        "calendar.follow": "by name",
        "/events/{id}/follow": "by template",
        "POST calendar.follow": "by method and name",
        "POST /events/{id}/follow": "by method and template",
    }
    order = []
    while features:
        said = Rules(features, None, None).decide(FOLLOW, "POST").feature
        order.append(said)
        features = {key: value for key, value in features.items() if value != said}
    assert order == ["by method and template", "by method and name", "by template", "by name"]


def test_none_never_counts_and_a_callable_decides_later() -> None:
    def namer(scope: object) -> str:
        return "named"

    rules = Rules({"quiet": None, "loud": namer}, None, None)
    assert rules.decide(route("/q", "quiet"), "GET") == Rule(None, explicit=True)
    assert rules.decide(route("/l", "loud"), "GET") == Rule(namer, explicit=True)
    assert rules.names == []


@pytest.mark.parametrize(
    ("patterns", "matches"),
    [
        (["calendar.*"], True),
        (["*.follow"], True),
        (["*"], True),
        (["/events/*"], True),
        (["/events*"], True),
        (["/events/{id}/*"], True),
        (["/events/<int:id>/follow"], True),
        (["POST /events/*"], True),
        (["POST *"], True),
        (["post /events/*"], True),
        (["GET /events/*"], False),
        (["GET calendar.*"], False),
        (["/event"], False),
        (["/events/"], False),
        (["calendar"], False),
        (["calendar?follow"], False),
        (["/[e]vents/*"], False),
        (["admin.*", "calendar.*"], True),
        ([], False),
    ],
)
def test_patterns(patterns: list[str], matches: bool) -> None:
    included = Rules(None, patterns, None).decide(FOLLOW, "POST").feature
    excluded = Rules(None, None, patterns).decide(FOLLOW, "POST").feature
    assert (included == "calendar.follow", excluded is None) == (matches, matches)


def test_patterns_name_whole_routers_after_every_other_key() -> None:
    def namer(scope: object) -> str:
        return "named"

    features = {
        "orders.*": "orders",
        "/admin/*": None,
        "GET reports.*": namer,
        "*.pay": "late",
        "orders.refund": "refund",
    }
    rules = Rules(features, None, None)

    def decided(template: str, name: str, method: str = "GET") -> Any:
        return rules.decide(route(template, name, methods=frozenset({method})), method)

    assert decided("/orders/{id}", "orders.show") == Rule("orders", explicit=True)
    assert decided("/orders/{id}/pay", "orders.pay") == Rule("orders", explicit=True)
    assert decided("/orders/{id}/refund", "orders.refund") == Rule("refund", explicit=True)
    assert decided("/admin/users", "users") == Rule(None, explicit=True)
    assert decided("/reports", "reports.list") == Rule(namer, explicit=True)
    assert decided("/reports", "reports.make", "POST") == Rule("reports.make")
    assert rules.names == ["orders", "late", "refund"]
    assert Rules({"/shop/*": "shop"}, None, None).decide_path("/shop/3/buy", "POST") == Rule("shop", explicit=True)
    seen = [route("/orders/{id}", "orders.show"), route("/admin/x", "x"), route("/p", "a.pay")]
    assert rules.unmatched(seen) == ["GET reports.*", "orders.refund"]


def test_what_overrides_what() -> None:
    def namer(scope: object) -> str:
        return "named"

    health = route("/health", "health")
    assert Rules(None, None, None).decide(health, "GET").feature is None
    assert Rules(None, ["/health"], None).decide(health, "GET").feature == "health"
    assert Rules(None, ["/health"], ["health"]).decide(health, "GET").feature is None
    assert Rules({"health": "asked"}, [], ["*"]).decide(health, "GET").feature == "asked"
    assert Rules(namer, None, None).decide(health, "GET").feature is None
    assert Rules(namer, ["/health"], None).decide(health, "GET") == Rule(namer, explicit=True)
    assert Rules(namer, None, ["calendar.*"]).decide(FOLLOW, "POST").feature is None


@pytest.mark.parametrize(
    "template",
    [
        "/live", "/ready", "/up", "/_health", "/api/v1/ready", "/api/docs", "/api/openapi.json", "/api/schema/",
        "/api/v1/utils/health-check/", "/favicon.png", "/actuator/health/liveness", "/__heartbeat__", "/q/health/ready",
        "/_dash-component-suites/{package}/{path}", "/metrics/",
        "/health", "/Health", "/healthz", "/health/live", "/health-check", "/api/health", "/api/v1/healthz", "/v2/ping",
        "/livez", "/readyz", "/metrics", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/favicon.ico",
        "/robots.txt", "/-/healthy", "/-/liveness", "/-/readiness", "/health/db", "/api/health-check/redis",
        "/livez/ping", "/_ah/health", "/manifest.json", "/static/site.webmanifest",
    ],
)  # fmt: skip
def test_probes_and_tools_are_excluded(template: str) -> None:
    assert Rules(None, None, None).decide(route(template), "GET").feature is None


@pytest.mark.parametrize(
    "template",
    [
        "/ping/{code}", "/heartbeat/{user}/start", "/docs/cron/", "/livestream", "/users/up", "/my/live",
        "/guide/schema",
        "/", "/healthy-recipes", "/healthcare", "/my/health", "/pings", "/docs/{id}", "/documents", "/metrics/{name}",
        "/events/{id}/metrics", "/health/records", "/my/health/db", "/db", "/status", "/ht/", "/healthy-recipes/db",
        "/{name}/manifest.json", "/manifest",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_probe_counts(template: str) -> None:
    assert not is_technical(template)
    assert Rules(None, None, None).decide(route(template), "GET").feature == "view"


def test_a_probe_is_one_within_its_own_app() -> None:
    assert Rules(None, None, None).decide(route("/admin/docs", local="/docs"), "GET").feature is None
    assert Rules(None, None, None).decide(route("/manual", documentation=True), "GET").feature is None


def test_paths_of_an_unknown_framework() -> None:
    rules = Rules({"POST /events/{id}/follow": "follow", "/a.b": "dot", "name": "never"}, None, None)
    asked = [("/events/7/follow", "POST"), ("/events/7/follow", "GET"), ("/events/7/8/follow", "POST")]
    asked += [("/events//follow", "POST"), ("/a.b", "GET"), ("/a-b", "GET"), ("name", "GET"), ("/", "GET")]
    assert [rules.decide_path(*each).feature for each in asked] == [
        "follow", None, None, None, "dot", None, None, None,
    ]  # fmt: skip


def test_a_callable_for_an_unknown_framework_hears_of_no_probe() -> None:
    def namer(environ: object) -> str:
        return "named"

    rules = Rules(namer, None, ["/internal/*"])
    assert [rules.decide_path(path, "GET").feature for path in ("/x", "/health", "/internal/x")] == [namer, None, None]


def test_names_are_known_from_the_start() -> None:
    assert Rules({"a": "one", "b": "two", "c": "one", "d": None}, None, None).names == ["one", "two"]


async def coroutine_function(scope: object) -> str:
    return "never awaited"


class AsyncCallable:
    async def __call__(self, scope: object) -> str:
        return "never awaited"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (({"a": ""}, None, None), FeatureNameError),
        (({"a": "x" * 101}, None, None), FeatureNameError),
        (({"a": "nul\0"}, None, None), FeatureNameError),
        (({"a": 1}, None, None), DeclarationError),
        (({1: "a"}, None, None), DeclarationError),
        (("a", None, None), DeclarationError),
        (({"a": coroutine_function}, None, None), DeclarationError),
        ((AsyncCallable(), None, None), DeclarationError),
        ((None, "/a/*", None), DeclarationError),
        ((None, [1], None), DeclarationError),
        ((None, None, "/a/*"), DeclarationError),
    ],
)
def test_options_that_cannot_work_are_refused(options: tuple[Any, Any, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Rules(*options)


def test_a_long_name_is_shortened_to_a_stable_unique_one() -> None:
    names = ["calendar." + "admin." * 22 + last for last in ("index", "show")]
    short = [Rules(None, None, None).decide(route("/x", name), "GET").feature for name in names]
    assert short == ["calendar." + "admin." * 13 + "ad~d0954c27c2", "calendar." + "admin." * 13 + "ad~19646229b4"]
    assert [len(str(name)) for name in short] == [100, 100]
    assert shortened("x" * 100) == "x" * 100
