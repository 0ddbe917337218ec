"""Who may look, and that nobody else sees anything."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from usage_instrument.dashboard import asgi as by_asgi
from usage_instrument.dashboard import wsgi as by_wsgi
from usage_instrument.dashboard.results import BY_PAGE
from usage_instrument.errors import ConfigurationError

from .conftest import Past
from .visitor import Answer, asgi, wsgi

PATHS = [
    "/",
    "/feature",
    "/user",
    "/search",
    "/anomalies",
    "/nothing",
    "",
    *(f"/{name}" for name in BY_PAGE),
    *(f"/{n}.csv" for n in BY_PAGE),
]


class Redirect:
    """What a login_required answers: as truthy as anything."""


def no(_: Any) -> bool:
    return False


def nothing(_: Any) -> None:
    return None


def a_redirect(_: Any) -> Any:
    return Redirect()


def one(_: Any) -> Any:
    return 1


def broken(_: Any) -> bool:
    raise PermissionError("secret reason")


async def later_no(_: Any) -> bool:
    return False


async def later_broken(_: Any) -> bool:
    raise PermissionError("secret reason")


class Later:
    async def __call__(self, scope: Any) -> bool:
        return False


def hidden(_: Any) -> Any:
    return later_no(None)


def refused(answer: Answer) -> None:
    assert answer.status == 403, answer.text
    for secret in ("search", "export", "secret reason", "Traceback", "sqlite", "reads"):
        assert secret not in answer.text
    assert "You may not look at this" in answer.text
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "authorize",
    [no, nothing, a_redirect, one, broken, later_no, later_broken, Later(), hidden, lambda scope: later_no(0)],
)
def test_only_true_lets_in_by_asgi(
    small_past: Past, authorize: Callable[[Any], Any], statements: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = by_asgi.Dashboard(small_past.url, authorize=authorize)
    with statements() as found, caplog.at_level(logging.CRITICAL, "usage_instrument"):
        for path in PATHS:
            refused(asgi(app, path, feature="search", user=str(small_past.user_ids[0]), key="layout", q="search"))
    assert found == [], "not even a question was asked"


@pytest.mark.parametrize("authorize", [no, nothing, a_redirect, one, broken])
def test_only_true_lets_in_by_wsgi(small_past: Past, authorize: Callable[[Any], Any], statements: Any) -> None:
    app = by_wsgi.Dashboard(small_past.url, authorize=authorize)
    with statements() as found:
        for path in PATHS:
            refused(wsgi(app, path, feature="search", user=str(small_past.user_ids[0]), key="layout", q="search"))
    assert found == []


@pytest.mark.parametrize("authorize", [later_no, Later()])
def test_nobody_awaits_in_a_wsgi_app(small_past: Past, authorize: Any) -> None:
    with pytest.raises(ConfigurationError, match="make authorize an ordinary function"):
        by_wsgi.Dashboard(small_past.url, authorize=authorize)


def test_a_promise_is_no_yes_in_a_wsgi_app(small_past: Past) -> None:
    refused(wsgi(by_wsgi.Dashboard(small_past.url, authorize=hidden), "/"))


@pytest.mark.parametrize("dashboard", [by_asgi.Dashboard, by_wsgi.Dashboard])
def test_there_is_no_dashboard_without_authorize(small_past: Past, dashboard: Any) -> None:
    with pytest.raises(TypeError, match="authorize"):
        dashboard(small_past.url)
    for wrong in (None, True, "admin"):
        with pytest.raises(ConfigurationError, match="needs to know who may look: pass authorize="):
            dashboard(small_past.url, authorize=wrong)


def test_what_authorize_gets(small_past: Past) -> None:
    seen: list[Any] = []

    def look(given: Any) -> bool:
        seen.append(given)
        return True

    async def look_later(given: Any) -> bool:
        seen.append(given)
        return True

    assert asgi(by_asgi.Dashboard(small_past.url, authorize=look), "/search", mount="/admin").status == 200
    assert asgi(by_asgi.Dashboard(small_past.url, authorize=look_later), "/search", mount="/admin").status == 200
    assert wsgi(by_wsgi.Dashboard(small_past.url, authorize=look), "/search", mount="/admin").status == 200
    assert [given.get("path") or given["PATH_INFO"] for given in seen] == ["/admin/search", "/admin/search", "/search"]


def test_says_why_in_the_log(small_past: Past, caplog: pytest.LogCaptureFixture) -> None:
    asgi(by_asgi.Dashboard(small_past.url, authorize=broken), "/")
    asgi(by_asgi.Dashboard(small_past.url, authorize=a_redirect), "/")
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "the dashboard's authorize failed, so nobody gets to see it"
    assert "returned a value of type Redirect and only True lets anybody in" in said[1]


def test_a_websocket_is_closed(small_past: Past) -> None:
    import asyncio

    sent: list[Any] = []

    async def visit() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        scope = {"type": "websocket", "path": "/", "headers": []}
        await by_asgi.Dashboard(small_past.url, authorize=no)(scope, receive, send)

    asyncio.run(visit())
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("kind", [by_asgi, by_wsgi])
def test_a_refusal_offers_the_login(small_past: Past, kind: Any) -> None:
    visit: Any = asgi if kind is by_asgi else wsgi
    options: dict[str, Any] = {"authorize": no, "authorize_audit": no, "login_url": "/login?next={next}"}
    app = kind.Dashboard(small_past.url, **options)
    for path, parameters, leads in (
        ("/", {}, "/admin/usage/"),
        ("/feature", {"feature": "a&b"}, "/admin/usage/feature?feature=a%26b"),
        ("/audit", {}, "/admin/usage/audit"),
        ("/é%?#", {}, "/admin/usage/%C3%A9%25%3F%23"),
    ):
        answer = visit(app, path, mount="/admin/usage", **parameters)
        refused(answer)
        (link,) = [a["href"] for a in answer.page.all("a") if (a["href"] or "").startswith("/login")]
        assert dict(parse_qsl(urlsplit(link or "").query)) == {"next": leads}
    # A browser takes two slashes at the start for another host.
    (link,) = [a["href"] for a in visit(app, "//evil.example/").page.all("a") if "login" in (a["href"] or "")]
    assert link == "/login?next=%2Fevil.example%2F"


@pytest.mark.parametrize("login_url", ["javascript:alert(1)", "//evil.example", "/\\evil.example", "", 7, "login"])
def test_a_login_is_at_an_address(small_past: Past, login_url: Any) -> None:
    with pytest.raises(ConfigurationError, match="login_url is a path or an http"):
        by_wsgi.Dashboard(small_past.url, authorize=no, login_url=login_url)
