"""Attack: reach a view whose accesses must be recorded first, and leave no record."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import flask_login
import pytest
from flask import Flask
from flask import request as flask_request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app

from usage_instrument import asgi, wsgi
from usage_instrument.errors import ConfigurationError
from usage_instrument.integrations.flask import UsageInstrument
from usage_instrument.testing import CapturedUsage, capture_usage
from usage_instrument.web.audit_policy import AuditPolicy
from usage_instrument.web.rules import Rules

REQUIRED: Any = {"features": {"POST /vault/{n}": "open_vault"}, "audit": {"open_vault": "required"}}


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


def outcomes(captured: CapturedUsage) -> list[str]:
    return [access.outcome for access in captured.accesses]


def vault_app() -> Flask:
    app = Flask("bank")
    app.add_url_rule("/vault/<n>", "vault", lambda n: n, methods=["GET", "POST"])
    return app


def test_a_method_in_lower_case(captured: CapturedUsage) -> None:
    app = wsgi.UsageMiddleware(vault_app(), **REQUIRED)
    environ = {**EnvironBuilder("/vault/4").get_environ(), "REQUEST_METHOD": "post"}  # werkzeug serves it as POST
    assert run_wsgi_app(app, environ)[1] == "200 OK"
    assert outcomes(captured) == ["attempted", "success"]
    assert captured.names == ["open_vault"]


def test_a_method_in_lower_case_over_asgi(captured: CapturedUsage) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:  # an app that compares as Quart does
        assert scope["method"].upper() == "POST"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"open"})

    async def send(message: Any) -> None: ...

    async def receive() -> Any: ...

    scope = {"type": "http", "method": "post", "path": "/vault/4", "headers": [], "query_string": b""}
    asyncio.run(asgi.UsageMiddleware(app, **REQUIRED)(scope, receive, send))
    assert outcomes(captured)[0] == "attempted"


def test_the_attempt_names_the_user_of_the_session(captured: CapturedUsage) -> None:
    class Account(flask_login.UserMixin):  # type: ignore[misc, unused-ignore]
        id = 5

    app, loads = vault_app(), []
    app.secret_key = "secret"

    @flask_login.LoginManager(app).user_loader  # type: ignore[untyped-decorator, unused-ignore]
    def load(user_id: str) -> Account:
        loads.append(user_id)
        return Account()

    @app.post("/login")
    def login() -> str:
        flask_login.login_user(Account())
        return "in"

    UsageInstrument(app, **REQUIRED)
    client = app.test_client()
    client.post("/login")
    client.post("/vault/4")
    assert [(access.outcome, access.user) for access in captured.accesses] == [("attempted", "5"), ("success", "5")]
    assert loads == [], "nothing was loaded for it"


@pytest.mark.parametrize("how", ["X-HTTP-Method-Override", "X-HTTP-Method", "query"])
def test_a_method_override_inside_of_the_middleware(captured: CapturedUsage, how: str) -> None:
    app = vault_app()
    inner = app.wsgi_app

    def override(environ: Any, start_response: Any) -> Any:
        environ["REQUEST_METHOD"] = "POST"
        return inner(environ, start_response)

    client = Client(wsgi.UsageMiddleware(override, **REQUIRED))
    if how == "query":
        client.get("/vault/4?_method=post")
    else:
        client.get("/vault/4", headers={how: "post"})
    assert outcomes(captured) == ["attempted", "success"]


def test_a_copied_environ_that_is_dispatched_again(captured: CapturedUsage) -> None:
    app = vault_app()

    @app.post("/batch")
    def batch() -> str:
        for n in (1, 2, 3):
            environ = {**flask_request.environ, "PATH_INFO": f"/vault/{n}"}
            run_wsgi_app(app.wsgi_app, environ)
        return "done"

    app.wsgi_app = wsgi.UsageMiddleware(app.wsgi_app, **REQUIRED)  # type: ignore[method-assign]
    app.test_client().post("/batch")
    assert outcomes(captured) == ["attempted", "success"] * 3
    assert (captured.count("batch"), captured.count("open_vault")) == (1, 3)


def test_a_copied_scope_that_is_dispatched_again(captured: CapturedUsage) -> None:
    async def vault(request: Request) -> Response:
        return PlainTextResponse("open")

    async def batch(request: Request) -> Response:
        async def send(message: Any) -> None: ...

        for n in (1, 2, 3):
            scope = {**request.scope, "path": f"/vault/{n}"}
            await app(scope, request.receive, send)
        return PlainTextResponse("done")

    app: Any = Starlette(
        routes=[Route("/vault/{n}", vault, methods=["POST"]), Route("/batch", batch, methods=["POST"])]
    )
    app.add_middleware(asgi.UsageMiddleware, **REQUIRED)
    TestClient(app).post("/batch")
    assert outcomes(captured) == ["attempted", "success"] * 3
    assert (captured.count("batch"), captured.count("open_vault")) == (1, 3)


@pytest.mark.parametrize("template", ["/vault/<any(')'):n", "/vault/{n", "/vault/<regex('[0-9]{4}')n>"])
def test_a_template_that_would_be_taken_for_literal_text(template: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be parsed"):
        wsgi.UsageMiddleware(vault_app(), features={template: "open_vault"}, audit={"open_vault": "required"})


def test_converter_arguments_with_brackets(captured: CapturedUsage) -> None:
    features = {"/vault/<regex('[0-9]+(x)'):n>": "open_vault"}
    client = Client(wsgi.UsageMiddleware(vault_app(), features=features, audit={"open_vault": "required"}))
    client.get("/vault/4")
    assert outcomes(captured)[0] == "attempted"


def test_a_very_long_path_may_be_any_required_route(captured: CapturedUsage) -> None:
    rules = Rules({"/vault/{n}": "open_vault", "/log": "read_log"}, None, None)
    policy = AuditPolicy({"open_vault": "required", "read_log": True}, rules, captured.catalog)
    assert policy.at(["/" + "x/" * 5000], "GET") == ("open_vault",)
