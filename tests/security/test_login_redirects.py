"""Attack: a client writes a `next=` into a redirect, so that what it does is recorded as denied and not counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask import redirect as flask_redirect
from flask import request as flask_request
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, requires
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from werkzeug.test import Client

from usage_instrument import asgi, wsgi
from usage_instrument.errors import DeclarationError
from usage_instrument.testing import CapturedUsage, capture_usage

Send = Callable[[str, str], int]
"""From a method and a URL to the status."""


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


def starlette(**options: Any) -> Send:
    async def pay(request: Request) -> Response:
        return RedirectResponse(request.query_params.get("return_to", "/done"), 303)

    app = Starlette(routes=[Route("/pay/{n}", pay, methods=["GET", "POST"], name="pay")])
    app.add_middleware(asgi.UsageMiddleware, audit={"pay": True}, **options)
    client = TestClient(app, follow_redirects=False)
    return lambda method, url: client.request(method, url).status_code


def flask(**options: Any) -> Send:
    app = Flask("shop")
    app.add_url_rule(
        "/pay/<n>", "pay", lambda n: flask_redirect(flask_request.args.get("return_to", "/done"), 303),
        methods=["GET", "POST"],
    )  # fmt: skip
    client = Client(wsgi.UsageMiddleware(app, audit={"pay": True}, **options))
    return lambda method, url: client.open(url, method=method).status_code


SITES = pytest.mark.parametrize("site", [starlette, flask])
ATTACK = "/pay/4?return_to=/done?next=/pay/4"


@SITES
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_client_does_not_decide_the_outcome(captured: CapturedUsage, site: Any, method: str) -> None:
    assert site()(method, ATTACK) == 303
    assert [access.outcome for access in captured.accesses] == ["success"]
    assert len(captured.uses) == (method == "POST")


@SITES
@pytest.mark.parametrize("login_url", ["/login", ["/signin", "https://id.example.org/login"]])
def test_a_login_page_that_the_app_names_is_a_denial(captured: CapturedUsage, site: Any, login_url: Any) -> None:
    site(login_url=login_url)("POST", "/pay/4?return_to=/login%3Fback=/pay/4")
    assert [access.outcome for access in captured.accesses] == ["denied"]
    assert captured.uses == []


@SITES
def test_a_bare_redirect_to_that_page_refuses_only_who_is_not_signed_in(captured: CapturedUsage, site: Any) -> None:
    site(login_url="/login")("POST", "/pay/4?return_to=/login")
    site(login_url="/login", user=lambda info: "eve")("POST", "/pay/4?return_to=/login")  # such as a logout
    assert [access.outcome for access in captured.accesses] == ["denied", "success"]
    assert [use.user for use in captured.uses] == ["eve"]


def test_the_login_page_of_requires_is_known(captured: CapturedUsage) -> None:
    @requires("authenticated", redirect="enter")
    async def pay(request: Request) -> Response:
        raise AssertionError

    async def enter(request: Request) -> Response:
        return PlainTextResponse("enter")

    class Anonymous:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, "auth": AuthCredentials()}, receive, send)

    app = Starlette(routes=[Route("/pay/{n}", pay, methods=["POST"], name="pay"), Route("/in", enter, name="enter")])
    app.add_middleware(asgi.UsageMiddleware, audit={"pay": True})
    app.add_middleware(Anonymous)
    TestClient(app, follow_redirects=False).post("/pay/4")
    assert [access.outcome for access in captured.accesses] == ["denied"]
    assert captured.uses == []


@pytest.mark.parametrize("login_url", [3, [""], ["/login", None], "https://example.org"])
def test_a_login_page_that_is_none_is_refused(login_url: Any) -> None:
    with pytest.raises((DeclarationError, TypeError)):
        wsgi.UsageMiddleware(Flask("shop"), login_url=login_url)
