"""An access that could not be recorded is a 503 in every framework; an error handler of the app comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import AsyncClient as AsyncDjangoClient
from django.test import Client as DjangoClient
from django.test import override_settings
from django.urls import path as django_path
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from werkzeug.test import Client

import django_site  # noqa: F401 - configures Django
import usage_instrument as usage
from usage_instrument import AuditUnavailable
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.capture.registry import declared
from usage_instrument.integrations.fastapi import instrument
from usage_instrument.integrations.flask import UsageInstrument
from usage_instrument.testing import CapturedUsage, capture_usage
from usage_instrument.wsgi import UsageMiddleware as WSGIMiddleware


class Unavailable(CapturedUsage):
    """A recorder whose database is away."""

    def admit(self, use: Any) -> None:
        raise AuditUnavailable.of(use.feature, "the database is away")


@pytest.fixture(autouse=True)
def away() -> Iterator[None]:
    called.clear()
    with capture_usage(), declared.stand_in(Unavailable(declared)):
        yield


called: list[str] = []


@usage.tracks("open_vault", audit="required")
def open_vault() -> str:
    called.append("open_vault")
    return "open"


@usage.tracks("open_vault", audit="required")
async def open_vault_async() -> str:
    called.append("open_vault")
    return "open"


def is_refusal(status: int, headers: Any, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert (status, headers["Retry-After"], body) == (503, "5", b"Service Unavailable\n")
    assert called == []
    assert "the database is away" in caplog.text  # for the operator of the app, and for no client


def starlette() -> Starlette:
    async def vault(_: Request) -> Response:
        return PlainTextResponse(await open_vault_async())

    async def socket(websocket: WebSocket) -> None:
        await open_vault_async()
        await websocket.accept()

    return Starlette(routes=[Route("/vault", vault), WebSocketRoute("/socket", socket)])


def test_starlette(caplog: pytest.LogCaptureFixture) -> None:
    app = starlette()
    app.add_middleware(UsageMiddleware)
    answer = TestClient(app).get("/vault")
    is_refusal(answer.status_code, answer.headers, answer.content, caplog)


def test_a_websocket(caplog: pytest.LogCaptureFixture) -> None:
    with (
        pytest.raises(WebSocketDisconnect) as closed,
        TestClient(UsageMiddleware(starlette())).websocket_connect("/socket"),
    ):
        pass
    assert closed.value.code == 1013
    assert "the database is away" in caplog.text


def test_fastapi(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()

    @app.get("/vault")
    def vault() -> str:
        return open_vault()

    app.add_middleware(UsageMiddleware)
    answer = TestClient(app).get("/vault")
    is_refusal(answer.status_code, answer.headers, answer.content, caplog)


def test_the_apps_own_answer_is_kept() -> None:
    app = FastAPI()

    @app.get("/vault")
    def vault() -> str:
        return open_vault()

    @app.exception_handler(AuditUnavailable)
    def later(_: Request, __: Exception) -> Response:
        return PlainTextResponse("later", 503)

    app.add_middleware(UsageMiddleware)
    assert TestClient(app).get("/vault").text == "later"


def flask() -> Flask:
    app = Flask("vault")
    app.add_url_rule("/vault", "vault", lambda: open_vault())
    return app


def test_flask(caplog: pytest.LogCaptureFixture) -> None:
    app = flask()
    UsageInstrument(app)
    answer = app.test_client().get("/vault")
    is_refusal(answer.status_code, answer.headers, answer.data, caplog)


def test_the_flask_apps_own_answer_is_kept() -> None:
    app = flask()
    app.register_error_handler(AuditUnavailable, lambda _: ("later", 503))
    UsageInstrument(app)
    assert app.test_client().get("/vault").text == "later"


def test_wsgi(caplog: pytest.LogCaptureFixture) -> None:
    def plain(environ: Any, start_response: Any) -> list[bytes]:
        body = open_vault().encode()
        start_response("200 OK", [])
        return [body]

    answer = Client(WSGIMiddleware(plain)).get("/vault")
    is_refusal(answer.status_code, answer.headers, answer.data, caplog)


async def _avault(_: Any) -> HttpResponse:
    return HttpResponse(await open_vault_async())


class Site:
    """A Django site, as its URLs."""

    urlpatterns = (
        django_path("vault", lambda _: HttpResponse(open_vault())),
        django_path("avault", _avault),
    )


def _open(_: Any) -> HttpResponse:
    called.append("open")
    return HttpResponse("open")


async def _aopen(_: Any) -> HttpResponse:
    return _open(_)


class Plain:
    """A Django site that leaves it to the middleware."""

    urlpatterns = (django_path("open", _open, name="open"), django_path("aopen", _aopen, name="open"))


@pytest.mark.parametrize("path", ["/open", "/aopen"])
def test_django_by_the_middleware(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(ROOT_URLCONF=Plain, USAGE_INSTRUMENT={"audit": {"open": "required"}}):
        answer = DjangoClient().get(path)
    is_refusal(answer.status_code, answer.headers, answer.content, caplog)


@pytest.mark.parametrize(("audit", "status"), [("required", 503), (True, 200)])
def test_a_name_that_cannot_be_told_forbids_only_what_may_be_required(audit: object, status: int) -> None:
    def broken(_: Any) -> str:
        raise LookupError

    options = {"features": {"/open": broken}, "audit": {"vault": audit}}
    with override_settings(ROOT_URLCONF=Plain, USAGE_INSTRUMENT=options):
        assert DjangoClient().get("/open").status_code == status


def test_async_django_by_the_middleware(caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(ROOT_URLCONF=Plain, USAGE_INSTRUMENT={"audit": {"open": "required"}}):
        answer = asyncio.run(AsyncDjangoClient().get("/aopen"))
    is_refusal(answer.status_code, answer.headers, answer.content, caplog)


def test_flask_by_the_middleware(caplog: pytest.LogCaptureFixture) -> None:
    app = flask()
    UsageInstrument(app, features={"/vault": "vault"}, audit={"vault": "required"})
    answer = app.test_client().get("/vault")
    is_refusal(answer.status_code, answer.headers, answer.data, caplog)


def test_fastapi_by_the_middleware(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.add_api_route("/vault", lambda: called.append("open"))
    instrument(app, features={"/vault": "vault"}, audit={"vault": "required"})
    answer = TestClient(app).get("/vault")
    is_refusal(answer.status_code, answer.headers, answer.content, caplog)


@pytest.mark.parametrize("path", ["/vault", "/avault"])
def test_django(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(ROOT_URLCONF=Site):
        answer = DjangoClient().get(path)
    is_refusal(answer.status_code, answer.headers, answer.content, caplog)


def test_what_has_begun_is_not_answered_twice() -> None:
    async def late(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await open_vault_async()

    with pytest.raises(AuditUnavailable):
        TestClient(UsageMiddleware(late)).get("/")
